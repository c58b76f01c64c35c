"""A pass writes what changed and nothing else, and says each change once."""

from __future__ import annotations

import copy
from datetime import timedelta
from typing import Any

import pytest
from simulation.world import START, merged, stamp

from kubooth_operator.draft import Draft, merge_patch
from kubooth_operator.plan import Clock, Manifest

CLOCK = Clock(now=START, reachable_since=START)

PATCHES: list[tuple[str, Manifest, Manifest, Manifest]] = [
    ("nothing", {"a": 1}, {"a": 1}, {}),
    ("new", {}, {"a": 1}, {"a": 1}),
    ("changed", {"a": 1}, {"a": 2}, {"a": 2}),
    ("gone", {"a": 1, "b": 2}, {"b": 2}, {"a": None}),
    ("below", {"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, {"a": {"c": 3}}),
    ("gone-below", {"a": {"b": 1, "c": 2}}, {"a": {"c": 2}}, {"a": {"b": None}}),
    ("list", {"a": [1, 2]}, {"a": [1]}, {"a": [1]}),
    ("float-that-is-whole", {"a": 80}, {"a": 80.0}, {}),
    ("other-type", {"a": {"b": 1}}, {"a": 1}, {"a": 1}),
]


@pytest.mark.parametrize(("old", "new", "patch"), [c[1:] for c in PATCHES], ids=[c[0] for c in PATCHES])
def test_a_patch_holds_what_changed(old: Manifest, new: Manifest, patch: Manifest) -> None:
    before = copy.deepcopy((old, new))
    assert merge_patch(old, new) == patch
    assert merged(old, patch) == new
    assert (old, new) == before


def job(**status: Any) -> Manifest:
    return {"metadata": {"name": "rex", "generation": 3}, "status": {"observedGeneration": 3, **status}}


def test_a_pass_that_changes_nothing_plans_nothing() -> None:
    plan = Draft(job(phase="Running"), CLOCK).plan()
    assert plan.writes_nothing and plan.requeue_after is None


def test_the_transition_time_moves_only_with_the_status() -> None:
    draft = Draft(job(), CLOCK)
    draft.set_condition("PodsReady", False, "Starting", "wait")
    later = Clock(now=START + timedelta(seconds=60), reachable_since=START)
    second = Draft(job(conditions=draft.status["conditions"]), later)
    second.set_condition("PodsReady", False, "ImagePull", "no such image")
    assert second.condition("PodsReady") == {
        "type": "PodsReady",
        "status": "False",
        "reason": "ImagePull",
        "message": "no such image",
        "lastTransitionTime": stamp(START),
        "observedGeneration": 3,
    }
    second.set_condition("PodsReady", True, "PodsReady", "all pods are ready")
    assert second.status["conditions"][0]["lastTransitionTime"] == stamp(later.now)


def test_conditions_keep_their_order() -> None:
    draft = Draft(job(), CLOCK)
    for type_ in ("Suspended", "PodsReady", "Accepted"):
        draft.set_condition(type_, True, "x", "")
    assert [each["type"] for each in draft.status["conditions"]] == ["Accepted", "PodsReady", "Suspended"]


def test_the_earliest_wake_up_counts_and_none_is_at_once() -> None:
    draft = Draft(job(), CLOCK)
    draft.wake_in(60)
    draft.wake_in(30)
    assert draft.plan().requeue_after == 30
    draft.wake_in(-5)
    assert draft.plan().requeue_after == 1


def test_an_event_is_told_with_the_status_that_it_follows_from() -> None:
    draft = Draft(job(), CLOCK)
    draft.set_condition("Accepted", False, "LimitExceeded", "x" * 5000)
    plan = draft.plan()
    (event,) = plan.announce
    assert (event.type, event.reason, event.message) == ("Warning", "LimitExceeded", "x" * 4096)
    assert plan.status is not None
    again = Draft(job(**merged({}, plan.status)), CLOCK)
    again.set_condition("Accepted", False, "LimitExceeded", "y")
    assert again.plan().announce == (), "another message alone is no event"
