"""Reading manifests: YAML as kubectl reads it, sentences for files that are no manifest, and overrides."""

# ruff: noqa: E501 - tables have a case on each line

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from api.bad_specs import GOOD_JOB, GOOD_RUNTIME

from kubooth_operator.api import SpecError, load_any, load_job, load_runtime

Write = Callable[[str], Path]
HEAD = "apiVersion: kubooth.io/v1alpha1\nkind: PersonalizationJob\nmetadata: {name: rex}\n"
SPEC = """\
spec:
  subject: {className: dog, images: s3://photos/rex/}
  model: {uri: s3://models/sd/}
  output: {uri: s3://models/rex/}
"""


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_it(text: str) -> Path:
        path = tmp_path / "job.yaml"
        path.write_text(text)
        return path

    return write_it


def errors(path: Path, overrides: tuple[str, ...] = ()) -> list[str]:
    with pytest.raises(SpecError) as caught:
        load_job(path, overrides=overrides)
    return [str(error) for error in caught.value.errors]


FILES = [
    ("empty", "", "is empty"),
    ("only-comments", "# nothing\n---\n", "is empty"),
    ("a-list", "- 1\n- 2\n", "must be a group of fields (apiVersion, kind, ...), got a list of 2"),
    ("two-documents", HEAD + SPEC + "---\n" + HEAD + SPEC, "holds 2 documents: put each job or runtime into a file of its own"),
    ("tab", HEAD + "spec:\n\tmodel: x\n", "line 5: is not valid YAML: found character '\\t' that cannot start any token"),
    ("unclosed", HEAD + "spec: {model: [\n", "line 5: is not valid YAML: expected the node content, but found '<stream end>'"),
    ("given-twice", HEAD + SPEC + "  model: {name: a}\n", "line 8: model is given twice (first in line 6)"),
    ("given-twice-deep", HEAD + "spec:\n  training:\n    steps: 1\n    steps: 2\n", "line 7: steps is given twice (first in line 6)"),
    ("python-object", HEAD + "spec: !!python/object/apply:os.getcwd []\n", "line 4: is not valid YAML: could not determine a constructor for the tag 'tag:yaml.org,2002:python/object/apply:os.getcwd'"),
    ("too-deep", "a: " + "[" * 600, "is not valid YAML: it is nested too deeply"),
    ("number-as-name", HEAD + "spec: {1: 2}\n", "spec: a field's name must be text, got 1"),
    ("set", HEAD + "spec: !!set {a, b}\n", "spec: a value of this kind cannot be used (set): put it in quotes"),
    ("other-version", "apiVersion: v1\nkind: PersonalizationJob\n", "apiVersion: must be kubooth.io/v1alpha1, got 'v1'"),
    ("other-kind", "apiVersion: kubooth.io/v1alpha1\nkind: PersonalizationRuntime\n", "kind: must be PersonalizationJob, got 'PersonalizationRuntime'"),
    ("no-kind", "apiVersion: kubooth.io/v1alpha1\n", "kind: must be PersonalizationJob, got nothing"),
    ("no-name", "apiVersion: kubooth.io/v1alpha1\nkind: PersonalizationJob\nmetadata: {}\n" + SPEC, "metadata.name: is required"),
    ("no-spec", HEAD, "spec: is required"),
    ("empty-field", HEAD + SPEC + "  training:\n    steps:\n", "spec.training.steps: is empty: give it a value or take the line out"),
    ("empty-group", HEAD + SPEC + "  training:\n", "spec.training: is empty: give it a value or take the line out"),
    ("not-a-number", HEAD + SPEC + "  training: {learningRate: .nan}\n", "spec.training.learningRate: must be a number, got nan"),
    ("infinite", HEAD + SPEC + "  prior: {weight: .inf}\n", "spec.prior.weight: must be a number, got inf"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), [case[1:] for case in FILES], ids=[case[0] for case in FILES])
def test_a_file_that_is_no_manifest_gives_one_sentence(text: str, expected: str, write: Write) -> None:
    assert errors(write(text)) == [expected]


def test_a_missing_file_a_folder_and_binary_content_are_said(tmp_path: Path) -> None:
    assert errors(tmp_path / "none.yaml") == ["cannot be read: No such file or directory"]
    assert errors(tmp_path) == ["cannot be read: Is a directory"]
    picture = tmp_path / "photo.jpg"
    picture.write_bytes(b"\xff\xd8\xff\xe0")
    assert errors(picture) == ["is not text in UTF-8 (byte 0)"]
    picture.write_bytes(b"#" * (3 * 1024 * 1024 + 1))
    assert errors(picture) == ["is larger than 3145728 bytes: a manifest is a short text"]


