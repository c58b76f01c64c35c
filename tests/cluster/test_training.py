"""Real trainings in real pods: from a manifest to a model, also where the start is late or the API server is away."""

from __future__ import annotations

import time

import pytest
from bed.eventually import eventually
from bed.trainings import STEPS, SUCCESS_SECONDS, Trainings, Undisturbed


def test_from_apply_to_a_model_in_the_bucket(trainings: Trainings, undisturbed: Undisturbed) -> None:
    with undisturbed.training():
        trainings.submit()
        status = trainings.succeed()
        undisturbed.keep(trainings.weights())
    trainings.cluster.plane.kubectl(
        "wait", "--for=condition=Succeeded", "pjob/rex", "-n", trainings.bench.namespace, "--timeout=10s"
    )
    assert status["attempts"] == 1 and status.get("restarts", 0) == 0 and "failure" not in status
    assert [(stage["name"], stage["state"]) for stage in status["stages"]] == [
        (name, "Succeeded") for name in ("Download", "Prior", "Prepare", "Train", "Evaluate", "Upload")
    ]
    assert status["progress"]["summary"] == f"{STEPS}/{STEPS} 100%" and status["identifier"]
    assert status["output"]["uri"] == trainings.output() and status["report"]["uri"].endswith("/report.html")
    assert status["deviceSeconds"] > 0 and status["completionTime"]
    keys = trainings.keys()
    assert {"manifest.json", "report.html", "model_index.json"} <= set(keys)
    assert not [key for key in keys if key.startswith(".kubooth/")]
    assert {name.partition("/")[0] for name in trainings.weights()} >= {"unet", "text_encoder", "vae"}
    trainings.assert_nothing_is_left()


@pytest.mark.parametrize("late", ["pod", pytest.param("name", marks=pytest.mark.soak)])
def test_rank_0_is_late(trainings: Trainings, undisturbed: Undisturbed, late: str) -> None:
    expected = undisturbed.weights(trainings)
    until = time.monotonic() + 30
    if late == "pod":
        trainings.cluster.delay_pods("rex-kubooth-1-0-", until)
    else:
        trainings.cluster.delay_dns(f"rex-kubooth-1-0.rex-kubooth.{trainings.bench.namespace}", until)
    trainings.submit()
    status = trainings.succeed()
    assert time.monotonic() > until and status["attempts"] == 1
    assert trainings.weights() == expected


def test_the_api_server_is_away_for_a_minute(trainings: Trainings, undisturbed: Undisturbed) -> None:
    expected = undisturbed.weights(trainings)
    trainings.submit()
    trainings.wait_for_checkpoint()
    trainings.cluster.plane.stop_apiserver()
    back = time.monotonic() + 60
    try:  # it ends in the dark: the last word of its pods says how
        eventually(
            lambda: time.monotonic() > back and "manifest.json" in trainings.keys(),  # noqa: SIM118
            "a result, and a minute without the API",
            seconds=SUCCESS_SECONDS,
        )
    finally:
        trainings.cluster.plane.start_apiserver()
    status = trainings.succeed()
    assert status["attempts"] == 1
    assert trainings.weights() == expected
