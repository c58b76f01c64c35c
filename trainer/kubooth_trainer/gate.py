"""The quality gate, `evaluation.gate`: thresholds held against the figures. Pure; formulas in docs/evaluation.md.

Called by `job` after Evaluate. A threshold is held against the figure itself, not against an end of its interval.
"""

from __future__ import annotations

from collections.abc import Iterator

from kubooth_trainer.config import GateConfig
from kubooth_trainer.metrics import Estimate
from kubooth_trainer.quality import Judgement, Quality


def judge_quality(gate: GateConfig, quality: Quality) -> Judgement:
    """Rejected where a threshold is missed, NotMeasured where none is missed but a figure is not there."""
    missed: list[str] = []
    unknown: list[str] = []
    met: list[str] = []
    for words, estimate, holds in _thresholds(gate, quality):
        if estimate is None or estimate.value is None:
            why = estimate.note if estimate is not None else " ".join(quality.absent)
            unknown.append(f"{words} cannot be judged: {why or 'it was not measured'}")
        else:
            (met if holds else missed).append(f"{words}, got {estimate.value:.3f}")
    if missed:
        return Judgement(verdict="Rejected", message="; ".join([*missed, *unknown, *met]))
    if unknown:
        return Judgement(verdict="NotMeasured", message="; ".join([*unknown, *met]))
    return Judgement(verdict="Accepted", message="; ".join(met))


def _thresholds(gate: GateConfig, quality: Quality) -> Iterator[tuple[str, Estimate | None, bool]]:
    """(what is asked for, the figure, whether it holds) of each threshold that is set."""
    dino, pres, clip = (quality.figure(name) for name in ("Dino", "Pres", "ClipT"))
    if gate.identity_gain is not None:
        gain = dino.change if dino else None
        holds = gain is not None and gain.value is not None and gain.value >= gate.identity_gain
        yield f"identityGain (DINO after less before) must be at least {gate.identity_gain:g}", gain, holds
    if gate.max_class_drift is not None:
        drift = pres.change if pres else None
        holds = drift is not None and drift.value is not None and drift.value <= gate.max_class_drift
        yield f"maxClassDrift (PRES after less before) must be at most {gate.max_class_drift:g}", drift, holds
    if gate.min_prompt_fidelity is not None:
        fidelity = clip.after if clip else None
        holds = fidelity is not None and fidelity.value is not None and fidelity.value >= gate.min_prompt_fidelity
        yield f"minPromptFidelity (CLIP-T after) must be at least {gate.min_prompt_fidelity:g}", fidelity, holds
