"""An output is whole or has no manifest, whoever writes, whoever interrupts, however often it is repeated."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kubooth_trainer.config import StorageConfig
from kubooth_trainer.errors import OutputExistsError, StoppedError
from kubooth_trainer.publish import (
    CLAIM,
    MANIFEST,
    Absent,
    Destination,
    Identity,
    Manifest,
    ManifestFields,
    Replaceable,
    SameJobComplete,
    SameJobPartial,
    check_output,
    publish,
    read_manifest,
    verify,
)
from kubooth_trainer.storage import Progress, Storage, Upload

FIELDS = ManifestFields(
    identifier="sks",
    seed=7,
    created="2026-11-22T10:00:00Z",
    config={"config_version": 1},
    versions={"torch": "2.13"},
    timings={"Train": 60.5},
)


def identity(**overrides: object) -> Identity:
    return Identity(**{"name": "rex", "namespace": "team", "uid": "u1", "attempt": 1, "digest": "d1"} | overrides)  # type: ignore[arg-type]


def result(folder: Path, **files: str) -> Path:
    """A local result; keyword names stand for file names (`__` for a slash, `_` for a dot)."""
    for name, text in (files or {"model__unet": "weights", "model_index_json": "{}", "report_html": "<p>"}).items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def at(place, *, overwrite: bool = False, **overrides: object) -> Destination:
    return Destination(storage=place.storage, uri=place.at("out"), identity=identity(**overrides), overwrite=overwrite)


def put(destination: Destination, folder: Path) -> Manifest:
    return publish(destination, folder, manifest_fields=FIELDS)


def read(place, name: str) -> bytes:
    return place.storage.read_bytes(place.at(f"out/{name}"))


def test_publish(place, tmp_path: Path) -> None:
    folder = result(tmp_path / "a")
    seen: list[tuple[int, int]] = []
    assert check_output(at(place)) == Absent()
    manifest = publish(
        at(place), folder, manifest_fields=FIELDS, on_progress=lambda done, total: seen.append((done, total))
    )
    assert [file.name for file in manifest.files] == ["model.index.json", "model/unet", "report.html"]
    assert seen[-1] == (12, 12) == (manifest.total_bytes,) * 2
    assert place.names() == [
        f"out/{name}" for name in sorted([CLAIM, MANIFEST, "model.index.json", "model/unet", "report.html"])
    ]
    assert verify(place.storage, place.at("out")) == []
    raw = json.loads(read(place, MANIFEST))
    assert raw["identifier"] == "sks"
    assert raw["job"] == {"name": "rex", "namespace": "team", "uid": "u1", "attempt": 1, "digest": "d1"}
    assert raw["files"][1]["size"] == 7
    assert check_output(at(place)) == SameJobComplete(manifest)


def test_other_evaluation_settings_are_remarked(place, tmp_path: Path) -> None:
    was = {"evaluation": {"images_per_prompt": 2, "prompts": ["a dog"]}}
    fields = FIELDS.model_copy(update={"config": was})
    done = SameJobComplete(publish(at(place), result(tmp_path / "a"), manifest_fields=fields))
    assert done.remark(was, "file:///out") is None
    assert done.remark({"evaluation": {**was["evaluation"], "of_a_later_release": 1}}, "file:///out") is None
    remark = done.remark({"evaluation": {**was["evaluation"], "images_per_prompt": 4}}, "file:///out")
    assert remark is not None
    assert "spec.evaluation has changed since file:///out was made" in remark


def test_publishing_again_changes_nothing(place, tmp_path: Path) -> None:
    folder = result(tmp_path / "a")
    first = put(at(place), folder)
    before = place.storage.list(place.at("out"))
    assert put(at(place), folder) == first
    assert place.storage.list(place.at("out")) == before


@pytest.mark.parametrize(
    "other",
    [{"name": "max"}, {"namespace": "other"}, {"digest": "d2", "uid": "u0"}, {"digest": "d2", "uid": None}],
    ids=["another name", "another namespace", "another configuration", "another configuration on one machine"],
)
def test_another_jobs_result(place, tmp_path: Path, other: dict[str, object]) -> None:
    put(at(place, **other), result(tmp_path / "theirs", old_html="old", model__unet="theirs"))
    before = place.storage.list(place.at("out"))
    folder = result(tmp_path / "ours")
    for attempt in (lambda: check_output(at(place)), lambda: put(at(place), folder)):
        with pytest.raises(OutputExistsError, match=r"^output\.uri: .* set output\.overwrite: true$") as failure:
            attempt()
        assert place.at("out") in str(failure.value)
    assert place.storage.list(place.at("out")) == before

    assert check_output(at(place, overwrite=True)) == Replaceable()
    put(at(place, overwrite=True), folder)
    assert verify(place.storage, place.at("out")) == []
    assert read(place, "model/unet") == b"weights"
    assert "out/old.html" not in place.names()
    with pytest.raises(OutputExistsError):
        check_output(at(place, **other))


def test_reserved_names_are_no_part_of_an_output(place, tmp_path: Path) -> None:
    """Checkpoints live below the output while the job runs: whoever publishes, checks or verifies passes them over."""
    saved = place.put("out/.kubooth/checkpoints/attempt-1/step-000100/weights.safetensors", b"weights")
    assert check_output(at(place)) == Absent()
    put(at(place), result(tmp_path / "a"))
    assert verify(place.storage, place.at("out")) == []
    assert place.storage.read_bytes(saved) == b"weights"
    put(at(place, overwrite=True, name="max"), result(tmp_path / "b", other="1"))
    assert verify(place.storage, place.at("out")) == []
    assert place.storage.read_bytes(saved) == b"weights"
    assert [file.name for file in read_manifest(place.storage, place.at("out")).files] == ["other"]
    lookalike = place.put("out/.kubooth-too", b"")
    assert verify(place.storage, place.at("out")) == [f"{lookalike}: is not in the manifest"]


def test_the_same_object_under_another_digest_is_the_same_job(place, tmp_path: Path) -> None:
    """As after an upgrade whose digests are others: what cannot change in an object that has started is its spec."""
    place.put(f"out/{CLAIM}", identity(digest="older").model_dump_json().encode())
    place.put("out/half", b"half")
    assert check_output(at(place, attempt=2)) == SameJobPartial()
    folder = result(tmp_path / "a")
    published = put(at(place, attempt=2), folder)
    assert verify(place.storage, place.at("out")) == []
    assert "out/half" not in place.names()
    for overwrite in (False, True):  # nothing is trained again, or replaced
        later = at(place, attempt=3, digest="newer", overwrite=overwrite)
        assert check_output(later) == SameJobComplete(published)
        assert put(later, folder) == published
    with pytest.raises(StoppedError, match="attempt 3 of this job has taken over"):
        put(at(place, attempt=2), result(tmp_path / "b", other="1"))
    assert read(place, "model/unet") == b"weights"


def test_two_runs_on_one_machine_are_told_by_their_digests(place, tmp_path: Path) -> None:
    put(at(place, uid=None), result(tmp_path / "a"))
    with pytest.raises(OutputExistsError, match="another version of job 'rex'"):
        check_output(at(place, uid=None, digest="d2"))


def test_foreign_files(place, tmp_path: Path) -> None:
    place.put("out/holiday.jpg", b"precious")
    for attempt in (lambda: check_output(at(place)), lambda: put(at(place), result(tmp_path / "a"))):
        with pytest.raises(OutputExistsError, match="holds files that are not a result of this job"):
            attempt()
    assert place.names() == ["out/holiday.jpg"]
    put(at(place, overwrite=True), result(tmp_path / "a"))
    assert verify(place.storage, place.at("out")) == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"name": 1}', b"\xff"])
def test_foreign_claim_and_manifest(place, tmp_path: Path, content: bytes) -> None:
    """Files that only have the names of ours."""
    place.put(f"out/{CLAIM}", content)
    place.put(f"out/{MANIFEST}", content)
    with pytest.raises(OutputExistsError):
        put(at(place), result(tmp_path / "a"))
    put(at(place, overwrite=True), result(tmp_path / "a"))
    assert verify(place.storage, place.at("out")) == []


def test_a_file_in_the_place_of_the_folder(place) -> None:
    place.put("out", b"a model of somebody")
    for overwrite in (False, True):
        with pytest.raises(OutputExistsError):
            check_output(at(place, overwrite=overwrite))


def test_claim_of_another_job_that_is_still_publishing(place, tmp_path: Path) -> None:
    place.put(f"out/{CLAIM}", identity(name="max").model_dump_json().encode())
    with pytest.raises(OutputExistsError, match="holds the result of job 'max'"):
        put(at(place), result(tmp_path / "a"))
    assert place.names() == [f"out/{CLAIM}"]


@pytest.mark.parametrize(
    ("there", "here", "goes_on"),
    [
        pytest.param({"attempt": 1}, {"attempt": 2}, True, id="a later attempt"),
        pytest.param({"attempt": 2}, {"attempt": 2}, True, id="the same attempt, restarted"),
        pytest.param({"attempt": 3}, {"attempt": 2}, False, id="an earlier attempt, cut off"),
        pytest.param({"attempt": 3, "uid": "u0"}, {"attempt": 1, "uid": "u1"}, True, id="the job was created anew"),
        pytest.param({"uid": None}, {"uid": None}, True, id="on one machine"),
    ],
)
def test_attempts(place, tmp_path: Path, there: dict[str, object], here: dict[str, object], goes_on: bool) -> None:
    place.put(f"out/{CLAIM}", identity(**there).model_dump_json().encode())
    place.put("out/half", b"half")
    assert check_output(at(place, **here)) == SameJobPartial()
    if goes_on:
        put(at(place, **here), result(tmp_path / "a"))
        assert verify(place.storage, place.at("out")) == []
    else:
        with pytest.raises(StoppedError, match="attempt 3 of this job has taken over"):
            put(at(place, **here), result(tmp_path / "a"))
        assert place.names() == ["out/half", f"out/{CLAIM}"]


def test_verify_finds_faults(place, tmp_path: Path) -> None:
    assert "no manifest" in verify(place.storage, place.at("out"))[0]
    put(at(place), result(tmp_path / "a", lost="1", shorter="22", altered="333", whole="4444"))
    place.storage.delete([place.at("out/lost")])
    place.put("out/shorter", b"2")
    place.put("out/altered", b"abc")
    place.put("out/extra", b"")
    assert verify(place.storage, place.at("out")) == [
        f"{place.at('out/altered')}: its content differs from the manifest's SHA-256",
        f"{place.at('out/lost')}: is missing",
        f"{place.at('out/shorter')}: has 1 bytes where the manifest says 2",
        f"{place.at('out/extra')}: is not in the manifest",
    ]


class KilledError(BaseException):
    """The process ends here."""


class Interrupted(Storage):
    """Does something before, or right after, the n-th request that changes the destination."""

    def __init__(self, of: Storage, *, at_change: int, after: bool, act: Callable[[], None]) -> None:
        super().__init__(of._config)
        self._left = at_change
        self._after = after
        self._act = act
        self.fired = False

    def _change(self, change: Callable[[], None]) -> None:
        self._left -= 1
        self.fired |= self._left < 0
        if self._left == -1 and not self._after:
            self._act()
        change()
        if self._left == -1 and self._after:
            self._act()

    def write_bytes(self, uri: str, data: bytes, *, if_absent: bool = False, if_version: str | None = None) -> None:
        self._change(
            lambda: super(Interrupted, self).write_bytes(uri, data, if_absent=if_absent, if_version=if_version)
        )

    def delete_version(self, uri: str, version: str) -> None:
        self._change(lambda: super(Interrupted, self).delete_version(uri, version))

    def upload_all(self, uploads: Sequence[Upload], *, on_progress: Progress | None = None) -> None:
        for upload in uploads:
            self._change(lambda upload=upload: super(Interrupted, self).upload_all([upload]))  # type: ignore[misc]


def kill() -> None:
    raise KilledError


def through(destination: Destination, storage: Storage) -> Destination:
    return Destination(
        storage=storage, uri=destination.uri, identity=destination.identity, overwrite=destination.overwrite
    )


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("overwritten", [False, True], ids=["fresh", "overwriting"])
def test_killed_at_every_step(place, tmp_path: Path, overwritten: bool, after: bool) -> None:
    """At every instant: a manifest means whole. Afterwards: the same job ends what it began."""
    theirs = result(tmp_path / "theirs", model__unet="theirs", stale1="x", stale2="y")
    ours = result(tmp_path / "ours")
    steps = 0
    while True:
        place.storage.delete_tree(place.at("out"))
        if overwritten:
            put(at(place, name="max"), theirs)
        destination = at(place, overwrite=overwritten)
        interrupted = Interrupted(place.storage, at_change=steps, after=after, act=kill)
        try:
            put(through(destination, interrupted), ours)
        except KilledError:
            pass
        else:
            assert not interrupted.fired
            break
        if read_manifest(place.storage, place.at("out")):
            faults = verify(place.storage, place.at("out"))
            assert [fault for fault in faults if not fault.endswith("is not in the manifest")] == []
        state = check_output(destination)
        assert isinstance(state, Absent | SameJobPartial | SameJobComplete | Replaceable)
        put(destination, ours)
        assert verify(place.storage, place.at("out")) == []
        assert read(place, "model/unet") == b"weights"
        steps += 1
    assert steps == (8 if overwritten else 5)  # claim, 3 files, manifest; and the old manifest, two stale files


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("overwritten", [False, True], ids=["fresh", "overwriting"])
def test_taken_over_at_every_step(place, tmp_path: Path, overwritten: bool, after: bool) -> None:
    """A cut-off attempt goes on writing after its successor has published something else: it changes nothing."""
    theirs = result(tmp_path / "theirs", model__unet="theirs", stale="x")
    first = result(tmp_path / "first", model__unet="first", report_html="first", only_first="1")
    second = result(tmp_path / "second", model__unet="second!", report_html="second!", only_second="2")

    def take_over() -> None:
        put(at(place, overwrite=overwritten, attempt=2), second)

    steps = 0
    while True:
        place.storage.delete_tree(place.at("out"))
        if overwritten:
            put(at(place, name="max"), theirs)
        interrupted = Interrupted(place.storage, at_change=steps, after=after, act=take_over)
        try:
            put(through(at(place, overwrite=overwritten), interrupted), first)
        except StoppedError as stopped:
            assert "attempt 2" in str(stopped)  # noqa: PT017
        if not interrupted.fired:
            break
        manifest = read_manifest(place.storage, place.at("out"))
        assert manifest is not None
        assert manifest.job.attempt == 2
        assert read(place, "model/unet") == b"second!"
        faults = verify(place.storage, place.at("out"))
        assert [fault for fault in faults if not fault.endswith("only.first: is not in the manifest")] == []
        steps += 1
    assert steps >= 5


def test_of_16_jobs_one_gets_the_place(place, tmp_path: Path) -> None:
    folders = [result(tmp_path / str(number), model__unet=f"weights {number}") for number in range(16)]

    def attempt(number: int) -> bool:
        try:
            put(at(place, name=f"job-{number}"), folders[number])
        except OutputExistsError:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(attempt, range(16)))
    assert won.count(True) == 1
    assert verify(place.storage, place.at("out")) == []
    assert read(place, "model/unet") == f"weights {won.index(True)}".encode()


def test_unfinished_file_cleared_away_by_the_next_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a cut-off writer had not yet named is stale to its successor; the writer then finds itself replaced."""
    storage = Storage(StorageConfig(endpoint=None, region=None))
    uri = (tmp_path / "out").as_uri()
    ours = Destination(storage=storage, uri=uri, identity=identity(), overwrite=False)
    theirs = Destination(storage=storage, uri=uri, identity=identity(attempt=2), overwrite=False)
    link = os.link

    def late_link(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "link", link)
        put(theirs, result(tmp_path / "b", only="2"))
        link(source, target)

    monkeypatch.setattr(os, "link", late_link)
    with pytest.raises(StoppedError, match="attempt 2 of this job has taken over"):
        put(ours, result(tmp_path / "a", only="1"))
    assert verify(storage, uri) == []
    assert (tmp_path / "out" / "only").read_bytes() == b"2"


