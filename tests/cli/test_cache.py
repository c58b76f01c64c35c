"""`kubooth cache ls|gc`: on a disk and in a bucket of a real S3 server."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from kubooth_cli.main import main
from kubooth_trainer.config import StorageConfig
from kubooth_trainer.prior_shelf import Prior, surplus
from kubooth_trainer.storage import Storage

DAY = 86_400
KEYS = {name: name * 64 for name in "abc"}


def kubooth(*arguments: str, cache_home: Path | None = None) -> Result:
    environment = {"XDG_CACHE_HOME": str(cache_home)} if cache_home else {}
    return CliRunner().invoke(main, ["cache", *arguments], env=environment)


@dataclass(frozen=True)
class Filled:
    """A cache with three priors of 1 kB and a file of somebody else."""

    storage: Storage
    uri: str
    options: tuple[str, ...]

    def names(self) -> set[str]:
        return {entry.name for entry in self.storage.list(self.uri)}


def fill(storage: Storage, uri: str) -> None:
    for scope, key in (("", KEYS["a"]), ("shared/", KEYS["b"]), ("namespaces/team-a/", KEYS["c"])):
        folder = f"{uri}/{scope}{key}"
        storage.write_bytes(f"{folder}/00000.safetensors", b"x" * 600)
        storage.write_bytes(f"{folder}/00001.safetensors", b"x" * 300)
        storage.write_bytes(f"{folder}/prior.json", json.dumps({"prompt": "a photo of a dog"}).encode().ljust(100))
    storage.write_bytes(f"{uri}/notes.txt", b"mine")
    storage.write_bytes(f"{uri}/{KEYS['a']}/notes.txt", b"mine")


@pytest.fixture(params=["file", "s3"])
def filled(request: pytest.FixtureRequest, tmp_path: Path) -> Filled:
    if request.param == "s3":
        s3: Any = request.getfixturevalue("s3")
        cache = Filled(Storage(s3.config), s3.uri("priors"), ("--endpoint", s3.endpoint, "--region", "us-east-1"))
    else:
        cache = Filled(Storage(StorageConfig(endpoint=None, region=None)), (tmp_path / "priors").as_uri(), ())
    fill(cache.storage, cache.uri)
    return cache


def test_ls_shows_every_prior(filled: Filled) -> None:
    done = kubooth("ls", filled.uri, *filled.options)
    assert done.exit_code == 0, done.output
    for scope, key in (("shared", KEYS["b"]), ("namespaces/team-a", KEYS["c"])):
        (line,) = [line for line in done.output.splitlines() if key[:12] in line]
        assert scope in line and "a photo of a dog" in line and " 2 " in line
    assert "3 priors, 6 images" in done.output
    assert "notes" not in done.output


def test_ls_as_json_is_one_prior_per_line(filled: Filled) -> None:
    lines = [json.loads(line) for line in kubooth("ls", filled.uri, "--json", *filled.options).output.splitlines()]
    assert {line["key"] for line in lines} == set(KEYS.values())
    assert {(line["images"], line["bytes"], line["about"]["prompt"]) for line in lines} == {
        (2, 1000, "a photo of a dog")
    }


def test_gc_by_size_keeps_what_fits_and_what_is_not_ours(filled: Filled) -> None:
    dry = kubooth("gc", filled.uri, "--max-size", "2kB", "--dry-run", *filled.options)
    assert dry.exit_code == 0 and "1 prior," in dry.output and "would be cleared away" in dry.output
    assert len(filled.names()) == 11
    done = kubooth("gc", filled.uri, "--max-size", "2kB", *filled.options)
    assert done.exit_code == 0, done.output
    assert len(filled.names()) == 8
    assert kubooth("gc", filled.uri, "--max-size", "0B", *filled.options).exit_code == 0
    assert filled.names() == {"notes.txt", f"{KEYS['a']}/notes.txt"}


def test_gc_by_age_goes_by_the_last_use(tmp_path: Path) -> None:
    uri = (tmp_path / "priors").as_uri()
    fill(Storage(StorageConfig(endpoint=None, region=None)), uri)
    old = time.time() - 40 * DAY
    for path in (tmp_path / "priors" / KEYS["a"]).iterdir():
        os.utime(path, (old, old))
    for path in (tmp_path / "priors" / "shared" / KEYS["b"]).glob("0*"):
        os.utime(path, (old, old))  # but its prior.json is new: it was taken from
    done = kubooth("gc", uri, "--max-age", "30d")
    assert done.exit_code == 0 and "1 prior," in done.output
    assert (tmp_path / "priors" / "shared" / KEYS["b"] / "00000.safetensors").exists()
    assert [path.name for path in (tmp_path / "priors" / KEYS["a"]).iterdir()] == ["notes.txt"]


def test_without_a_location_it_is_ones_own(tmp_path: Path) -> None:
    assert "0 priors" in kubooth("ls", cache_home=tmp_path).output
    fill(Storage(StorageConfig(endpoint=None, region=None)), (tmp_path / "kubooth" / "prior").as_uri())
    assert "3 priors" in kubooth("ls", cache_home=tmp_path).output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("gc",), "give --max-age, --max-size or both"),
        (("gc", "--max-age", "30"), "write a number and a unit, as in 30d"),
        (("gc", "--max-size", "10 parsecs"), "write a number and a unit, as in 10GB"),
        (("ls", "http://example.org/x"), "is not a storage location"),
    ],
    ids=["no-limit", "age", "size", "location"],
)
def test_what_is_wrong_is_said(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    done = kubooth(*arguments, cache_home=tmp_path)
    assert done.exit_code == 2
    assert words in " ".join(done.output.split())


def test_a_prompt_cannot_act_on_the_terminal(tmp_path: Path) -> None:
    storage = Storage(StorageConfig(endpoint=None, region=None))
    uri = tmp_path.as_uri()
    storage.write_bytes(f"{uri}/{KEYS['a']}/prior.json", json.dumps({"prompt": "\x1b[31m[red]dog"}).encode())
    output = kubooth("ls", uri).output
    assert "\x1b" not in output and "[red]dog" in output


SURPLUS = [
    ("nothing-over", None, 60, []),
    ("age", 25.0, None, ["old", "older"]),
    ("size", None, 25, ["old", "older"]),
    ("both", 35.0, 25, ["old", "older"]),
    ("all", None, 0, ["new", "old", "older"]),
]


@pytest.mark.parametrize(("age", "size", "gone"), [case[1:] for case in SURPLUS], ids=[case[0] for case in SURPLUS])
def test_what_is_over_the_limits(age: float | None, size: int | None, gone: list[str]) -> None:
    priors = [Prior("", name, [], 1, 20, used) for name, used in (("new", 90.0), ("older", 60.0), ("old", 70.0))]
    found = surplus(priors, now=100.0, max_age_seconds=age, max_bytes=size)
    assert sorted(prior.key for prior in found) == gone
