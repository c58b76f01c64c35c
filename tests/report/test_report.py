"""The page: what it says, that it needs nothing from elsewhere, and that no text of a user becomes markup."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import pytest
from PIL import Image

from kubooth_trainer.report import PromptComparison, ReportData, render_report

MakeData = Callable[..., ReportData]
VOID = {"meta", "img", "link", "br", "hr", "input", "line", "polyline", "path"}


class Page(HTMLParser):
    """Tags with their attributes, text outside of them, and whether every tag is closed where it should be."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def test_it_tells_the_whole_story(data: MakeData) -> None:
    page = Page(render_report(data(warnings=["03.jpg is one single colour: it shows no subject."])))
    assert page.open == []
    for sentence in (
        "Learned from 5 photos and 200 class images in 800 steps on 2 ranks, in 4 min 21 s.",
        "s3://models/personalized/rex/",
        "1 thing to look at",
        "03.jpg is one single colour",
        "Did the class survive?",
        "200 pictures of “a dog” held the class in place",
        "The learning rate was 5e-6 throughout",
        "2 min 24 s",
        'pipeline = DiffusionPipeline.from_pretrained("rex") # a copy of s3://models/personalized/rex/',
        "kubooth sample rex 'a photo of {identifier} {class}' -n 4 -o grid.png",
        "identifier: zqx",
        "adamBeta2 0.999",
        "torch 2.13.0",
        "on 05 March 2026 at 14:30 UTC",
    ):
        assert sentence in page.words, sentence


def test_photos_are_listed_with_what_was_found_in_them(data: MakeData) -> None:
    blurred = "01.jpg is blurred: replace it."
    found = Page(render_report(data(photo_check=[("00.jpg", []), ("01.jpg", [blurred, "It is small."])])))
    assert found.open == []
    assert f"Photo Found 01.jpg {blurred} It is small." in found.words
    assert "nothing to remark" in Page(render_report(data(photo_check=[("00.jpg", [])]))).words
    assert "nothing to remark" not in Page(render_report(data())).words


def test_it_loads_nothing_and_runs_nothing(data: MakeData) -> None:
    html = render_report(data())
    page = Page(html)
    assert not page.of("script")
    assert not page.of("link")
    assert all(str(image["src"]).startswith("data:image/") for image in page.of("img"))
    assert all(str(anchor["href"]).startswith("#") for anchor in page.of("a"))
    assert not re.search(r"@import|url\(|javascript:|https?://", html)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_it_can_be_read_without_seeing(data: MakeData) -> None:
    page = Page(render_report(data()))
    assert all(image["alt"] for image in page.of("img"))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all("scope" in header for header in page.of("th"))
    names = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(names) == len(set(names))
    assert {str(anchor["href"])[1:] for anchor in page.of("a")} <= set(names)
    labels = {str(attributes["aria-labelledby"]) for _, attributes in page.tags if "aria-labelledby" in attributes}
    assert labels <= set(names)
    plots = [attributes for _, attributes in page.tags if attributes.get("role") == "img"]
    assert plots
    assert str(plots[0]["aria-label"]).startswith("Loss from step 10 to 800: instance loss from 0.1")
    assert page.of("html")[0]["lang"] == "en"


EVIL = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>{{ 7*7 }}"


def evil_everywhere(data: MakeData, config: Callable[..., Any]) -> ReportData:
    picture = Image.new("RGB", (8, 8))
    return data(
        config=config(
            job={"name": EVIL, "namespace": EVIL},
            subject={"class_name": EVIL, "prompt_template": EVIL, "images": EVIL},
            prior={"prompt": EVIL},
            output={"uri": EVIL},
            evaluation={"prompts": [EVIL]},
        ),
        identifier=EVIL,
        photos=[(EVIL, picture)],
        comparisons=[PromptComparison(prompt=EVIL, before=[picture], after=[picture])],
        warnings=[EVIL],
        versions={EVIL: EVIL},
        job_yaml=EVIL,
        precision=EVIL,
    )


def test_text_from_users_never_becomes_markup(data: MakeData, config: Callable[..., Any]) -> None:
    html = render_report(evil_everywhere(data, config))
    page = Page(html)
    assert page.open == []
    assert not page.of("script")
    assert "{{ 7*7 }}" in page.words
    assert all(str(image["src"]).startswith("data:") and "onerror" not in image for image in page.of("img"))
    assert page.words.count("<script>alert('x')</script>") > 10


EMPTY: dict[str, tuple[dict[str, Any], str]] = {
    "no comparisons": ({"comparisons": []}, "No pictures were made"),
    "no history": ({"history": []}, "No losses were recorded"),
    "no class images": ({"class_images": []}, "Did the class survive?"),
    "no stages": ({"stages": []}, "How the training went"),
    "no versions": ({"versions": {}}, "Versions"),
    "one photo": ({"photos": [("a.jpg", Image.new("RGB", (9, 9)))]}, "Learned from 1 photo and"),
    "no photos": ({"photos": []}, "Learned from 0 photos"),
    "no time": ({"seconds": 0.0}, "in 0.0 s"),
}


@pytest.mark.parametrize(("changes", "sentence"), EMPTY.values(), ids=EMPTY.keys())
def test_what_is_missing_leaves_a_whole_page(data: MakeData, changes: dict[str, Any], sentence: str) -> None:
    page = Page(render_report(data(**changes)))
    assert page.open == []
    assert sentence in page.words
    assert "None" not in page.words.replace("offload None", "").replace("offload: None", "")


def test_without_prior_preservation(data: MakeData, config: Callable[..., Any]) -> None:
    page = Page(render_report(data(config=config(prior={"enabled": False}), class_images=[], comparisons=[])))
    assert "class images" not in page.words.lower()
    assert "Did the class survive?" not in page.words


def test_pictures_of_one_prompt_pair_up_by_seed(data: MakeData) -> None:
    def shade(value: int) -> Image.Image:
        return Image.new("RGB", (64, 64), (value, value, value))

    comparison = PromptComparison(prompt="zqx dog", before=[shade(i) for i in range(6)], after=[shade(9)] * 5)
    page = Page(render_report(data(photos=[], class_images=[], comparisons=[comparison])))
    alts = [image["alt"] for image in page.of("img")]
    assert alts[:4] == [
        "Before, picture 1: zqx dog",
        "After, picture 1: zqx dog",
        "Before, picture 2: zqx dog",
        "After, picture 2: zqx dog",
    ]
    assert len(alts) == 11
    assert "none" in page.words  # the sixth has no counterpart


def test_the_same_data_gives_the_same_page(data: MakeData) -> None:
    assert render_report(data()) == render_report(data())


def test_many_pictures_are_embedded_smaller(data: MakeData) -> None:
    noise = Image.effect_noise((512, 512), 60).convert("RGB")
    few = [PromptComparison(prompt="prompt", before=[noise], after=[noise])]
    many = [PromptComparison(prompt=f"prompt {i}", before=[noise] * 4, after=[noise]) for i in range(20)]
    assert len(render_report(data(comparisons=many))) < 25 * len(render_report(data(comparisons=few)))