def test_goes_on_with_what_was_uploaded(s3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large file that is there already is not sent again."""
    storage = Storage(s3.config)
    folder = result(tmp_path / "a", model__unet="weights", z_html="last")
    destination = Destination(storage=storage, uri=s3.uri("out"), identity=identity(), overwrite=False)
    with pytest.raises(KilledError):
        put(through(destination, Interrupted(storage, at_change=2, after=False, act=kill)), folder)
    before = s3.client.head_object(Bucket=s3.bucket, Key="out/model/unet")
    sent: list[str] = []
    upload_all = storage.upload_all
    monkeypatch.setattr(
        storage,
        "upload_all",
        lambda uploads, **more: (sent.extend(u.path.name for u in uploads), upload_all(uploads, **more)),
    )
    put(destination, folder)
    assert sent == ["z.html"]
    assert s3.client.head_object(Bucket=s3.bucket, Key="out/model/unet")["LastModified"] == before["LastModified"]
    assert verify(storage, s3.uri("out")) == []


def test_every_file_is_on_disk_before_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of fsync and rename that survives a loss of power."""
    storage = Storage(StorageConfig(endpoint=None, region=None))
    events: list[str] = []
    fsync, replace, link = os.fsync, Path.replace, os.link
    monkeypatch.setattr(os, "fsync", lambda descriptor: (events.append("fsync"), fsync(descriptor))[1])
    monkeypatch.setattr(Path, "replace", lambda self, to: (events.append(f"name {to.name}"), replace(self, to))[1])
    monkeypatch.setattr(os, "link", lambda source, to: (events.append(f"name {to.name}"), link(source, to))[1])
    uri = (tmp_path / "out").as_uri()
    put(Destination(storage=storage, uri=uri, identity=identity(), overwrite=False), result(tmp_path / "a", only="1"))
    assert events == [
        event for name in (CLAIM, "only", MANIFEST) for event in ("fsync", f"name {name}", "fsync")
    ]  # fmt: skip
