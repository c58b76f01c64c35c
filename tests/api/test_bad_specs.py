"""Every bad job and runtime of the table gives one sentence, at its field."""

from __future__ import annotations

import pytest
import yaml
from api.bad_specs import BAD_JOBS, BAD_RUNTIMES, GOOD_JOB, GOOD_RUNTIME, BadSpec, job

from kubooth_operator.api import FieldError, SpecError, load_any
from kubooth_operator.api.job import PersonalizationJob
from kubooth_operator.api.load import parse
from kubooth_operator.api.runtime import PersonalizationRuntime

CASES = BAD_JOBS + BAD_RUNTIMES


def test_the_table_is_long_enough_and_its_ids_are_unique() -> None:
    assert len(BAD_JOBS) >= 40
    assert len({case.id for case in CASES}) == len(CASES)


@pytest.mark.parametrize("manifest", [GOOD_JOB, GOOD_RUNTIME], ids=["job", "runtime"])
def test_what_the_table_starts_from_is_good(manifest: dict, tmp_path) -> None:
    path = tmp_path / "good.yaml"
    path.write_text(yaml.safe_dump(manifest))
    load_any(path)


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_one_sentence_at_the_field(case: BadSpec) -> None:
    kind = PersonalizationJob if case.kind == "PersonalizationJob" else PersonalizationRuntime
    with pytest.raises(SpecError) as caught:
        parse(case.manifest(), kind)
    assert caught.value.errors == (FieldError(case.path, case.message),)
    assert caught.value.exit_code == 2


def test_all_errors_of_a_file_come_at_once() -> None:
    bad = job(
        training__steps=0, training__seed="x", trainig=1, model={}, subject__promptTemplate="dog", prior__weight=-1
    )
    bad["metadata"]["name"] = "Rex"
    with pytest.raises(SpecError) as caught:
        parse(bad, PersonalizationJob)
    assert sorted(error.path for error in caught.value.errors) == [
        "metadata.name",
        "spec.model",
        "spec.prior.weight",
        "spec.subject.promptTemplate",
        "spec.trainig",
        "spec.training.seed",
        "spec.training.steps",
    ]


def test_the_error_reads_as_one_line_for_each_finding() -> None:
    with pytest.raises(SpecError) as caught:
        parse(job(training__steps=0, training__seed=-1), PersonalizationJob)
    assert str(caught.value) == (
        "spec.training.steps: should be greater than or equal to 1, got 0\n"
        "spec.training.seed: should be greater than or equal to 0, got -1"
    )
