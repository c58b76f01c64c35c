"""Captions of scenes: what is said is true, and what is left out is left out at random.

A caption never says the things that make an instance itself (shape, tint, layout of the pattern).
"""

import re
from typing import Final

import numpy as np

from kubooth_world.scene import Scene
from kubooth_world.vocabulary import CONTEXTS, OPENINGS

_NOUNS: Final = {"striped": "stripes", "dotted": "dots", "checked": "checks"}


def caption(scene: Scene, rng: np.random.Generator, *, keep: float = 0.75) -> str:
    """Describe a scene; each attribute but the class is said with probability `keep`."""
    said = rng.random(5) < keep
    subject = scene.instance
    opening = str(rng.choice(OPENINGS, p=(0.5, 0.35, 0.1, 0.05)))
    words = describe(
        kind=subject.kind,
        colour=subject.colour if said[0] else None,
        second=subject.second if said[0] and rng.random() < 0.5 else None,
        pattern=subject.pattern if said[1] else None,
        rng=rng,
    )
    ending = f" wearing a {scene.hat}" if scene.hat != "none" and said[2] else ""
    place = f" {CONTEXTS[scene.context]}" if said[3] else ""
    return _article(f"{opening} {words}{ending}{place}")


def rival_captions(scene: Scene, rng: np.random.Generator) -> list[str]:
    """Describe a scene once for each pattern but plain, in the same words else; the pattern is always said."""
    while True:
        said = caption(scene, rng)
        for own in (scene.instance.pattern, _NOUNS[scene.instance.pattern]):
            if own in said.split():
                others = _NOUNS.values() if own in _NOUNS.values() else _NOUNS
                return [said.replace(own, other) for other in others]


def prompt(kind: str, colour: str, pattern: str, context: str) -> str:
    """Return the full description used for evaluation: `a photo of a red striped dog in the snow`."""
    return _article(f"a photo of a {colour} {pattern} {kind} {CONTEXTS[context]}")


def describe(
    *,
    kind: str,
    colour: str | None,
    second: str | None,
    pattern: str | None,
    rng: np.random.Generator,
) -> str:
    """Return the words for a subject, without an article; None leaves an attribute out."""
    form = int(rng.integers(4))
    if pattern is None or pattern == "plain":
        plain = ["plain"] if pattern == "plain" else []
        if colour and second:
            return " ".join([*plain, colour, "and", second, kind])
        colours = [colour] if colour else []
        return " ".join([*colours, *plain, kind] if form % 2 else [*plain, *colours, kind])
    noun = _NOUNS[pattern]
    if colour is None:
        return f"{pattern} {kind}" if form else f"{kind} with {noun}"
    if second:
        if form < 2:
            return f"{colour} and {second} {pattern} {kind}"
        tail = f"with {second} {noun}"
        return f"{colour} {pattern} {kind} {tail}" if form == 2 else f"{colour} {kind} {tail}"
    return (
        f"{colour} {pattern} {kind}",
        f"{colour} {pattern} {kind}",
        f"{pattern} {colour} {kind}",
        f"{colour} {kind} with {noun}",
    )[form]


def _article(text: str) -> str:
    """Use `an` before a vowel, as in `an orange dog`."""
    return re.sub(r"\ba (?=orange\b)", "an ", text)
