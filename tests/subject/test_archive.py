"""Archives: what is unpacked, and that a hostile one writes nothing."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from kubooth_trainer import archive
from kubooth_trainer.errors import BadSubjectError
from kubooth_trainer.subject import load_photos, unpack_subject


def zipped(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name, data in members.items():
            target.writestr(name, data)


def tarred(path: Path, members: dict[str, bytes], mode: str = "w") -> None:
    with tarfile.open(path, mode) as target:  # type: ignore[call-overload]
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            target.addfile(entry, io.BytesIO(data))


def tar_entry(path: Path, **fields: object) -> None:
    with tarfile.open(path, "w") as target:
        entry = tarfile.TarInfo("1.jpg")
        for name, value in fields.items():
            setattr(entry, name, value)
        target.addfile(entry)


FORMATS: dict[str, Callable[[Path, dict[str, bytes]], None]] = {
    "rex.zip": zipped,
    "rex.ZIP": zipped,
    "rex.tar": tarred,
    "rex.tar.gz": lambda path, members: tarred(path, members, "w:gz"),
    "rex.tgz": lambda path, members: tarred(path, members, "w:gz"),
}
LAYOUTS = {
    "flat": "",
    "in one folder": "rex/",
    "two folders deep": "photos/rex/",
    "with a dot": "./",
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("prefix", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_formats_and_layouts(photos: Path, tmp_path: Path, name: str, prefix: str) -> None:
    members = {f"{prefix}{p.name}": p.read_bytes() for p in sorted(photos.iterdir())}
    members |= {f"{prefix}1.txt": b"a {identifier} {class}", "__MACOSX/._1.jpg": b"x", f"{prefix}.DS_Store": b"x"}
    FORMATS[name](tmp_path / name, members)
    folder = unpack_subject(tmp_path / name, tmp_path / "work" / "photos")
    subject = load_photos(folder, resolution=64, captions=True)
    assert [photo.name for photo in subject.photos] == ["1.jpg", "2.jpg", "3.jpg", "4.jpg"]
    assert subject.photos[0].caption == "a {identifier} {class}"


def test_a_folder_is_used_as_it_is(photos: Path, tmp_path: Path) -> None:
    assert unpack_subject(photos, tmp_path / "unused") == photos
    assert not (tmp_path / "unused").exists()


def test_unpacking_again_replaces(photos: Path, tmp_path: Path) -> None:
    target = tmp_path / "work"
    zipped(tmp_path / "a.zip", {"old.jpg": b"x"})
    unpack_subject(tmp_path / "a.zip", target)
    zipped(tmp_path / "a.zip", {"new.jpg": b"y"})
    assert [p.name for p in unpack_subject(tmp_path / "a.zip", target).iterdir()] == ["new.jpg"]


def zip_link(path: Path) -> None:
    entry = zipfile.ZipInfo("1.jpg")
    entry.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "w") as target:
        target.writestr(entry, "/etc/passwd")


def zip_bomb(path: Path) -> None:
    """640 members of 16 MiB each, 10 GiB together, in a file of 10 MB."""
    size, deflate = 2**24, zlib.compressobj(9, zlib.DEFLATED, -15)
    data = deflate.compress(bytes(size)) + deflate.flush()
    crc, body, directory = zlib.crc32(bytes(size)), io.BytesIO(), io.BytesIO()
    for index in range(640):
        name = f"{index:03d}.jpg".encode()
        common = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 0x21, crc, len(data), size, len(name), 0)
        directory.write(b"PK\x01\x02\x14\0" + common + struct.pack("<HHHII", 0, 0, 0, 0, body.tell()) + name)
        body.write(b"PK\x03\x04" + common + name + data)
    end = struct.pack("<HHHHIIH", 0, 0, 640, 640, len(directory.getvalue()), body.tell(), 0)
    path.write_bytes(body.getvalue() + directory.getvalue() + b"PK\x05\x06" + end)


def zip_lying_about_its_size(path: Path) -> None:
    """64 MiB of zeros that a header calls 1,000 bytes: only that many are ever expanded, and their CRC fails."""
    zipped(path, {"1.jpg": bytes(2**26)})
    data = path.read_bytes().replace(struct.pack("<I", 2**26), struct.pack("<I", 1000))
    path.write_bytes(data)


def tar_bomb(path: Path) -> None:
    """One member of 10 GiB of zeros, as a gzip of 10 MB."""
    entry = tarfile.TarInfo("1.jpg")
    entry.size = 640 * 2**24
    path.write_bytes(gzip.compress(entry.tobuf(tarfile.GNU_FORMAT)) + gzip.compress(bytes(2**24)) * 640)


def tar_of_many_parts(path: Path) -> None:
    """640 members of 16 MiB each: no single header is suspicious."""
    parts = []
    for index in range(640):
        entry = tarfile.TarInfo(f"{index}.jpg")
        entry.size = 2**24
        parts.append(gzip.compress(entry.tobuf(tarfile.GNU_FORMAT)))
    zeros = gzip.compress(bytes(2**24))
    path.write_bytes(b"".join(part + zeros for part in parts))


def tar_with_a_huge_name(path: Path) -> None:
    """A long-name header of 10 GiB, which tarfile would read into memory at once."""
    entry = tarfile.TarInfo("././@LongLink")
    entry.type, entry.size = tarfile.GNUTYPE_LONGNAME, 640 * 2**24
    path.write_bytes(gzip.compress(entry.tobuf(tarfile.GNU_FORMAT)) + gzip.compress(bytes(2**24)) * 2)


def many_members(path: Path) -> None:
    zipped(path, {f"{index}.jpg": b"" for index in range(archive.MAX_MEMBERS + 1)})


def encrypted(path: Path) -> None:
    zipped(path, {"1.jpg": b"x"})
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.find(signature) + offset] |= 1
    path.write_bytes(bytes(data))


def cut_off(path: Path) -> None:
    tarred(path, {"1.jpg": bytes(range(256)) * 400}, "w:gz")
    path.write_bytes(path.read_bytes()[:-40])


def cut_off_zip(path: Path) -> None:
    zipped(path, {"1.jpg": bytes(range(256)) * 400})
    path.write_bytes(path.read_bytes()[:-40])


HOSTILE: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "zip, dots": ("a.zip", lambda p: zipped(p, {"../evil.jpg": b"x"}), "named '../evil.jpg', which points outside"),
    "zip, dots later": ("a.zip", lambda p: zipped(p, {"1.jpg": b"x", "a/../../e": b"x"}), "points outside"),
    "zip, backslashes": ("a.zip", lambda p: zipped(p, {"..\\evil.jpg": b"x"}), "points outside"),
    "zip, absolute": ("a.zip", lambda p: zipped(p, {"/etc/evil": b"x"}), "points outside"),
    "zip, drive": ("a.zip", lambda p: zipped(p, {"C:\\evil.jpg": b"x"}), "points outside"),
    "zip, link": ("a.zip", zip_link, "'1.jpg', which is a link or a device"),
    "zip, 10 GB": ("a.zip", zip_bomb, "a.zip expands to more than 1 GiB: pack only the photos"),
    "zip, lying header": ("a.zip", zip_lying_about_its_size, "a.zip is damaged"),
    "zip, many members": ("a.zip", many_members, "a.zip holds more than 10,000 files"),
    "zip, password": ("a.zip", encrypted, "a.zip is protected by a password"),
    "zip, cut off": ("a.zip", cut_off_zip, "a.zip is damaged"),
    "zip, text": ("a.zip", lambda p: p.write_text("no zip"), "a.zip is damaged"),
    "zip, a name twice in folders": ("a.zip", lambda p: zipped(p, {"a": b"x", "a/1.jpg": b"x"}), "a.zip"),
    "tar, dots": ("a.tar", lambda p: tarred(p, {"../evil.jpg": b"x"}), "points outside"),
    "tar, absolute": ("a.tar", lambda p: tarred(p, {"/etc/evil": b"x"}), "points outside"),
    "tar, symbolic link": ("a.tar", lambda p: tar_entry(p, type=tarfile.SYMTYPE, linkname="/etc"), "is a link"),
    "tar, hard link": ("a.tar", lambda p: tar_entry(p, type=tarfile.LNKTYPE, linkname="x"), "is a link"),
    "tar, device": ("a.tar", lambda p: tar_entry(p, type=tarfile.CHRTYPE), "is a link or a device"),
    "tar, fifo": ("a.tar", lambda p: tar_entry(p, type=tarfile.FIFOTYPE), "is a link or a device"),
    "tar, 10 GB": ("a.tar.gz", tar_bomb, "a.tar.gz expands to more than 1 GiB"),
    "tar, 10 GB in parts": ("a.tgz", tar_of_many_parts, "a.tgz expands to more than 100 times its size"),
    "tar, 10 GB name": ("a.tgz", tar_with_a_huge_name, "a.tgz is damaged"),
    "tar, cut off": ("a.tar.gz", cut_off, "a.tar.gz is damaged"),
    "tar, text": ("a.tar", lambda p: p.write_text("no tar" * 200), "a.tar is damaged"),
    "tar, not compressed": ("a.tar.gz", lambda p: tarred(p, {"1.jpg": b"x"}), "a.tar.gz is damaged"),
    "tar, the same name twice": (
        "a.tar",
        lambda p: (tarred(p, {"1.jpg": b"x"}), tarred(p, {"1.jpg": b"y"}, "a"))[0],
        "a.tar holds '1.jpg' twice",
    ),
    "not an archive": ("a.rar", lambda p: p.write_bytes(b"Rar!"), "a.rar is neither a folder nor a .zip"),
    "missing": ("a.zip", lambda p: None, "a.zip does not exist"),
}


@pytest.mark.parametrize(("name", "make", "sentence"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_archives_are_refused_and_leave_nothing(
    tmp_path: Path, name: str, make: Callable[[Path], None], sentence: str
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    make(source / name)
    with pytest.raises(BadSubjectError) as caught:
        unpack_subject(source / name, tmp_path / "work" / "photos")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    work = tmp_path / "work"
    assert not work.exists() or not list(work.iterdir())
    assert {p.name for p in tmp_path.iterdir()} <= {"in", "work"}


def test_a_bomb_writes_little_before_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is expanded is counted, so the disk never holds more than the unsuspicious part."""
    spent: list[int] = []
    honest = archive._Budget.spend

    def spend(self: archive._Budget, count: int) -> None:
        spent.append(count)
        honest(self, count)

    monkeypatch.setattr(archive._Budget, "spend", spend)
    tar_of_many_parts(tmp_path / "a.tgz")
    with pytest.raises(BadSubjectError):
        unpack_subject(tmp_path / "a.tgz", tmp_path / "work")
    assert sum(spent) <= archive.UNSUSPICIOUS_BYTES + 2**21


@pytest.mark.parametrize("name", FORMATS)
def test_a_screenshot_of_macos_is_kept_and_its_icon_is_not(photos: Path, tmp_path: Path, name: str) -> None:
    screenshot = "Screenshot 2026-11-28 at 9.41.00\u202fAM.jpg"  # a narrow space, as macOS writes it
    FORMATS[name](tmp_path / name, {screenshot: (photos / "1.jpg").read_bytes(), "Icon\r": b"x"})
    folder = unpack_subject(tmp_path / name, tmp_path / "work")
    assert [path.name for path in folder.iterdir()] == [screenshot]
