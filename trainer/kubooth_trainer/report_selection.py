"""The states that a training was measured at, as the page tells of them. Pure; called by `report`."""

from __future__ import annotations

from dataclasses import dataclass

from kubooth_trainer.selection import Selection


@dataclass(frozen=True, kw_only=True)
class SelectionShown:
    """What `selection.html` shows. `rows`: step, Dino, Pres, ClipT, score, whether it is the result."""

    sentence: str
    rows: tuple[tuple[str, str, str, str, str, bool], ...]


def selection_shown(selection: Selection) -> SelectionShown:
    last = selection.probes[-1].step
    which = "the last one" if selection.step == last else f"not the last one, of step {last:,}"
    sentence = f"The result is the state after step {selection.step:,}, {which}: it has the highest score."
    if selection.stopped_early:
        sentence += " Training ended early: identity no longer rose, and the class drifted on."
    return SelectionShown(
        sentence=sentence,
        rows=tuple(
            (
                f"{probe.step:,}", _shown(probe.dino), _shown(probe.pres), _shown(probe.clip_t), _shown(probe.score),
                probe.step == selection.step,
            )
            for probe in selection.probes
        ),
    )  # fmt: skip


def _shown(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3f}"
