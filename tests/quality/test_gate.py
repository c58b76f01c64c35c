"""The gate: which figures meet which thresholds, and what is said of those that are not there."""

from __future__ import annotations

from typing import Any

import pytest

from kubooth_trainer.config import GateConfig
from kubooth_trainer.gate import judge_quality
from kubooth_trainer.metrics import Estimate, undefined
from kubooth_trainer.quality import Figure, FigureName, Quality


def figure(name: FigureName, before: float, after: float) -> Figure:
    return Figure(
        name=name,
        before=Estimate(value=before),
        after=Estimate(value=after),
        change=Estimate(value=after - before),
        prompts=(),
    )


GOOD = Quality(figures=(figure("Dino", 0.25, 0.75), figure("Pres", 0.25, 0.375), figure("ClipT", 0.3, 0.25)))
CASES: list[tuple[str, dict[str, float], str, str]] = [
    ("gain-met", {"identity_gain": 0.5}, "Accepted", "identityGain (DINO after less before) must be at least 0.5,"),
    ("gain-missed", {"identity_gain": 0.51}, "Rejected", "must be at least 0.51, got 0.500"),
    ("drift-met", {"max_class_drift": 0.125}, "Accepted", "maxClassDrift (PRES after less before) must be at most"),
    ("drift-missed", {"max_class_drift": 0.1}, "Rejected", "must be at most 0.1, got 0.125"),
    ("fidelity-met", {"min_prompt_fidelity": 0.25}, "Accepted", "minPromptFidelity (CLIP-T after) must be at least"),
    ("fidelity-missed", {"min_prompt_fidelity": 0.26}, "Rejected", "got 0.250"),
    ("one-of-two", {"identity_gain": 0.2, "max_class_drift": 0.1}, "Rejected", "got 0.125; identityGain"),
]  # fmt: skip


def gate(**thresholds: Any) -> GateConfig:
    every = {"identity_gain": None, "max_class_drift": None, "min_prompt_fidelity": None}
    return GateConfig(action="Warn", **{**every, **thresholds})


@pytest.mark.parametrize(("thresholds", "verdict", "words"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_thresholds(thresholds: dict[str, float], verdict: str, words: str) -> None:
    judgement = judge_quality(gate(**thresholds), GOOD)
    assert judgement.verdict == verdict
    assert words in judgement.message


def test_what_was_not_measured_is_not_judged() -> None:
    nothing = Quality(absent=("Nothing was measured: the photos show something else.",))
    judgement = judge_quality(gate(identity_gain=0.1), nothing)
    assert judgement.verdict == "NotMeasured"
    assert judgement.message.endswith("cannot be judged: Nothing was measured: the photos show something else.")


def test_what_is_not_defined_says_why() -> None:
    quality = Quality(
        figures=(
            Figure(
                name="Dino",
                before=undefined("there are no pictures"),
                after=undefined("there are no pictures"),
                change=undefined("there are no pictures"),
                prompts=(),
            ),
        )
    )
    judgement = judge_quality(gate(identity_gain=0.1), quality)
    assert (judgement.verdict, "there are no pictures" in judgement.message) == ("NotMeasured", True)


def test_a_missed_threshold_outweighs_one_that_cannot_be_judged() -> None:
    quality = Quality(figures=(figure("Dino", 0.5, 0.5),))
    judgement = judge_quality(gate(identity_gain=0.1, min_prompt_fidelity=0.2), quality)
    assert judgement.verdict == "Rejected"
    assert "minPromptFidelity" in judgement.message
