"""The job that would give this result again: a `PersonalizationJob` with every value as it was resolved.

Read by the report and the model card. The mirror image of the operator's `resolve`; a test feeds one to the other.
"""

from __future__ import annotations

from typing import Any

import yaml

from kubooth_trainer.config import TrainConfig


def repeat_job(config: TrainConfig, *, identifier: str) -> str:
    """YAML of a job that names every setting, with the identifier that was used in place of a new draw.

    Where the number of devices, the storage endpoint and the encoders come from is the runtime's business, so they
    are left out, as is what this run left to its machine (`Auto`).
    """
    values = config.model_dump(
        mode="json",
        include={"model", "subject", "prior", "training", "parallelism", "evaluation", "output"},
        exclude_none=True,
    )
    values["model"] = {"name": config.model.name} if config.model.name else {"uri": config.model.uri}
    values["subject"]["identifier"] = identifier
    del values["evaluation"]["encoders"]
    values["checkpoints"] = {"every_steps": config.checkpoints.every_steps, "keep": config.checkpoints.keep}
    values["parallelism"] = {"zero_stage": config.parallelism.zero_stage, "offload": config.parallelism.offload}
    if config.training.ema is not None:
        values["training"]["ema"] = {"enabled": True, "decay": config.training.ema.decay}
    order = ("method", "model", "subject", "prior", "training", "parallelism", "checkpoints", "evaluation", "output")
    values["method"] = config.method
    document = {
        "apiVersion": "kubooth.io/v1alpha1",
        "kind": "PersonalizationJob",
        "metadata": {"name": config.job.name},
        "spec": {name: _in_camel_case(values[name]) for name in order},
    }
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)


def camel_case(name: str) -> str:
    """`learning_rate` as users write it: `learningRate`."""
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def _in_camel_case(value: Any) -> Any:
    """All names inside of a value; other text is left alone."""
    if isinstance(value, dict):
        return {camel_case(name): _in_camel_case(part) for name, part in value.items()}
    return value
