"""The figures as a person reads them: a plain sentence each, numbers with intervals, and where they lie on a line.

Pure; called by `report`. A sentence claims a change only where the interval of the change leaves no doubt of its
direction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kubooth_trainer.metrics import Estimate
from kubooth_trainer.quality import TITLES, Figure, FigureName, Overfit, Quality

DIGITS = 2


@dataclass(frozen=True, kw_only=True)
class Mark:
    """One side on the line; positions in percent from the left. `low` None: no interval."""

    side: str
    text: str
    at: float
    low: float | None
    width: float


@dataclass(frozen=True, kw_only=True)
class Card:
    """One figure: its plain name, its name in the papers, the sentence, and its marks."""

    name: str
    metric: str
    sentence: str
    marks: tuple[Mark, ...]
    rows: tuple[tuple[str, str, str], ...]  # prompt, before, after
    note: str


@dataclass(frozen=True, kw_only=True)
class QualityShown:
    """What `quality.html` shows."""

    cards: tuple[Card, ...]
    absent: tuple[str, ...]
    verdict: str
    verdict_message: str
    encoders: tuple[tuple[str, str], ...]
    basis: str


def quality_shown(quality: Quality, *, class_name: str) -> QualityShown:
    cards = [_card(figure, class_name, quality.leak) for figure in quality.figures]
    if quality.overfit is not None:
        cards.append(_overfit_card(quality.overfit))
    judgement = quality.judgement
    photos = f"{quality.photos} photo{'s' * (quality.photos != 1)}"
    return QualityShown(
        cards=tuple(cards),
        absent=quality.absent,
        verdict=judgement.verdict if judgement else "",
        verdict_message=judgement.message if judgement else "",
        encoders=tuple(
            (each.role, f"{each.architecture}; {each.preprocessing}; SHA-256 {each.digest[:16]}… ({each.uri})")
            for each in quality.encoders
        ),
        basis=f"{photos}; {quality.images_per_prompt} pictures of each prompt before and after, of equal seeds.",
    )


def _card(figure: Figure, class_name: str, leak: float | None) -> Card:
    plain = {
        "Dino": "Likeness to the subject",
        "ClipI": "Likeness in kind",
        "ClipT": "Faithful to the prompt",
        "Pres": "Class drift",
        "Div": "Variety of the subject",
        "ClassDiv": f"Variety of any {class_name}",
    }
    marks = [_mark("Before", figure.before), _mark("After", figure.after)]
    if figure.bound is not None:
        marks.append(_mark("Photos", figure.bound))
    notes = sorted({each.note for each in (figure.before, figure.change, figure.bound) if each and each.note})
    return Card(
        name=plain[figure.name],
        metric=TITLES[figure.name],
        sentence=_sentence(figure, class_name, leak),
        marks=tuple(mark for mark in marks if mark is not None),
        rows=tuple((each.prompt, shown(each.before), shown(each.after)) for each in figure.prompts),
        note="; ".join(notes),
    )


def _sentence(figure: Figure, class_name: str, leak: float | None) -> str:
    if figure.change.value is None:
        return f"Not measured: {figure.change.note}."
    rose, fell = _is_surely(figure.change)
    word: Callable[[str, str, str], str] = lambda up, down, same: up if rose else down if fell else same  # noqa: E731
    sentences: dict[FigureName, str] = {
        "Dino": word(
            "The pictures have come nearer to the photos: the subject was learned.",
            "The pictures have moved away from the photos: the subject was not learned.",
            "It is not certain that the subject was learned: other seeds could turn the result around.",
        ),
        "ClipI": word(
            "The pictures show more of the same kind of thing as the photos.",
            "The pictures show less of the same kind of thing as the photos.",
            "In kind, the pictures are about as near to the photos as before.",
        ),
        "ClipT": word(
            "The pictures follow their prompts better than before.",
            "The pictures follow their prompts less than before.",
            "The pictures follow their prompts about as well as before.",
        ),
        "Pres": word(
            f"Any {class_name} has drifted towards yours{'' if leak is None else _leaked(leak)}.",
            f"Any {class_name} has not drifted towards yours: it is farther from the photos than before.",
            f"Any {class_name} stays where it was: no drift towards yours can be told.",
        ),
        "Div": word(
            "Pictures of one prompt differ more from each other than before.",
            "Pictures of one prompt differ less from each other than before, as is natural for one subject.",
            "Pictures of one prompt differ as much from each other as before.",
        ),
        "ClassDiv": word(
            "The class has become more varied.",
            "The class has lost variety.",
            "The class has kept its variety.",
        ),
    }
    return sentences[figure.name]


def _leaked(leak: float) -> str:
    return f", by {leak:.0%} of the likeness that was gained"


def _is_surely(change: Estimate) -> tuple[bool, bool]:
    """(rose, fell) beyond doubt; without an interval neither can be said."""
    if change.low is None or change.high is None:
        return False, False
    return change.low > 0, change.high < 0


def _overfit_card(overfit: Overfit) -> Card:
    after, bound = overfit.after.value, overfit.bound.value
    if after is None or bound is None:
        sentence = f"The picture nearest to a photo: “{overfit.prompt}”, near {overfit.photo}."
    elif after > bound:
        sentence = (
            f"A picture of “{overfit.prompt}” is nearer to {overfit.photo} than any two photos are to each other: "
            "look whether it repeats that photo."
        )
    else:
        sentence = "No picture is nearer to a photo than the photos are to each other: none repeats one."
    marks = [
        _mark("Before", overfit.before),
        _mark("After", overfit.after),
        _mark("Photos", overfit.bound),
    ]
    return Card(
        name="Copies of photos",
        metric="highest DINO similarity",
        sentence=sentence,
        marks=tuple(mark for mark in marks if mark is not None),
        rows=(),
        note=overfit.bound.note,
    )


def shown(estimate: Estimate) -> str:
    """`0.62 (0.58 to 0.66)`; what is not defined says so."""
    if estimate.value is None:
        return "not defined"
    text = f"{estimate.value:z.{DIGITS}f}"
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} ({estimate.low:z.{DIGITS}f} to {estimate.high:z.{DIGITS}f})"


def _mark(side: str, estimate: Estimate) -> Mark | None:
    if estimate.value is None:
        return None

    def at(value: float) -> float:
        return round(100 * min(1.0, max(0.0, value)), 1)

    low, high = estimate.low, estimate.high
    return Mark(
        side=side,
        text=shown(estimate),
        at=at(estimate.value),
        low=None if low is None else at(low),
        width=0.0 if low is None or high is None else round(at(high) - at(low), 1),
    )
