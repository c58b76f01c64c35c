"""Every YAML block of the pages is right: jobs and runtimes by our models, values by the chart, others by a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from bed.controlplane import ControlPlane
from bed.helm import CHART, Helm
from click.testing import CliRunner
from docs.manual import ROOT, Block, blocks

from kubooth_cli.main import main
from kubooth_operator.api import PersonalizationJob, PersonalizationRuntime, SpecError
from kubooth_operator.api.load import parse

GROUP = "kubooth.io/v1alpha1"
BLOCKS = blocks(languages=("yaml",))
SMALLEST_JOB: dict[str, Any] = {
    "subject": {"className": "dog", "images": "s3://photos/rex/"},
    "model": {"uri": "s3://models/m/"},
    "output": {"uri": "s3://models/o/"},
}


def kind_of(block: Block) -> str:
    """What a block is: values of the chart, one of our kinds, a part of one, or an object of Kubernetes."""
    if block.title.startswith("values"):
        return "values"
    (document,) = yaml.safe_load_all(block.text)
    if "apiVersion" not in document:
        return "part"
    return "ours" if document["apiVersion"] == GROUP else "kubernetes"


def of_kind(kind: str) -> list[Any]:
    return [pytest.param(block, id=str(block)) for block in BLOCKS if kind_of(block) == kind]


def test_no_kind_is_missing() -> None:
    assert {kind_of(block) for block in BLOCKS} == {"values", "ours", "part", "kubernetes"}


@pytest.mark.parametrize("block", of_kind("ours"))
def test_jobs_and_runtimes(block: Block, tmp_path: Path) -> None:
    (tmp_path / "manifest.yaml").write_text(block.text)
    done = CliRunner().invoke(main, ["validate", str(tmp_path / "manifest.yaml")])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("block", of_kind("part"))
def test_parts_of_jobs_and_runtimes(block: Block) -> None:
    part = yaml.safe_load(block.text)
    assert set(part) == {"spec"}, f"{block}: give it a title, or say its apiVersion"
    whole = {"apiVersion": GROUP, "metadata": {"name": "part"}}
    problems = []
    for kind, spec in ((PersonalizationRuntime, part["spec"]), (PersonalizationJob, SMALLEST_JOB | part["spec"])):
        try:
            parse({**whole, "kind": kind.__name__, "spec": spec}, kind)
            return
        except SpecError as error:
            problems.append(str(error))
    pytest.fail("\n".join(problems))


@pytest.mark.parametrize("block", of_kind("values"))
def test_values_of_the_chart(block: Block, helm: Helm, tmp_path: Path) -> None:
    """By the chart's schema; then the runtime that is rendered from them, by our models."""
    (tmp_path / "values.yaml").write_text(block.text)
    rendered = helm("template", "kubooth", CHART, "--kube-version", "1.30", "--values", tmp_path / "values.yaml").stdout
    (runtime,) = (each for each in yaml.safe_load_all(rendered) if each and each["kind"] == "PersonalizationRuntime")
    parse({**runtime, "metadata": {"name": runtime["metadata"]["name"]}}, PersonalizationRuntime)


@pytest.mark.parametrize("block", of_kind("kubernetes"))
def test_objects_of_kubernetes(block: Block, api_server: ControlPlane, tmp_path: Path) -> None:
    """The API server takes them, unknown fields and all refused."""
    document = yaml.safe_load(block.text)
    document["metadata"]["namespace"] = "default"  # the one that is there
    (tmp_path / "object.yaml").write_text(yaml.safe_dump(document))
    api_server.kubectl("create", "--dry-run=server", "--validate=strict", "-f", str(tmp_path / "object.yaml"))


def test_pages_name_files_that_are_there() -> None:
    """Files that the blocks of commands read are of this repository, or shown on the same page."""
    from docs.manual import commands

    for block, line in commands():
        for name in [word for word in line.replace("=", " ").split() if word.endswith(".yaml") and "*" not in word]:
            shown = {each.title for each in blocks(block.page, languages=("yaml",))}
            assert (ROOT / name).exists() or name in shown | {"my-job.yaml", "job.yaml", "runtime.yaml"}, (
                f"{block}: {line}"
            )
