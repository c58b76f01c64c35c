"""`kubooth validate`: what it prints and how it exits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from api.bad_specs import BAD_JOBS, GOOD_JOB, GOOD_RUNTIME, BadSpec, job, runtime
from click.testing import CliRunner, Result

from kubooth_cli.validate import validate_command


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(GOOD_JOB))
    (tmp_path / "runtime.yaml").write_text(yaml.safe_dump(GOOD_RUNTIME))
    return tmp_path


def validate(*arguments: str) -> Result:
    return CliRunner().invoke(validate_command, list(arguments))


def test_good_files_are_ok(folder: Path) -> None:
    result = validate("job.yaml", "runtime.yaml")
    assert (result.exit_code, result.output) == (0, "job.yaml: ok\nruntime.yaml: ok\n")


def test_all_errors_of_all_files_are_listed(folder: Path) -> None:
    (folder / "bad.yaml").write_text(yaml.safe_dump(job(training__steps=0, trainig=1)))
    result = validate("bad.yaml", "job.yaml", "missing.yaml")
    assert result.exit_code == 2
    assert result.output.splitlines() == [
        "bad.yaml: spec.training.steps: should be greater than or equal to 1, got 0",
        "bad.yaml: spec.trainig: is not a known field; did you mean training?",
        "job.yaml: ok",
        "missing.yaml: cannot be read: No such file or directory",
    ]


@pytest.mark.parametrize("case", BAD_JOBS[::6], ids=[case.id for case in BAD_JOBS[::6]])
def test_the_table_of_bad_specs_is_refused(case: BadSpec, folder: Path) -> None:
    (folder / "bad.yaml").write_text(yaml.safe_dump(case.manifest()))
    result = validate("bad.yaml")
    assert (result.exit_code, result.output) == (2, f"bad.yaml: {case.path}: {case.message}\n")


def test_a_label_that_the_runtime_requires(folder: Path) -> None:
    (folder / "strict.yaml").write_text(yaml.safe_dump(runtime(limits__requiredLabels=["team"])))
    result = validate("job.yaml", "--runtime", "strict.yaml")
    name = runtime()["metadata"]["name"]
    assert result.exit_code == 2
    assert f"job.yaml: metadata.labels: must have team, with a value: runtime {name} requires it" in result.output


def test_json_lists_paths_and_messages(folder: Path) -> None:
    (folder / "bad.yaml").write_text(yaml.safe_dump(job(training__steps=0)))
    result = validate("-o", "json", "bad.yaml", "job.yaml")
    assert result.exit_code == 2
    assert json.loads(result.output) == [
        {
            "file": "bad.yaml",
            "ok": False,
            "errors": [{"path": "spec.training.steps", "message": "should be greater than or equal to 1, got 0"}],
        },
        {"file": "job.yaml", "ok": True, "errors": []},
    ]


def test_a_runtime_brings_its_limits(folder: Path) -> None:
    result = validate("job.yaml", "--runtime", "runtime.yaml")
    assert result.exit_code == 2
    assert result.output.splitlines() == [
        "job.yaml: spec.subject.images: runtime default lets jobs read from s3://photos/default/ only, "
        "got s3://photos/rex/",
        "job.yaml: spec.model.uri: runtime default lets jobs read from s3://photos/default/ only, "
        "got s3://models/stable-diffusion-v1-5/",
    ]


def test_a_bad_runtime_is_said_and_the_jobs_are_still_checked(folder: Path) -> None:
    (folder / "bad.yaml").write_text("kind: PersonalizationRuntime\napiVersion: kubooth.io/v1alpha1\n")
    result = validate("job.yaml", "--runtime", "bad.yaml")
    assert result.exit_code == 2
    assert result.output.splitlines() == [
        "bad.yaml: metadata: is required",
        "bad.yaml: spec: is required",
        "job.yaml: ok",
    ]


def test_overrides_are_applied_first(folder: Path) -> None:
    result = validate("job.yaml", "--set", "training.steps=0")
    assert (result.exit_code, result.output) == (
        2,
        "job.yaml: spec.training.steps: should be greater than or equal to 1, got 0\n",
    )


def test_what_this_version_does_not_do_is_said(folder: Path) -> None:
    (folder / "lora.yaml").write_text(yaml.safe_dump(job(method="LoRA")))
    result = validate("lora.yaml")
    assert result.output == "lora.yaml: spec.method: method LoRA is not supported by this version\n"
    assert result.exit_code == 2


def test_help_says_what_it_does() -> None:
    output = validate("--help").output
    assert "Exit code" in output
    assert "kubooth validate job.yaml --runtime runtime.yaml" in output
