"""`kubooth explain`: every field, as text a person can use."""

from __future__ import annotations

from click.testing import CliRunner, Result

from kubooth_cli.explain import explain_command
from kubooth_operator.api import PersonalizationJob, PersonalizationRuntime
from kubooth_operator.reference import document


def explain(*arguments: str) -> Result:
    return CliRunner().invoke(explain_command, list(arguments))


def test_a_field_with_everything() -> None:
    result = explain("training.learningRate")
    assert result.exit_code == 0
    assert result.output == (
        "KIND:   PersonalizationJob (kubooth.io/v1alpha1)\n"
        "FIELD:  spec.training.learningRate <number>\n"
        "\n"
        "  Learning rate of the UNet (and of the text encoder, unless it has its own).\n"
        "\n"
        "  built-in value: 5e-6 (DreamBooth paper, Stable Diffusion)\n"
        "  bounds:         more than 0, at most 1\n"
    )


def test_a_unit_choices_and_a_value_taken_from_a_neighbour() -> None:
    assert "  unit:           photos\n" in explain("training.batchSize").output
    assert "  one of:         Auto, 0, 1, 2, 3\n" in explain("parallelism.zeroStage").output
    assert "  built-in value: the value of learningRate\n" in explain("training.textEncoderLearningRate").output
    assert "  if left out:    the model's own\n" in explain("training.resolution").output


def test_without_a_path_the_spec_is_listed() -> None:
    output = explain().output
    assert "FIELD:  spec <object> (required)" in output
    for name in ("subject", "model", "training", "output", "runPolicy"):
        assert f"  {name} <object>" in output


def test_the_spec_may_be_named_and_the_status_too() -> None:
    assert explain("spec.training.steps").output == explain("training.steps").output
    assert "FIELD:  status.progress.summary <string>" in explain("status.progress.summary").output


def test_fields_in_lists_are_reached() -> None:
    assert "FIELD:  spec.models.uri <string> (required)" in explain("--runtime-kind", "models.uri").output
    assert explain("--runtime-kind", "models[].uri").output == explain("--runtime-kind", "models.uri").output


def test_every_field_can_be_explained() -> None:
    for kind, flags in ((PersonalizationJob, []), (PersonalizationRuntime, ["--runtime-kind"])):
        paths = [doc.path for child in document(kind).children for doc in child.every()]
        for path in paths[:: max(1, len(paths) // 12)]:  # the reference's own tests walk all of them
            result = explain(*flags, path)
            assert result.exit_code == 0, path
            assert f"FIELD:  {path} <" in result.output


def test_an_unknown_field_suggests_one() -> None:
    result = explain("training.lerningRate")
    assert result.exit_code == 2
    assert result.stderr == (
        "kubooth explain: spec.training has no field lerningRate; did you mean spec.training.learningRate?\n"
    )


def test_help_shows_examples() -> None:
    assert "kubooth explain training.learningRate" in explain("--help").output
