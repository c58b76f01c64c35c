"""Which state of a training is the best: scores of states that were measured on the way, and when to stop early. Pure.

Used by the Train stage and by the pages. A score is Dino - Pres + 2 ClipT: likeness to the subject, less what of it the
class shows too, and faithfulness to the prompt. ClipT counts twice because people notice half as large a difference of
it: 0.05 against 0.1 of Dino (arXiv 2208.12242, section 4.2). It is left out where there is no CLIP.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from kubooth_trainer.quality import Quality

CLIP_WEIGHT = 2.0
SATURATED = 0.01  # a gain of Dino below it is none
IN_A_ROW = 2


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What the pictures of one state measured. `pres` None: no prompt without the identifier; `clip_t`: no CLIP."""

    step: int
    dino: float
    pres: float | None
    clip_t: float | None

    @property
    def score(self) -> float:
        return self.dino - (self.pres or 0.0) + CLIP_WEIGHT * (self.clip_t or 0.0)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The measured states in order of their steps, and which one became the result."""

    probes: tuple[Probe, ...]
    step: int
    stopped_early: bool


def probe_of(step: int, quality: Quality) -> Probe | None:
    """None where Dino could not be measured."""
    figures = {name: quality.figure(name) for name in ("Dino", "Pres", "ClipT")}
    values = {name: figure.after.value if figure else None for name, figure in figures.items()}
    dino = values["Dino"]
    return None if dino is None else Probe(step=step, dino=dino, pres=values["Pres"], clip_t=values["ClipT"])


def ranked(probes: Sequence[Probe]) -> list[Probe]:
    """The highest score first; of equals the earliest."""
    return sorted(probes, key=lambda probe: (-probe.score, probe.step))


def should_stop(probes: Sequence[Probe]) -> bool:
    """Whether, at each of the last two states, identity no longer rose while the class drifted on."""
    if len(probes) <= IN_A_ROW:
        return False
    return all(_is_past_its_best(probes[:end]) for end in range(len(probes) - IN_A_ROW + 1, len(probes) + 1))


def _is_past_its_best(probes: Sequence[Probe]) -> bool:
    *earlier, last = probes
    drifted = last.pres is not None and earlier[-1].pres is not None and last.pres > earlier[-1].pres
    return drifted and last.dino < max(probe.dino for probe in earlier) + SATURATED


def probes_to_json(probes: Sequence[Probe], key: str) -> bytes:
    """For the file beside the checkpoints. `key`: of what decided the figures."""
    return json.dumps({"key": key, "probes": [asdict(probe) for probe in probes]}, indent=1).encode()


def probes_from_json(content: bytes, key: str) -> list[Probe]:
    """None of them where the file is damaged or of another key: they are measured again."""
    try:
        kept = json.loads(content)
        return [Probe(**each) for each in kept["probes"]] if kept["key"] == key else []
    except (ValueError, KeyError, TypeError):
        return []
