"""What a training did with its device, for the report and the manifest. Made by the loop."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TrainingFacts:
    """Of one start of the loop, seen from rank 0. Sizes in bytes, of one rank's device."""

    zero_stage: int
    plan: str
    reasoning: str
    estimate: dict[str, int]  # by what it is for
    budget: int
    peak: int  # on a CPU the largest resident size of the process, libraries included
    step_seconds: dict[
        str, float
    ]  # mean seconds of a step by part, the first step left out; empty if there was no other
