"""The runtime that `kubooth run` uses when none is given: this machine, its files and buckets, generous limits."""

from __future__ import annotations

from collections.abc import Mapping

from kubooth_operator.api.job import Metadata
from kubooth_operator.api.limits import LimitsSpec
from kubooth_operator.api.runtime import CatalogueModel, EncodersSpec, PersonalizationRuntime, RuntimeSpec

LOCAL_RUNTIME_NAME = "local"
EVERYWHERE = ("s3://", "file:///")


def local_runtime(models: Mapping[str, str], encoders: Mapping[str, str] | None = None) -> PersonalizationRuntime:
    """A runtime without limits, whose catalogue is `models` (name to URI); `encoders`: role (dino, ...) to URI."""
    return PersonalizationRuntime(
        api_version="kubooth.io/v1alpha1",
        kind="PersonalizationRuntime",
        metadata=Metadata(name=LOCAL_RUNTIME_NAME),
        spec=RuntimeSpec(
            models=tuple(CatalogueModel(name=name, uri=uri) for name, uri in models.items()),
            encoders=EncodersSpec(**(encoders or {})),
            limits=LimitsSpec(read_prefixes=EVERYWHERE, write_prefixes=EVERYWHERE),
        ),
    )
