"""What is said about photos before training: real photos and drawings as they are, and spoiled copies of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from PIL import Image, ImageChops, ImageEnhance, ImageFilter

from kubooth_trainer.photo_check import LEAST_SHARPNESS, Finding, check_photos, sharpness
from kubooth_trainer.photo_check import _grey as grey

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SETS = {name: sorted((EXAMPLES / name).glob("*.[jp][pn]g")) for name in ("dog", "quickstart/photos")}
SETS["ablations"] = sorted((EXAMPLES / "ablations" / "photos-5").glob("*.png"))


def opened(paths: Sequence[Path]) -> list[Image.Image]:
    return [Image.open(path).convert("RGB") for path in paths]


def found(images: Sequence[Image.Image]) -> list[Finding]:
    names = [f"{index}.png" for index in range(len(images))]
    return check_photos(names, [hashlib.sha256(image.tobytes()).hexdigest() for image in images], images)


def blurred(image: Image.Image, share: float = 0.01) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(share * min(image.size)))


def smeared(image: Image.Image) -> Image.Image:
    """As a shaking hand would: the mean over a shift of 4% of the side."""
    steps = [ImageChops.offset(image, round(0.01 * index * image.width), 0) for index in range(5)]
    mean = steps[0]
    for index, step in enumerate(steps[1:], 2):
        mean = Image.blend(mean, step, 1 / index)
    return mean.filter(ImageFilter.BoxBlur(0.01 * image.width))


@pytest.mark.parametrize("paths", SETS.values(), ids=SETS.keys())
def test_nothing_is_wrong_with_the_photos_of_the_examples(paths: list[Path]) -> None:
    assert len(paths) > 3
    assert found(opened(paths)) == []


@pytest.mark.parametrize("paths", SETS.values(), ids=SETS.keys())
def test_sharp_and_blurred_are_far_apart(paths: list[Path]) -> None:
    for image in opened(paths):
        assert sharpness(grey(image)) > 10 * LEAST_SHARPNESS
        assert sharpness(grey(blurred(image))) < 0.6 * LEAST_SHARPNESS


def test_a_sharp_subject_before_a_blurred_background_is_sharp() -> None:
    photo = opened(SETS["dog"])[0]
    behind = blurred(photo, 0.03)
    middle = [round(part * side) for part, side in zip((0.3, 0.3, 0.7, 0.7), (*photo.size, *photo.size), strict=True)]
    behind.paste(photo.crop(tuple(middle)), middle[:2])  # type: ignore[arg-type]
    assert sharpness(grey(behind)) > LEAST_SHARPNESS


SPOILED: dict[str, tuple[Callable[[Image.Image], Image.Image], str]] = {
    "blurred": (blurred, "1.png is blurred: replace it by a sharp photo"),
    "smeared": (smeared, "1.png is blurred"),
    "dark": (lambda image: ImageEnhance.Brightness(image).enhance(0.15), "1.png is far darker than the other photos"),
    "bright": (lambda image: Image.eval(image, lambda level: 235 + level // 16), "1.png is far brighter than"),
    "one-colour": (lambda image: Image.new("RGB", image.size, "teal"), "1.png is one single colour"),
    "even": (
        lambda image: Image.eval(image, lambda level: 120 + level // 64),
        "1.png is almost one even colour: it shows no subject. Remove it.",
    ),
}


@pytest.mark.parametrize(("spoil", "words"), SPOILED.values(), ids=SPOILED.keys())
def test_a_spoiled_photo_is_named(spoil: Callable[[Image.Image], Image.Image], words: str) -> None:
    images = [ImageEnhance.Brightness(image).enhance(0.8) for image in opened(SETS["dog"])]
    assert found(images) == []
    images[1] = spoil(images[1])
    findings = found(images)
    assert [finding.photos for finding in findings if words in finding.message] == [("1.png",)], findings
    assert all(finding.photos == ("1.png",) for finding in findings)


def test_what_is_even_is_not_called_blurred_too() -> None:
    images = [*opened(SETS["dog"]), Image.new("RGB", (300, 200), "teal")]
    assert [finding.message.split(":")[0] for finding in found(images)] == ["5.png is one single colour"]


def test_copies_are_found_with_both_names() -> None:
    images = opened(SETS["dog"])
    again = images[2].resize((300, 300)).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    (finding,) = found([*images, again])
    assert finding.photos == ("2.png", "5.png")
    assert "nearly mirror images" in finding.message


@pytest.mark.parametrize("size", [(64, 64), (8, 6), (900, 70)])
def test_photos_of_any_size_can_be_looked_at(size: tuple[int, int]) -> None:
    found([Image.effect_noise(size, 60).convert("RGB")])
