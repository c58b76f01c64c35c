"""What was measured of a result, and the gate's verdict on it: values that the report, manifest and status tell.

Made by `measure` and `gate`. Names of figures are those of `evaluation.metrics`; `ClassDiv` is Div of the prompts
without the identifier. Pure data: `to_json` is `evaluation.json` of the output.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

from kubooth_trainer.metrics import Estimate

FigureName = Literal["Dino", "ClipI", "ClipT", "Pres", "Div", "ClassDiv"]
TITLES: dict[FigureName, str] = {
    "Dino": "DINO", "ClipI": "CLIP-I", "ClipT": "CLIP-T", "Pres": "PRES", "Div": "DIV", "ClassDiv": "DIV of the class",
}  # fmt: skip
Verdict = Literal["Accepted", "Rejected", "NotMeasured"]


@dataclass(frozen=True, kw_only=True)
class PromptFigure:
    """One prompt's part of a figure."""

    prompt: str
    before: Estimate
    after: Estimate


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure over all its prompts. `change` is after less before, picture by picture of equal seed."""

    name: FigureName
    before: Estimate
    after: Estimate
    change: Estimate
    prompts: tuple[PromptFigure, ...]
    bound: Estimate | None = None  # the same between the photos themselves: as alike as it can get


@dataclass(frozen=True, kw_only=True)
class Overfit:
    """The highest DINO similarity of a picture to one photo, and that between two photos. Near 1 is a copy."""

    before: Estimate
    after: Estimate
    prompt: str  # of the picture that comes nearest
    photo: str  # which photo
    bound: Estimate


@dataclass(frozen=True, kw_only=True)
class EncoderFacts:
    """Which network measured, for the record. `digest` is SHA-256 (hex) of its weights."""

    role: str  # dino, clip, lpips
    uri: str
    architecture: str
    preprocessing: str
    digest: str
    domain: str  # "" for photos in general


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What the gate says. `message` has the figures and thresholds in one sentence."""

    verdict: Verdict
    message: str


@dataclass(frozen=True, kw_only=True)
class Quality:
    """All figures of one result. `absent` says, a sentence each, which there are not, and why."""

    figures: tuple[Figure, ...] = ()
    overfit: Overfit | None = None
    encoders: tuple[EncoderFacts, ...] = ()
    photos: int = 0
    images_per_prompt: int = 0
    absent: tuple[str, ...] = ()
    judgement: Judgement | None = None

    def figure(self, name: FigureName) -> Figure | None:
        return next((figure for figure in self.figures if figure.name == name), None)

    @property
    def leak(self) -> float | None:
        """The part of the gained likeness that the class noun alone brings up: 0 none, 1 all of it.

        Change of Pres by change of Dino. None where either was not measured, or where Dino did not surely rise.
        """
        learned, drifted = self.figure("Dino"), self.figure("Pres")
        if learned is None or drifted is None or drifted.change.value is None:
            return None
        if learned.change.value is None or learned.change.low is None or learned.change.low <= 0:
            return None
        return max(0.0, drifted.change.value) / learned.change.value

    def flat(self) -> dict[str, float]:
        """Every defined value by a name such as `Dino.after`: for manifests and tables."""
        values: dict[str, float | None] = {}
        for figure in self.figures:
            values |= {
                f"{figure.name}.before": figure.before.value,
                f"{figure.name}.after": figure.after.value,
                f"{figure.name}.change": figure.change.value,
                f"{figure.name}.photos": figure.bound.value if figure.bound else None,
            }
        if self.overfit is not None:
            values["Overfit.after"] = self.overfit.after.value
        values["Leak"] = self.leak
        return {name: round(value, 6) for name, value in values.items() if value is not None}

    def to_json(self) -> str:
        facts: dict[str, Any] = asdict(self) | {"leak": self.leak}
        return json.dumps(facts, indent=2, allow_nan=False) + "\n"
