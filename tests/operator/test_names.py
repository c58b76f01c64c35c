"""Names of children: each fits where Kubernetes puts it, and none can be taken for another's."""

from __future__ import annotations

import itertools

import pytest

from kubooth_operator import names
from kubooth_operator.api.job import MAX_NAME

ATTEMPTS = (1, 2, 9, 10, 11, 12, 19, 99, 100, 1000, 123_456)


def rank_0(job: str, attempt: int) -> str:
    """The name of rank 0's pod without its random end, as the Job controller makes it (names.SimpleNameGenerator)."""
    return names.attempt_name(job, attempt)[: 63 - len("-0-abcde")] + "-0-"


@pytest.mark.parametrize("length", [1, 40, 41, 42, 43, 44, MAX_NAME])
def test_the_name_of_a_pod_tells_its_attempt(length: int) -> None:
    pods = [rank_0("r" * length, attempt) for attempt in ATTEMPTS]
    assert len(set(pods)) == len(ATTEMPTS)
    assert pods == [f"{names.attempt_name('r' * length, attempt)}-0-" for attempt in ATTEMPTS]


def test_host_names_fit() -> None:
    for attempt in ATTEMPTS:
        assert len(f"{names.attempt_name('r' * MAX_NAME, attempt)}-1023") <= 63


def test_children_of_two_jobs_never_share_a_name() -> None:
    jobs = ("r" * 36, "r" * 36 + "-kubooth", "r" * 36 + "-k", "r" * 36 + "-k-1", "r" * 43)
    made = [names.attempt_name(job, attempt) for job, attempt in itertools.product(jobs, ATTEMPTS)]
    assert len(set(made)) == len(made)
