"""Every example YAML is valid and resolves as its comments say."""

from __future__ import annotations

from pathlib import Path

import pytest

from kubooth_operator.api import PersonalizationJob, load_any, load_job, load_runtime, local_runtime
from kubooth_operator.resolve import Target, resolve

EXAMPLES = Path(__file__).parents[2] / "examples"
LOCAL = local_runtime({"small-world": "file:///models/small-world"})


def here(devices: int | None) -> Target:
    return Target(
        workdir="/work",
        checkpoints_uri="file:///work/checkpoints",
        base_uri=EXAMPLES.as_uri() + "/",
        devices=devices,
        output=None,
        attempt=0,
        namespace="default",
    )


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_every_example_is_valid(path: Path) -> None:
    load_any(path)


@pytest.mark.parametrize("devices", [1, 2, 4])
@pytest.mark.parametrize("name", ["quickstart", "dog"])
def test_the_local_examples_resolve_on_one_or_more_devices(name: str, devices: int) -> None:
    config = resolve(load_job(EXAMPLES / f"{name}.yaml"), LOCAL, here(devices))
    assert config.job.name == name
    assert config.model.uri == "file:///models/small-world"
    assert config.subject.images.startswith(EXAMPLES.as_uri())
    assert config.output.uri == f"{EXAMPLES.parent.as_uri()}/outputs/{name}/"
    assert config.training.resolution is None
    assert "a photo of a {class}" in config.evaluation.prompts


def test_the_ten_line_job_resolves_with_the_example_runtime() -> None:
    job, runtime = load_job(EXAMPLES / "stable-diffusion.yaml"), load_runtime(EXAMPLES / "runtime.yaml")
    assert isinstance(job, PersonalizationJob)
    config = resolve(job, runtime, here(None))
    assert (config.training.steps, config.training.learning_rate, config.training.precision) == (800, 5e-6, "BF16")
    assert len((EXAMPLES / "stable-diffusion.yaml").read_text().replace("\n\n", "\n").splitlines()) <= 11
