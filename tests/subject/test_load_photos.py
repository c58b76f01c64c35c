"""Which photos are taken, which are refused and in what words, and what is worth a warning."""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from kubooth_trainer.errors import BadSubjectError
from kubooth_trainer.subject import load_photos


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


def truncated(folder: Path) -> None:
    whole = (folder / "1.jpg").read_bytes()
    (folder / "bad.jpg").write_bytes(whole[: len(whole) // 2])


def truncated_png(folder: Path) -> None:
    Image.open(folder / "1.jpg").save(folder / "whole.png")
    whole = (folder / "whole.png").read_bytes()
    (folder / "whole.png").unlink()
    (folder / "bad.png").write_bytes(whole[: len(whole) // 2])


def small(folder: Path) -> None:
    Image.open(folder / "1.jpg").resize((30, 30)).save(folder / "bad.jpg")


def narrow(folder: Path) -> None:
    Image.open(folder / "1.jpg").resize((400, 63)).save(folder / "bad.png")


def written(name: str, data: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).write_bytes(data)

    return write


BAD_PHOTOS: dict[str, tuple[Callable[[Path], None], str]] = {
    "zero bytes": (written("bad.jpg", b""), "bad.jpg is empty (0 bytes)"),
    "text named jpg": (written("bad.jpg", b"this is not a photo\n"), "bad.jpg holds text, not a picture"),
    "html named png": (written("bad.png", b"<!doctype html><p>404"), "bad.png holds text, not a picture"),
    "noise named jpg": (written("bad.jpg", bytes(range(256)) * 8), "bad.jpg is not a picture that can be read"),
    "truncated jpeg": (truncated, "bad.jpg is damaged or cut off"),
    "truncated png": (truncated_png, "bad.png is damaged or cut off"),
    "header only": (written("bad.jpg", b"\xff\xd8\xff\xe0"), "bad.jpg is not a picture"),
    "30 pixels": (small, "bad.jpg is 30 x 30 pixels, too small (the shorter side needs at least 64)"),
    "63 pixels on one side": (narrow, "bad.png is 400 x 63 pixels, too small"),
    "bomb of 50,000 x 50,000": (written("bad.png", png_header(50_000, 50_000)), "bad.png has more than 100 megapixels"),
    "bomb of 110 megapixels": (
        written("bad.png", png_header(11_000, 10_000)),
        "bad.png has more than 100 megapixels (11000 x 10000)",
    ),
    "gigantic header": (written("bad.png", png_header(2**31 - 1, 2**31 - 1)), "bad.png has more than 100 megapixels"),
    "heic": (written("bad.heic", b"\0\0\0\x18ftypheic"), "bad.heic is a HEIC file (export it as JPEG or PNG)"),
    "heic named jpg": (written("bad.jpg", b"\0\0\0\x18ftypheic" + b"\0" * 50), "bad.jpg is a HEIC, AVIF or video"),
    "camera raw": (written("bad.CR2", b"II*\0"), "bad.CR2 is a CR2 file"),
    "video": (written("bad.mov", b"\0\0\0\x14ftypqt  "), "bad.mov is a MOV file"),
    "postscript named png": (written("bad.png", b"%!PS-Adobe-3.0 EPSF-3.0\n"), "bad.png holds text"),
}


@pytest.mark.parametrize(("spoil", "sentence"), BAD_PHOTOS.values(), ids=BAD_PHOTOS.keys())
def test_one_bad_photo_is_named(photos: Path, spoil: Callable[[Path], None], sentence: str) -> None:
    spoil(photos)
    with pytest.raises(BadSubjectError) as caught:
        load_photos(photos, resolution=512, captions=False)
    said = str(caught.value)
    assert said.startswith("subject.images: 1 photo of 5 cannot be used: ")
    assert sentence in said
    assert said.endswith("replace or remove it")
    assert "\n" not in said


def test_all_bad_photos_are_named_at_once(photos: Path) -> None:
    (photos / "2.jpg").write_bytes(b"")
    small(photos)
    with pytest.raises(BadSubjectError, match="2 photos of 5") as caught:
        load_photos(photos, resolution=512, captions=False)
    assert "2.jpg is empty" in str(caught.value)
    assert "bad.jpg is 30 x 30" in str(caught.value)


def test_the_smallest_side_follows_a_small_resolution(photos: Path) -> None:
    Image.open(photos / "1.jpg").resize((40, 48)).save(photos / "small.png")
    assert len(load_photos(photos, resolution=32, captions=False).photos) == 5


def emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def only_captions(folder: Path) -> None:
    emptied(folder)
    (folder / "1.txt").write_text("a photo")
    (folder / ".hidden.jpg").write_bytes(b"x")


def one_level_down(folder: Path) -> None:
    emptied(folder)
    (folder / "inner").mkdir()


def a_hundred_and_one(folder: Path) -> None:
    for index in range(97):
        shutil.copy(folder / "1.jpg", folder / f"copy-{index}.jpg")


BAD_SETS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no photos": (emptied, "no photos in rex: put three to five"),
    "captions and hidden files only": (only_captions, "no photos in rex"),
    "photos one folder down": (one_level_down, "such as inner, are not searched"),
    "more than a hundred": (a_hundred_and_one, "holds 101 photos, more than 100"),
    "no folder": (shutil.rmtree, "is not a folder"),
}


@pytest.mark.parametrize(("spoil", "sentence"), BAD_SETS.values(), ids=BAD_SETS.keys())
def test_bad_sets(photos: Path, spoil: Callable[[Path], None], sentence: str) -> None:
    spoil(photos)
    with pytest.raises(BadSubjectError) as caught:
        load_photos(photos, resolution=512, captions=False)
    assert sentence in str(caught.value)


def test_photos_come_sorted_upright_and_with_the_digest_of_their_file(photos: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(photos / "1.jpg").save(photos / "0.jpg", exif=exif)
    (photos / ".DS_Store").write_bytes(b"x")
    (photos / "Thumbs.db").write_bytes(b"x")
    (photos / "1.txt").write_text("unused without captions")
    (photos / "CREDITS.md").write_text("by a friend")
    subject = load_photos(photos, resolution=64, captions=False)
    assert [photo.name for photo in subject.photos] == ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "4.jpg"]
    assert [photo.image.size for photo in subject.photos[:2]] == [(120, 160), (160, 120)]
    assert {photo.image.mode for photo in subject.photos} == {"RGB"}
    assert all(photo.caption is None for photo in subject.photos)
    assert subject.photos[1].sha256 == hashlib.sha256((photos / "1.jpg").read_bytes()).hexdigest()
    assert subject.findings == ()


def test_large_photos_are_kept_at_twice_the_resolution(photos: Path, picture: Callable[..., Image.Image]) -> None:
    picture(9, size=(1600, 1200)).save(photos / "large.jpg")
    assert load_photos(photos, resolution=64, captions=False).photos[-1].image.size == (171, 128)


def saved_again(folder: Path) -> None:
    Image.open(folder / "2.jpg").save(folder / "5.jpg", quality=60)


def mirrored(folder: Path) -> None:
    Image.open(folder / "2.jpg").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "5.jpg")


def animated(folder: Path) -> None:
    frames = [Image.new("RGB", (80, 80), colour) for colour in ("red", "blue")]
    noise = Image.open(folder / "1.jpg").crop((0, 0, 60, 60))
    for frame in frames:
        frame.paste(noise, (10, 10))
    frames[0].save(folder / "5.gif", save_all=True, append_images=frames[1:], duration=50)


def two_only(folder: Path) -> None:
    (folder / "3.jpg").unlink()
    (folder / "4.jpg").unlink()


def copied(folder: Path) -> None:
    shutil.copy(folder / "2.jpg", folder / "5.jpg")


def many(folder: Path, picture: Callable[..., Image.Image] | None = None) -> None:
    for index in range(20):
        shutil.copy(folder / "1.jpg", folder / f"copy-{index}.jpg")


def long_strip(folder: Path) -> None:
    Image.open(folder / "1.jpg").resize((900, 100)).save(folder / "5.png")


def blank(folder: Path) -> None:
    Image.new("RGB", (100, 100), "teal").save(folder / "5.png")


def below_resolution(folder: Path) -> None:
    Image.open(folder / "1.jpg").rotate(90, expand=True).crop((0, 0, 70, 70)).save(folder / "5.png")


def inner_folder(folder: Path) -> None:
    (folder / "originals").mkdir()


WARNINGS: dict[str, tuple[Callable[[Path], None], str]] = {
    "same file twice": (copied, "2.jpg and 5.jpg are the same file"),
    "saved again": (saved_again, "2.jpg and 5.jpg are nearly the same picture"),
    "mirrored": (mirrored, "2.jpg and 5.jpg are nearly mirror images"),
    "animated": (animated, "5.gif has 2 frames: only the first is used."),
    "fewer than three": (two_only, "Only 2 photos"),
    "more than twenty": (many, "24 photos: three to five are usual"),
    "long strip": (long_strip, "5.png is very long (900 x 100 pixels)"),
    "one colour": (blank, "5.png is one single colour"),
    "smaller than the resolution": (below_resolution, "5.png is 70 x 70 pixels, smaller than the training resolution"),
    "other files": (written("notes.pdf", b"%PDF"), "Ignored, because not photos: notes.pdf."),
    "inner folder": (inner_folder, "originals"),
}


@pytest.mark.parametrize(("change", "sentence"), WARNINGS.values(), ids=WARNINGS.keys())
def test_odd_but_usable_sets_are_warned_of(photos: Path, change: Callable[[Path], None], sentence: str) -> None:
    change(photos)
    found = [finding.message for finding in load_photos(photos, resolution=100, captions=False).findings]
    assert any(sentence in warning for warning in found), found


def test_captions_become_templates_and_gaps_are_warned_of(photos: Path) -> None:
    (photos / "1.txt").write_text("a {identifier} {class}\n on  a beach\n")
    (photos / "2.txt").write_text("just a beach")
    subject = load_photos(photos, resolution=64, captions=True)
    assert [p.caption for p in subject.photos] == ["a {identifier} {class} on a beach", "just a beach", None, None]
    found = [finding.message for finding in subject.findings]
    assert any("Without a caption" in message and "3.jpg, 4.jpg" in message for message in found)
    assert any("Captions without {identifier}" in message and "2.jpg" in message for message in found)


BAD_CAPTIONS = {"empty": b" \n", "too long": b"x" * 1001, "not UTF-8": b"\xff\xfe\x00a"}


@pytest.mark.parametrize("data", BAD_CAPTIONS.values(), ids=BAD_CAPTIONS.keys())
def test_bad_captions_are_refused(photos: Path, data: bytes) -> None:
    (photos / "3.txt").write_bytes(data)
    with pytest.raises(BadSubjectError, match=r"3\.jpg has a caption, 3\.txt, that is"):
        load_photos(photos, resolution=64, captions=True)


def test_a_name_that_is_no_text_can_be_written_into_a_report(photos: Path) -> None:
    (photos / "1.jpg").rename(os.fsdecode(os.fsencode(photos) + b"/caf\xe9.jpg"))  # Latin-1, as old archives have it
    subject = load_photos(photos, resolution=160, captions=False)
    assert subject.photos[3].name == "caf\ufffd.jpg"
    for text in [finding.message for finding in subject.findings] + [photo.name for photo in subject.photos]:
        text.encode()
    assert any("caf\ufffd.jpg" in finding.message for finding in subject.findings)  # it is smaller than 160 pixels