SCALARS = [
    ("scientific", "training: {learningRate: 5e-6}", ("training", "learning_rate"), 5e-6),
    ("scientific-with-dot", "training: {learningRate: 1.5e-4}", ("training", "learning_rate"), 1.5e-4),
    ("integer-for-number", "prior: {weight: 2}", ("prior", "weight"), 2.0),
    ("a-time-is-text", "subject: {className: 1:30, images: s3://a/}", ("subject", "class_name"), "1:30"),
    ("a-date-is-text", "subject: {className: 2026-01-31, images: s3://a/}", ("subject", "class_name"), "2026-01-31"),
    ("the-word-None", "parallelism: {offload: None}", ("parallelism", "offload"), "None"),
    ("stage-number", "parallelism: {zeroStage: 2}", ("parallelism", "zero_stage"), 2),
    ("yes-is-true", "prior: {enabled: yes}", ("prior", "enabled"), True),
    ("anchor", "training: &t {steps: 5}", ("training", "steps"), 5),
]


@pytest.mark.parametrize(("line", "place", "value"), [case[1:] for case in SCALARS], ids=[c[0] for c in SCALARS])
def test_scalars_are_read_as_kubectl_reads_them(line: str, place: tuple[str, str], value: object, write: Write) -> None:
    manifest = yaml.safe_load(HEAD + SPEC)
    group = line.partition(":")[0]
    manifest["spec"].pop(group, None)
    spec = load_job(write(yaml.safe_dump(manifest) + f"  {line}\n")).spec
    assert getattr(getattr(spec, place[0]), place[1]) == value


def test_a_byte_order_mark_and_a_leading_document_mark_are_passed_over(write: Write) -> None:
    assert load_job(write("\ufeff---\n" + HEAD + SPEC + "---\n")).metadata.name == "rex"


def test_an_object_from_the_api_server_can_be_read_back(write: Write) -> None:
    manifest = {**GOOD_JOB, "status": {"phase": "Running", "attempts": 1, "fieldOfALaterVersion": {"a": None}}}
    manifest["metadata"] = {"name": "rex", "uid": "u", "generation": 2, "managedFields": [{"manager": "kubectl"}]}
    loaded = load_job(write(yaml.safe_dump(manifest)))
    assert loaded.status is not None
    assert (loaded.status.phase, loaded.metadata.uid) == ("Running", "u")


def test_overrides_set_fields_below_spec_with_yaml_types(write: Write) -> None:
    spec = load_job(
        write(HEAD + SPEC),
        overrides=[
            "training.steps=50",
            "training.learningRate=1e-4",
            "spec.prior.enabled=false",
            "evaluation.prompts=['a {class}', '{identifier} = it']",
            "subject.className=cat",
        ],
    ).spec
    assert (spec.training.steps, spec.training.learning_rate, spec.prior.enabled) == (50, 1e-4, False)
    assert spec.evaluation.prompts == ("a {class}", "{identifier} = it")
    assert spec.subject.class_name == "cat"


OVERRIDES = [
    ("no-equals", "training.steps", "--set: must be like training.steps=50, got 'training.steps'"),
    ("no-name", "=50", "--set: must be like training.steps=50, got '=50'"),
    ("double-dot", "training..steps=50", "--set: must be like training.steps=50, got 'training..steps=50'"),
    ("not-yaml", "training.steps=[", "spec.training.steps: --set: '[' is not a YAML value"),
    ("below-a-value", "subject.className.x=1", "spec.subject.className.x: --set: there is no field below this one"),
    ("unknown", "training.step=50", "spec.training.step: is not a known field; did you mean steps?"),
    ("out-of-bounds", "training.steps=0", "spec.training.steps: should be greater than or equal to 1, got 0"),
    ("empty", "training.steps=", "spec.training.steps: is empty: give it a value or take the line out"),
]


@pytest.mark.parametrize(("given", "expected"), [case[1:] for case in OVERRIDES], ids=[c[0] for c in OVERRIDES])
def test_an_override_that_cannot_be_set_gives_one_sentence(given: str, expected: str, write: Write) -> None:
    assert errors(write(HEAD + SPEC), (given,)) == [expected]


def test_overrides_leave_the_file_alone_and_work_on_an_empty_group(write: Write) -> None:
    path = write(HEAD + SPEC + "  training:\n")
    assert load_job(path, overrides=["training.steps=5"]).spec.training.steps == 5
    assert path.read_text().endswith("training:\n")


def test_load_any_and_load_runtime_read_a_runtime(write: Write) -> None:
    path = write(yaml.safe_dump(GOOD_RUNTIME))
    assert load_any(path) == load_runtime(path)


def test_validating_imports_nothing_heavy() -> None:
    heavy = ["torch", "numpy", "kopf", "kubernetes", "boto3", "diffusers", "deepspeed", "transformers", "PIL"]
    code = (
        "import sys, kubooth_operator.api, kubooth_operator.resolve, kubooth_cli.validate, kubooth_cli.explain; "
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
