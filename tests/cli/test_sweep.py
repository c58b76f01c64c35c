"""`kubooth sweep`: what is refused before anything starts, and in which order and with what the runs are made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kubooth_cli.plan import PlanError
from kubooth_cli.sweep_file import SweepOptions, plan_sweep, read_sweep
from kubooth_trainer.claim import Identity
from kubooth_trainer.publish import Manifest

EXAMPLES = Path(__file__).parents[2] / "examples" / "ablations"
JOB = """\
apiVersion: kubooth.io/v1alpha1
kind: PersonalizationJob
metadata: {name: rex}
spec:
  subject: {className: dog, images: "file:photos/"}
  model: {uri: "file:base/"}
  output: {uri: "file:out/"}
"""


def planned(folder: Path, text: str) -> Any:
    (folder / "job.yaml").write_text(JOB)
    file = folder / "sweep.yaml"
    file.write_text(text)
    return plan_sweep(file, read_sweep(file), SweepOptions(output=folder / "results", devices=1))


def test_variants_run_in_the_given_order_each_with_all_seeds(tmp_path: Path) -> None:
    text = "{base: job.yaml, seeds: [5, 3], variants: [{name: b, set: {training.steps: 7}}, {name: a}]}"
    runs = planned(tmp_path, text)
    assert [run.name for run in runs] == ["b-seed-5", "b-seed-3", "a-seed-5", "a-seed-3"]
    assert [run.plan.config.training.seed for run in runs] == [5, 3, 5, 3]
    assert [run.plan.config.training.steps for run in runs][:3] == [7, 7, 800]
    assert runs[0].plan.config.output.uri == (tmp_path / "results" / "b-seed-5").as_uri()
    assert len({run.plan.workdir for run in runs}) == 4


def test_a_job_may_stand_in_the_sweep_itself(tmp_path: Path) -> None:
    indented = "".join(f"  {line}\n" for line in JOB.splitlines())
    (run,) = planned(tmp_path, f"base:\n{indented}variants: [{{name: a, set: {{prior.enabled: false}}}}]")
    assert run.plan.config.subject.images == (tmp_path / "photos").as_uri() + "/"
    assert not run.plan.config.prior.enabled


REFUSED = [
    ("no-variants", "{base: job.yaml, variants: []}", ["variants: "]),
    ("twice", "{base: job.yaml, variants: [{name: a}, {name: a}]}", ["a is given twice"]),
    ("name", "{base: job.yaml, variants: [{name: ../a}]}", ["variants[0].name: "]),
    ("unknown", "{base: job.yaml, variant: [{name: a}]}", ["variants: Field required", "variant: Extra"]),
    ("a-job", JOB, ["is a PersonalizationJob, not a sweep"]),
    ("no-base", "{base: absent.yaml, variants: [{name: a}]}", ["variant a: ", "cannot be read"]),
    (
        "all-at-once",
        "{base: job.yaml, variants: [{name: a, set: {training.steps: -1}}, {name: b},"
        " {name: c, set: {prior.wieght: 1}}]}",
        ["variant a: ", "spec.training.steps", "variant c: ", "spec.prior.wieght"],
    ),
]


@pytest.mark.parametrize(("text", "words"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_what_is_wrong_is_said_before_anything_starts(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(PlanError) as refused:
        planned(tmp_path, text)
    for each in words:
        assert each in str(refused.value)
    assert "variant b" not in str(refused.value)


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.yaml")), ids=lambda file: file.name)
def test_examples_can_be_planned(file: Path, tmp_path: Path) -> None:
    runs = plan_sweep(file, read_sweep(file), SweepOptions(output=tmp_path, devices=1))
    assert len({run.plan.config.digest() for run in runs}) == len(runs) >= 5


def test_place_of_another_job_is_refused(kubooth: Any) -> None:
    (kubooth.folder / "sweep.yaml").write_text(json.dumps({"base": "job.yaml", "variants": [{"name": "a"}]}))
    (kubooth.folder / "here" / "a").mkdir(parents=True)
    (kubooth.folder / "here" / "a" / "letter.txt").write_text("mine")
    done = kubooth.call("success", "sweep", "sweep.yaml", "--output", "here")
    assert done.returncode == 2
    assert "variant a: output.uri: " in done.stderr


def test_a_result_that_cannot_be_laid_beside_others_is_named(kubooth: Any) -> None:
    (kubooth.folder / "sweep.yaml").write_text(json.dumps({"base": "job.yaml", "variants": [{"name": "a"}]}))
    file, results = kubooth.folder / "sweep.yaml", kubooth.folder / "results"
    (run,) = plan_sweep(file, read_sweep(file), SweepOptions(output=results, devices=1))
    manifest = Manifest(
        identifier="sks", seed=0, created="2026-11-28T00:00:00Z", versions={}, timings={}, files=(),
        config=run.plan.config.model_dump(mode="json"), job=Identity.of(run.plan.config),
    )  # fmt: skip
    (results / "a").mkdir(parents=True)
    (results / "a" / "manifest.json").write_bytes(manifest.to_json())  # as an older release left it: no report.json
    done = kubooth.call("success", "sweep", "sweep.yaml", "--output", "results", "--devices", "1")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "report.json: is not there, as an older release made this result" in done.stderr
