"""What pages say of phases, conditions, reasons, exit codes and alerts is what the code has: all of it, and no more."""

from __future__ import annotations

import ast
import re
from typing import get_args

import pytest
import yaml
from docs.manual import DOCS, ROOT, rows, spans, words

from kubooth_cli.cluster import session
from kubooth_operator import measures
from kubooth_operator.api import PersonalizationJob, PersonalizationRuntime
from kubooth_operator.api.problems import Refusal
from kubooth_operator.api.status import ConditionType, Phase, QualityStatus
from kubooth_operator.reference import FieldDoc, UnknownFieldError, document, find
from kubooth_trainer import errors

TROUBLESHOOTING = "troubleshooting.md"
VERDICT = QualityStatus.model_fields["verdict"].annotation
ALERTS = ROOT / "charts" / "kubooth" / "files" / "monitoring" / "alerts.yaml"


def first_words(page: str, heading: str) -> set[str]:
    """The words in the first cells of a section's tables."""
    return set().union(*(words(row[0]) for row in rows(page, heading)))


def kinds_of_errors() -> list[type[errors.KuboothError]]:
    found = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.KuboothError)]
    return [each for each in found if "reason" in vars(each)]


def words_of_events() -> set[str]:
    """The words that `announce` gives Events beside reasons of the status."""
    tree = ast.parse((ROOT / "operator/kubooth_operator/announce.py").read_text())
    chosen = [
        node for node in ast.walk(tree) if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "word"
    ]
    said = {each.value for node in chosen for each in ast.walk(node) if isinstance(each, ast.Constant)}
    assert len(chosen) == 1
    verdicts = [verdict for verdict in get_args(get_args(VERDICT)[0]) if verdict != "Accepted"]
    return {word for word in said if isinstance(word, str)} | {f"Quality{verdict}" for verdict in verdicts}


def test_phases() -> None:
    assert first_words(TROUBLESHOOTING, "Phases") == set(get_args(Phase))


def test_conditions() -> None:
    assert first_words(TROUBLESHOOTING, "Conditions") == set(get_args(ConditionType))


def test_refusals() -> None:
    assert first_words(TROUBLESHOOTING, "The job is not accepted") == set(get_args(Refusal))


def test_reasons() -> None:
    """`measures.REASONS` is held against the operator's source in tests/operator/test_diagnose.py."""
    headings = ("The job is not accepted", "The job waits", "An attempt failed")
    documented = set().union(*(first_words(TROUBLESHOOTING, heading) for heading in headings))
    documented |= words(
        " ".join(row[1] for row in rows(TROUBLESHOOTING, "An attempt failed") if "known cause" in row[1])
    )
    assert documented == set(measures.REASONS)


def test_reasons_of_failures_say_whether_a_retry_follows() -> None:
    table = {row[0].strip("`"): row[2] for row in rows(TROUBLESHOOTING, "An attempt failed")}
    assert set(table) >= {each.reason for each in kinds_of_errors()}
    for kind in kinds_of_errors():
        is_final = kind.exit_code == errors.ExitCode.FIX_AND_RESUBMIT
        assert table[kind.reason].startswith("no" if is_final else "yes"), kind.reason


def test_events() -> None:
    assert first_words(TROUBLESHOOTING, "Events") == words_of_events()


def test_exit_codes() -> None:
    training = {int(row[0]) for row in rows("exit-codes.md", "Training")}
    cluster = {int(row[0]) for row in rows("exit-codes.md", "Commands for the cluster")}
    assert training == {int(code) for code in errors.ExitCode}
    assert cluster == {session.FAILED, session.NOT_ALLOWED}


def test_reasons_of_exit_codes() -> None:
    documented = {(row[0].strip("`"), int(row[1])) for row in rows("exit-codes.md", "Reasons")}
    assert documented == {(each.reason, int(each.exit_code)) for each in kinds_of_errors()}


def test_alerts() -> None:
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    assert first_words("metrics.md", "Alerts") == {rule["alert"] for rule in group["rules"]}


@pytest.mark.parametrize("row", rows("operations.md", "Symptoms"), ids=lambda row: row[0][:30])
def test_words_of_the_symptoms_exist(row: list[str]) -> None:
    known = measures.REASONS | set(get_args(ConditionType)) | set(get_args(Phase))
    known |= {rule["alert"] for rule in yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]}
    assert words(" ".join(row)) <= known


FIELDS = {kind: document(kind) for kind in (PersonalizationJob, PersonalizationRuntime)}
ADVICE = ("tuning.md", "operations.md", "platform.md", "security.md", "methods.md", TROUBLESHOOTING)


@pytest.mark.parametrize("page", ADVICE)
def test_fields_that_the_pages_name_exist(page: str) -> None:
    """`training.steps` and the like: what begins with the name of a group is a field."""
    groups = {group.name for root in FIELDS.values() for group in root.children[0].children if group.children}
    named = {text.partition(":")[0] for text in spans(DOCS / page)}
    paths = {text for text in named if re.fullmatch(r"[a-zA-Z]+(\.[a-zA-Z]+)+", text) and text.split(".")[0] in groups}
    assert [path for path in sorted(paths) if not any(has(root, path) for root in FIELDS.values())] == []


def has(root: FieldDoc, path: str) -> bool:
    """Whether a kind has the field, or the map that its last name is a key of."""
    try:
        find(root, path)
    except UnknownFieldError:
        above = path.rpartition(".")[0]
        return "." in above and has(root, above) and find(root, above).type.startswith("map of")
    return True
