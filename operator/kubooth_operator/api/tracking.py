"""`spec.tracking` of a runtime: where curves of trainings are shown. All of it is off unless it is set."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from kubooth_operator.api.fields import Part, preset, required, setting
from kubooth_operator.api.rules import Rule, server_rule
from kubooth_operator.api.scalars import Dns1123Subdomain

Folder = Annotated[str, Field(min_length=1, max_length=512, pattern=r"^/[^:]*$")]
ServerUrl = Annotated[str, Field(min_length=1, max_length=512)]
Title = Annotated[str, Field(min_length=1, max_length=128)]


class MlflowSpec(Part):
    """An MLflow tracking server."""

    rules: ClassVar[tuple[Rule, ...]] = (server_rule("uri"),)

    uri: ServerUrl = required("Address of the server (http:// or https://), as pods reach it.")
    experiment: Title = preset("kubooth", "Experiment that runs go to; it is made where it is missing.")


class WandbSpec(Part):
    """A project on Weights & Biases."""

    rules: ClassVar[tuple[Rule, ...]] = (server_rule("url"),)

    project: Title = required("Project that runs go to.")
    entity: Title | None = setting("Team or user that owns the project.", absent="that of the key")
    url: ServerUrl | None = setting("A server of your own.", absent="the public service")


class TrackingSpec(Part):
    """Where curves of trainings are shown. The trainer's image needs the client of each that is set."""

    tensorboard: Folder | None = setting(
        "Folder for TensorBoard's event files, one folder a run: below the mountPath of a volume of the runtime.",
        absent="off",
    )
    mlflow: MlflowSpec | None = setting("MLflow.", absent="off")
    wandb: WandbSpec | None = setting("Weights & Biases.", absent="off")
    credentials_secret: Dns1123Subdomain | None = setting(
        "Secret in the job's namespace with, as far as they are needed, MLFLOW_TRACKING_USERNAME, "
        "MLFLOW_TRACKING_PASSWORD, MLFLOW_TRACKING_TOKEN and WANDB_API_KEY.",
        absent="none",
    )
