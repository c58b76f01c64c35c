"""The status once an attempt has ended: what the trainer said last, stages, devices; in `simulation.world`."""

from __future__ import annotations

from typing import Any

import pytest
from simulation.scenarios import (
    CRASH,
    LONG,
    fails_first,
    running,
    two_nodes,
)
from simulation.world import Behaviour, Ending, World, ended, index_of

SUMMARY: dict[str, Any] = {
    "stages": [
        {"name": "Train", "state": "Succeeded", "start": "2026-01-31T12:00:05Z", "end": "2026-01-31T12:01:00Z"},
        {"name": "Upload", "state": "Running", "start": "2026-01-31T12:01:00Z"},
    ],
    "progress": {"step": 800, "total": 800, "percent": 100.0, "summary": "800/800 100%", "eta": "0s", "etaSeconds": 0},
    "identifier": "sks",
    "output": {"uri": "s3://models/personalized/rex/", "bytes": 7},
    "report": {"uri": "s3://models/personalized/rex/report.html"},
}


def test_the_last_word_fills_what_the_trainer_could_not_send() -> None:
    world = World(script=lambda attempt: Behaviour(beats=False, every=Ending(summary=SUMMARY)))
    status = world.run_to_the_end()
    assert [(each["name"], each["state"]) for each in status["stages"]] == [
        ("Train", "Succeeded"),
        ("Upload", "Succeeded"),
    ]
    assert status["progress"] == {"step": 800, "total": 800, "percent": 100.0, "summary": "800/800 100%"}
    assert (status["identifier"], status["output"]["bytes"], status["report"]["uri"]) == (
        "sks",
        7,
        "s3://models/personalized/rex/report.html",
    )


def test_the_last_word_is_heard_though_the_verdict_waits_for_other_pods() -> None:
    endings = {0: Ending(after=20, code=75, reason="DiskFull", summary=SUMMARY), 1: LONG}
    world = running(two_nodes(lambda attempt: Behaviour(endings=endings, beats=False, stop_seconds=8)))
    world.run(60, until=lambda: world.status.get("identifier") == "sks")
    assert "endTime" not in world.status["attempt"]
    del world.pods[next(name for name, pod in world.pods.items() if ended(pod))]
    world.run(60, until=lambda: "restarts" in world.status)
    assert [each["state"] for each in world.status["stages"]] == ["Succeeded", "Failed"]


QUALITY = {
    "message": "identityGain (DINO after less before) must be at least 0.1, got 0.021",
    "figures": [{"name": "Dino", "before": 0.41, "after": 0.431}],
}
VERDICTS = [("Accepted", "True"), ("Rejected", "False"), ("NotMeasured", "Unknown")]


@pytest.mark.parametrize(("verdict", "holds"), VERDICTS)
def test_the_gates_verdict_becomes_a_condition(verdict: str, holds: str) -> None:
    summary = {**SUMMARY, "quality": {**QUALITY, "verdict": verdict}}
    world = World(
        spec={"evaluation": {"gate": {"identityGain": 0.1}}},
        runtime={"encoders": {"dino": "s3://models/dino/"}},
        script=lambda attempt: Behaviour(beats=False, every=Ending(summary=summary)),
    )
    status = world.run_to_the_end()
    condition = next(each for each in status["conditions"] if each["type"] == "QualityAccepted")
    assert (condition["status"], condition["reason"], condition["message"]) == (holds, verdict, QUALITY["message"])
    assert (status["phase"], status["quality"]["figures"]) == ("Succeeded", QUALITY["figures"])


def test_a_rejected_result_fails_the_job_with_the_condition() -> None:
    summary = {**SUMMARY, "quality": {**QUALITY, "verdict": "Rejected"}}
    world = World(
        spec={"evaluation": {"gate": {"identityGain": 0.1, "action": "Fail"}}},
        runtime={"encoders": {"dino": "s3://models/dino/"}},
        script=lambda attempt: Behaviour(beats=False, every=Ending(code=2, reason="QualityRejected", summary=summary)),
    )
    status = world.run_to_the_end()
    condition = next(each for each in status["conditions"] if each["type"] == "QualityAccepted")
    assert (status["phase"], status["failure"]["reason"]) == ("Failed", "QualityRejected")
    assert (condition["status"], condition["reason"]) == ("False", "Rejected")


def test_without_a_gate_there_is_no_such_condition() -> None:
    summary = {**SUMMARY, "quality": QUALITY}
    world = World(script=lambda attempt: Behaviour(beats=False, every=Ending(summary=summary)))
    status = world.run_to_the_end()
    assert "QualityAccepted" not in {each["type"] for each in status["conditions"]}
    assert status["quality"]["figures"] == QUALITY["figures"]


def test_what_does_not_fit_the_api_is_dropped() -> None:
    summary = {**SUMMARY, "stages": [{"name": "Cook"}], "identifier": 7, "phase": "Failed", "progress": "x"}
    world = World(script=lambda attempt: Behaviour(beats=False, every=Ending(summary=summary)))
    status = world.run_to_the_end()
    assert "stages" not in status and "identifier" not in status and "progress" not in status
    assert (status["phase"], status["output"]["bytes"]) == ("Succeeded", 7)


def test_without_a_last_word_the_output_is_named_and_no_stage_stays_open() -> None:
    status = World().run_to_the_end()
    assert status["output"] == {"uri": "s3://models/personalized/rex/"}
    assert {each["state"] for each in status["stages"]} == {"Succeeded"}


def test_a_failed_attempt_leaves_no_stage_running_even_when_a_pod_writes_late() -> None:
    world = running(two_nodes(lambda attempt: Behaviour(endings={0: CRASH}, every=LONG, stop_seconds=100)))
    world.run(until=lambda: "endTime" in world.status["attempt"])
    assert [each["state"] for each in world.status["stages"]] == ["Failed"]
    world._beat()
    world.settle()
    assert [each["state"] for each in world.status["stages"]] == ["Failed"]
    assert "eta" not in world.status["progress"]


def test_device_seconds_add_up_over_attempts_and_devices() -> None:
    spec = {"parallelism": {"nodes": 2, "devicesPerNode": 4}, "training": {"batchSize": 8}}
    world = World(spec=spec, script=fails_first(1))
    status = world.run_to_the_end()
    # Two pods of four devices: 20 s and, stopped with the first, a little longer; then 60 s both.
    assert 4 * (20 + 20 + 60 + 60) <= status["deviceSeconds"] <= 4 * (20 + 28 + 60 + 60)


def test_the_pods_are_those_of_the_job() -> None:
    world = running(two_nodes())
    assert sorted(index_of(pod) for pod in world.pods.values()) == [0, 1]
