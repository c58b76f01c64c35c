"""The figures on the page: sentences that claim no more than intervals allow, and reasons where there are none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from report.test_report import Page

from kubooth_trainer.metrics import Estimate, undefined
from kubooth_trainer.quality import (
    EncoderFacts,
    Figure,
    FigureName,
    Judgement,
    Overfit,
    PromptFigure,
    Quality,
)
from kubooth_trainer.report import ReportData, render_report
from kubooth_trainer.report_quality import quality_shown, shown

MakeData = Callable[..., ReportData]


def around(value: float, spread: float = 0.05) -> Estimate:
    return Estimate(value=value, low=value - spread, high=value + spread, count=60)


def figure(name: FigureName, before: float, after: float, *, spread: float = 0.05) -> Figure:
    prompts = ("a zqx dog in the snow", "a zqx dog <on> the beach")
    return Figure(
        name=name,
        before=around(before),
        after=around(after),
        change=around(after - before, spread),
        prompts=tuple(PromptFigure(prompt=each, before=around(before), after=around(after)) for each in prompts),
        bound=around(0.8) if name == "Dino" else None,
    )


QUALITY = Quality(
    figures=(
        figure("Dino", 0.31, 0.72),
        figure("Pres", 0.30, 0.32),
        figure("ClipI", 0.6, 0.8),
        figure("ClipT", 0.31, 0.28),
        figure("Div", 0.4, 0.3),
        figure("ClassDiv", 0.41, 0.40),
    ),
    overfit=Overfit(
        before=Estimate(value=0.5), after=Estimate(value=0.93), prompt="a zqx dog in the snow", photo="01.jpg",
        bound=Estimate(value=0.85),
    ),
    encoders=(
        EncoderFacts(
            role="dino", uri="s3://models/dino/", architecture="ViT, 12 layers of 384, patches of 16",
            preprocessing="shorter side to 256", digest="ab" * 32, domain="",
        ),
    ),
    photos=5,
    images_per_prompt=4,
    judgement=Judgement(verdict="Rejected", message="identityGain must be at least 0.5, got 0.410"),
)  # fmt: skip


def test_every_figure_has_its_numbers_and_a_plain_sentence(data: MakeData) -> None:
    page = Page(render_report(data(quality=QUALITY)))
    assert page.open == []
    for words in (
        "Likeness to the subject DINO The pictures have come nearer to the photos: the subject was learned.",
        "0.31 (0.26 to 0.36)",
        "0.72 (0.67 to 0.77)",
        "Any dog stays where it was",
        "The class has kept its variety.",
        "is nearer to 01.jpg than any two photos are to each other",
        "Quality gate: missed. identityGain must be at least 0.5, got 0.410.",
        "5 photos; 4 pictures of each prompt before and after, of equal seeds.",
        "ViT, 12 layers of 384, patches of 16",
        "a zqx dog <on> the beach",
    ):
        assert words in page.words, words


SENTENCES: list[tuple[FigureName, float, str]] = [
    ("Dino", 0.2, "the subject was learned."),
    ("Dino", 0.01, "It is not certain"),
    ("Dino", -0.2, "was not learned"),
    ("Pres", 0.2, "has drifted towards yours"),
    ("Pres", 0.01, "stays where it was"),
    ("ClassDiv", -0.2, "has lost variety"),
    ("ClassDiv", 0.0, "has kept its variety"),
    ("ClipT", -0.2, "follow their prompts less"),
    ("Div", -0.2, "differ less"),
    ("ClipI", 0.2, "more of the same kind"),
]


@pytest.mark.parametrize(("name", "change", "words"), SENTENCES)
def test_a_sentence_claims_only_what_the_interval_allows(name: FigureName, change: float, words: str) -> None:
    (card,) = quality_shown(Quality(figures=(figure(name, 0.4, 0.4 + change),)), class_name="dog").cards
    assert words in card.sentence


def test_what_is_undefined_is_said_and_never_a_nan(data: MakeData) -> None:
    why = "there are no two photos to compare"
    one = Figure(
        name="Dino", before=around(0.3), after=around(0.5), change=undefined(why), prompts=(), bound=undefined(why)
    )
    page = Page(render_report(data(quality=Quality(figures=(one,), photos=1, images_per_prompt=1))))
    assert f"Not measured: {why}." in page.words
    assert "nan" not in page.words.lower().split()


def test_zero_has_no_sign() -> None:
    assert shown(Estimate(value=-0.001, low=-0.2, high=-0.0)) == "0.00 (-0.20 to 0.00)"


def test_without_encoders_the_page_says_why_there_are_no_figures(data: MakeData) -> None:
    page = Page(render_report(data()))
    assert "Nothing was measured: the runtime names no encoders." in page.words
    assert "Likeness to the subject" not in page.words


def test_the_leak_is_the_part_of_the_gain_that_the_class_shows_too() -> None:
    learned = figure("Dino", 0.3, 0.7)
    leaking = Quality(figures=(learned, figure("Pres", 0.3, 0.5)))
    assert leaking.leak == pytest.approx(0.5)
    assert leaking.flat()["Leak"] == pytest.approx(0.5)
    assert '"leak": 0.5' in leaking.to_json()
    assert quality_shown(leaking, class_name="dog").cards[1].sentence == (
        "Any dog has drifted towards yours, by 50% of the likeness that was gained."
    )
    assert Quality(figures=(learned, figure("Pres", 0.5, 0.3))).leak == 0.0


@pytest.mark.parametrize(
    "figures",
    [
        (figure("Pres", 0.3, 0.5),),
        (figure("Dino", 0.3, 0.7),),
        (figure("Dino", 0.30, 0.32), figure("Pres", 0.3, 0.5)),
        (figure("Dino", 0.7, 0.3), figure("Pres", 0.3, 0.5)),
    ],
    ids=["no identity", "no drift", "perhaps not learned", "unlearned"],
)
def test_no_leak_is_told_where_nothing_was_surely_learned(figures: tuple[Figure, ...]) -> None:
    quality = Quality(figures=figures)
    assert quality.leak is None
    assert "Leak" not in quality.flat()
    assert "%" not in quality_shown(quality, class_name="dog").cards[-1].sentence
