"""Every bad job and runtime of the table is refused by the real API server too: at the same field, in one sentence.

Rules and bounds in the same words as `kubooth validate` says them; types and choices in the server's own.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from api.bad_specs import BAD_JOBS, BAD_RUNTIMES, GOOD_JOB, GOOD_RUNTIME, BadSpec
from bed.controlplane import ControlPlane
from click.testing import CliRunner

from kubooth_cli.validate import validate_command

CASES = BAD_JOBS + BAD_RUNTIMES
BOUND = ("should ", "must have at most 64 items")
"""How bounds are put on both sides. (Of a long text the server says bytes, and counts characters.)"""
NOT_CHECKED = "<nil>: Invalid value: null: some validation rules were not checked because the object was invalid"
SAID_TWICE = {"name-ends-with-dash", "steps-with-fraction"}
"""The server has rules of its own for names, and counts a fraction as a wrong type and a wrong format."""


def test_the_table_has_forty_jobs() -> None:
    assert len(BAD_JOBS) >= 40


@pytest.mark.parametrize("manifest", [GOOD_JOB, GOOD_RUNTIME], ids=["job", "runtime"])
def test_what_the_table_starts_from_is_accepted(manifest: dict, api_server: ControlPlane, namespace: str) -> None:
    api_server.kubectl("create", "--dry-run=server", "-n", namespace, "-f", "-", input=json.dumps(manifest))


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_one_sentence_at_the_field(case: BadSpec, api_server: ControlPlane, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(json.dumps(case.manifest()))  # which YAML is too: PyYAML would leave 5e-6 without quotes
    done = api_server.kubectl("apply", "-f", path, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    sentences = findings(done.stderr)
    assert len(sentences) == 1 or case.id in SAID_TWICE, done.stderr
    assert all(case.path in sentence for sentence in sentences), done.stderr
    if case.by == "rule":
        assert sentences[-1] == f"{case.path}: Invalid value: {case.message}"
    elif case.by == "strict":
        assert sentences[0].endswith(f'strict decoding error: unknown field "{case.path}"')
    elif case.message.startswith(BOUND):
        assert case.message.rpartition(", got ")[0] in sentences[0]
    validated = CliRunner().invoke(validate_command, [str(path)])
    assert (validated.exit_code, validated.output) == (2, f"{path}: {case.path}: {case.message}\n")


def findings(stderr: str) -> list[str]:
    """The sentences in an error of kubectl, without the note that there may be more to come."""
    header, _, rest = stderr.strip().partition(" is invalid: ")
    sentences = [line.removeprefix("* ") for line in rest.splitlines() if line] or [header]
    return [sentence for sentence in sentences if not sentence.startswith(NOT_CHECKED)]
