"""Writes `crds/*.yaml` from the models: `python -m kubooth_operator.crd [--check] [--folder crds]`.

`--check` writes nothing, compares, and exits 1 where a file is not what the models say.
"""

from __future__ import annotations

import argparse
import sys
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from kubooth_operator.api.fields import Part
from kubooth_operator.api.job import GROUP, VERSION, PersonalizationJob
from kubooth_operator.api.runtime import PersonalizationRuntime
from kubooth_operator.schema import structural_schema

HEADER = "# Generated from the models by `python -m kubooth_operator.crd`; edit those instead.\n"


def main(arguments: list[str] | None = None) -> int:
    """Writes or checks the files; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m kubooth_operator.crd", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("crds"), help="where the files are (default: crds)")
    parser.add_argument("--check", action="store_true", help="only compare; exit 1 where a file differs")
    options = parser.parse_args(arguments)
    stale = []
    for name, text in files().items():
        path = options.folder / name
        if options.check:
            if not path.is_file() or path.read_text() != text:
                stale.append(str(path))
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    if stale:
        print(f"not what the models say: {', '.join(stale)}; run python -m kubooth_operator.crd", file=sys.stderr)
    return 1 if stale else 0


@cache
def files() -> dict[str, str]:
    """File name to text of every CustomResourceDefinition."""
    return {
        f"{GROUP}_{definition['spec']['names']['plural']}.yaml": HEADER + _yaml(definition)
        for definition in (job_definition(), runtime_definition())
    }


def job_definition() -> dict[str, Any]:
    """The CustomResourceDefinition of PersonalizationJob."""
    return _definition(
        PersonalizationJob,
        short_name="pjob",
        scope="Namespaced",
        categories=["all", "kubooth"],
        status=True,
        columns=[
            _column("Phase", ".status.phase", "Where the job stands."),
            _column("Method", ".spec.method", "How the model is personalized."),
            _column("Step", ".status.progress.step", "Optimizer steps done.", type_="integer"),
            _column("Progress", ".status.progress.summary", "Steps done, of all, and percent."),
            _column("ETA", ".status.progress.eta", "Time left for training."),
            _column("Age", ".metadata.creationTimestamp", "Time since the job was made.", type_="date"),
            _column("Loss", ".status.progress.loss", "Mean loss over the last steps.", type_="number", wide=True),
            _column("Output", ".status.output.uri", "Where the result is.", wide=True),
            _column("Reason", ".status.reason", "Why the job stands where it does.", wide=True),
        ],
    )


def runtime_definition() -> dict[str, Any]:
    """The CustomResourceDefinition of PersonalizationRuntime."""
    return _definition(
        PersonalizationRuntime,
        short_name="prt",
        scope="Cluster",
        categories=["kubooth"],
        status=False,
        columns=[
            _column("Accelerator", ".spec.accelerator.resource", "Resource name of the devices."),
            _column("Per node", ".spec.accelerator.perNode", "Devices of a node.", type_="integer"),
            _column("Max devices", ".spec.limits.devices", "Most devices of a job.", type_="integer"),
            _column("Age", ".metadata.creationTimestamp", "Time since the runtime was made.", type_="date"),
            _column("Image", ".spec.image", "Trainer image.", wide=True),
        ],
    )


def _definition(
    kind: type[Part], *, short_name: str, scope: str, categories: list[str], status: bool, columns: list[dict[str, Any]]
) -> dict[str, Any]:
    singular = kind.__name__.lower()
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": columns,
        **({"subresources": {"status": {}}} if status else {}),
        "schema": {"openAPIV3Schema": structural_schema(kind)},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{singular}s.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": kind.__name__,
                "listKind": f"{kind.__name__}List",
                "plural": f"{singular}s",
                "singular": singular,
                "shortNames": [short_name],
                "categories": categories,
            },
            "scope": scope,
            "versions": [version],
        },
    }


def _column(name: str, path: str, description: str, *, type_: str = "string", wide: bool = False) -> dict[str, Any]:
    column = {"name": name, "type": type_, "jsonPath": path, "description": description}
    return {**column, "priority": 1} if wide else column


class _Dumper(yaml.SafeDumper):
    """Plain YAML without anchors: equal parts are written out each time."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _yaml(value: Any) -> str:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


if __name__ == "__main__":
    sys.exit(main())
