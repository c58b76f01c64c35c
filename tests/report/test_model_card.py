"""The model card: its front matter, its code, and that no text of a user becomes markup."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from kubooth_trainer.model_card import render_model_card
from kubooth_trainer.report import ReportData

MakeData = Callable[..., ReportData]


def front_matter(card: str) -> dict[str, Any]:
    _, head, _ = card.split("---\n", 2)
    values: dict[str, Any] = yaml.safe_load(head)
    return values


def code(card: str) -> str:
    found = re.search(r"```python\n(.*?)\n```", card, re.DOTALL)
    assert found
    return found[1]


def test_front_matter(data: MakeData) -> None:
    values = front_matter(render_model_card(data()))
    assert values["base_model"] == "small"
    assert values["library_name"] == "diffusers"
    assert values["instance_prompt"] == "a photo of zqx dog"
    assert "license" not in values


def test_what_it_says(data: MakeData) -> None:
    card = render_model_card(data())
    for sentence in (
        "# zqx dog",
        "from 5 photos",
        "| Prior preservation | 200 images, weight 1 |",
        "| Ranks | 2 \\(ZeRO stage 2\\) |",
        "| Date | 2026-03-05 |",
        "licence and the terms of use of the base model apply",
    ):
        assert sentence in card, sentence


CODE: dict[str, tuple[dict[str, Any], str]] = {
    "bucket": ({"uri": "s3://models/rex/"}, "DiffusionPipeline.from_pretrained('rex')"),
    "bucket root": ({"uri": "s3://models"}, "DiffusionPipeline.from_pretrained('models')"),
    "folder": ({"uri": "file:///data/my%20rex/"}, "DiffusionPipeline.from_pretrained('/data/my rex/')"),
    "single file": (
        {"uri": "file:///data/rex", "format": "SingleFile"},
        "StableDiffusionPipeline.from_single_file('/data/rex/model.safetensors', config='/data/rex/config')",
    ),
}


@pytest.mark.parametrize(("output", "call"), CODE.values(), ids=CODE.keys())
def test_code_is_python_and_loads_the_output(
    data: MakeData, config: Callable[..., Any], output: dict[str, Any], call: str
) -> None:
    card = render_model_card(data(config=config(output=output)))
    assert call in ast.unparse(ast.parse(code(card)))


def test_text_from_users_stays_text(data: MakeData, config: Callable[..., Any]) -> None:
    evil = '<b>x</b> [a](http://b) | ``` \n# no --- "quote'
    card = render_model_card(data(config=config(subject={"class_name": evil, "prompt_template": evil})))
    assert front_matter(card)["instance_prompt"] == " ".join(evil.split())
    outside = re.sub(r"(?s)(`{3,}).*?\1", "", card.split("---\n", 2)[2])
    assert not re.search(r"(?<!\\)<b>", outside)
    assert not re.search(r"(?<!\\)\[a\]", outside)
    headings = [line for line in outside.splitlines() if line.startswith("#")]
    assert len(headings) == 5
    found = re.search(r"(?s)(`{3,})python\n(.*?)\n\1", card)
    assert found
    ast.parse(found[2])
