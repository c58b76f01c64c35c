"""Checkpoints of a job whose attempts follow, and overtake, each other: only the newest attempt counts."""

from __future__ import annotations

import errno
import gc
import json
import math
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from kubooth_trainer import checkpoint, checkpoint_layout, checkpoint_writer
from kubooth_trainer.checkpoint import Checkpoints, precision_before
from kubooth_trainer.checkpoint_claim import claim_checkpoints, delete_checkpoints
from kubooth_trainer.checkpoint_layout import write_tensors
from kubooth_trainer.checkpoint_writer import CheckpointWriter, Snapshot
from kubooth_trainer.claim import CLAIM, Claim, Identity
from kubooth_trainer.config import CheckpointConfig
from kubooth_trainer.distributed import World
from kubooth_trainer.engine import MOMENTS
from kubooth_trainer.errors import (
    KuboothError,
    NumericalError,
    OutputExistsError,
    StoppedError,
    StorageDeniedError,
    StorageUnavailableError,
)
from kubooth_trainer.fit import MemoryNote
from kubooth_trainer.job import _clear_up
from kubooth_trainer.plan import Limit
from kubooth_trainer.progress import ProgressEvent, Reporter
from kubooth_trainer.storage import PreconditionFailedError, Progress, Storage, Upload

ALONE = World(rank=0, size=1, local_rank=0, local_size=1, device=torch.device("cpu"))


class State:
    """An engine's state of one small tensor, of which one number may be another."""

    kinds = MOMENTS
    sharding = None

    def __init__(self, value: float, *, weight: float = 1.0, moment: float = 1.0) -> None:
        self._value, self._weight, self._moment = value, weight, moment

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        yield "unet.weight", torch.tensor([self._value, self._value * self._weight, self._value])

    def moments(self, key: str) -> Iterator[tuple[str, torch.Tensor]]:
        yield "unet.weight", torch.tensor([self._value, self._value * self._moment, self._value]) / 2


class Attempt:
    """One attempt of a job, with its claim."""

    def __init__(
        self, place, tmp_path: Path, number: int, *, storage: Storage | None = None, uid: str = "u1",
        inputs: str = "same inputs", keep: int = 2, name: str = "rex",
    ) -> None:  # fmt: skip
        identity = Identity(name=name, namespace="team", uid=uid, attempt=number, digest="d")
        uri = place.at("out/.kubooth/checkpoints")
        self.claim = Claim(storage=storage or place.storage, uri=uri, identity=identity)
        self.moves = 0
        self.checkpoints = Checkpoints(
            self.claim,
            CheckpointConfig(uri=uri, every_steps=10, keep=keep),
            identity=inputs,
            precision="FP32",
            scratch=tmp_path / f"scratch-{name}-{uid}-{number}",
            world=ALONE,
            moved=self._moved,
        )

    def _moved(self) -> None:
        self.moves += 1

    def begin(self) -> Attempt:
        claim_checkpoints(self.claim)
        return self

    def save(self, step: int) -> None:
        self.begin_to_save(step)
        self.checkpoints.wait()

    def begin_to_save(self, step: int, *, must: bool = False, **numbers: float) -> bool:
        state: Any = State(step, **numbers)
        return self.checkpoints.save(step, state, None, history=[], must=must)

    def newest(self) -> tuple[int, float] | None:
        """Step and weight of what a resuming run would start from."""
        found = self.checkpoints.newest(lambda sentence: pytest.fail(sentence))
        return None if found is None else (found.step, float(found.tensors("weights")["unet.weight"][0]))


def whole(place) -> list[str]:
    """Attempt and step of every checkpoint that counts."""
    names = [name.split("/") for name in place.names() if name.endswith("/checkpoint.json")]
    return [f"{attempt} {step}" for *_, attempt, step, _ in names]


def test_saved_found_dropped_and_deleted(place, tmp_path: Path) -> None:
    attempt = Attempt(place, tmp_path, 1).begin()
    assert attempt.newest() is None
    for step in (10, 20, 30):
        attempt.save(step)
    assert whole(place) == ["attempt-1 step-000020", "attempt-1 step-000030"]
    assert attempt.newest() == (30, 30.0)
    assert attempt.moves > 0
    attempt.save(30)  # a start that found the state of step 30 damaged comes here again
    assert attempt.newest() == (30, 30.0)
    delete_checkpoints(attempt.claim)
    assert place.names() == []
    local = place.storage.local_path(place.at("out/.kubooth"))
    assert local is None or not local.exists()
    delete_checkpoints(attempt.claim)


def test_the_next_attempt_goes_on_and_the_last_one_stops(place, tmp_path: Path) -> None:
    first = Attempt(place, tmp_path, 1).begin()
    first.save(10)
    second = Attempt(place, tmp_path, 2).begin()
    assert second.newest() == (10, 10.0)
    for act in (lambda: first.save(20), first.begin, lambda: first.checkpoints._writer._drop_old(10) or first.save(11)):
        with pytest.raises(StoppedError, match="superseded: attempt 2 of this job has taken over"):
            act()
    delete_checkpoints(first.claim)
    assert whole(place) == ["attempt-1 step-000010"]
    second.save(20)
    second.save(30)
    assert whole(place) == ["attempt-2 step-000020", "attempt-2 step-000030"]
    delete_checkpoints(second.claim)
    assert place.names() == []


@pytest.mark.parametrize(
    ("uid", "number"), [("u1", 1), ("u1", 2), ("u2", 1)], ids=["again", "a later attempt", "the job was made anew"]
)
def test_who_may_take_over(place, tmp_path: Path, uid: str, number: int) -> None:
    Attempt(place, tmp_path, 1).begin().save(10)
    later = Attempt(place, tmp_path, number, uid=uid).begin()
    assert later.newest() == (10, 10.0)
    later.save(20)


def test_of_two_jobs_at_one_place_the_first_ends_for_good(place, tmp_path: Path) -> None:
    """A start anew would only take the place back, and so on in turn."""
    first = Attempt(place, tmp_path, 1).begin()
    first.save(10)
    Attempt(place, tmp_path, 1, name="max", uid="u2").begin()
    note = MemoryNote(claim=first.claim, identity="same inputs")
    for act in (lambda: first.save(20), lambda: note.write(Limit(micro_batch=1, gradient_checkpointing=False))):
        with pytest.raises(OutputExistsError, match=r"^output\.uri: job 'max' of namespace 'team' is at work at"):
            act()
    assert whole(place) == ["attempt-1 step-000010"]
    assert not any("limit" in name for name in place.names())


def test_checkpoints_that_somebody_deleted_are_not_written_to(place, tmp_path: Path) -> None:
    """A result stands, or a person cleaned up: what is cut off must not bring anything back."""
    attempt = Attempt(place, tmp_path, 1).begin()
    attempt.save(10)
    place.storage.delete_tree(place.at("out"))
    with pytest.raises(StoppedError, match="superseded"):
        attempt.save(20)
    assert whole(place) == []


def test_training_goes_on_while_a_checkpoint_is_written(place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, reached = threading.Event(), threading.Event()

    def hold() -> None:
        reached.set()
        assert gate.wait(60)

    attempt = Attempt(place, tmp_path, 1, storage=Interrupted(place.storage, at_change=1, act=hold)).begin()
    monkeypatch.setattr(checkpoint, "BRIEFLY", 0.01)
    attempt.begin_to_save(10)
    assert reached.wait(60)
    assert attempt.checkpoints.take_saved() == [] and whole(place) == []
    assert not attempt.begin_to_save(20)  # training goes on without it
    monkeypatch.setattr(checkpoint, "BRIEFLY", 1e6)
    assert not attempt.begin_to_save(21)  # and has waited once
    gate.set()
    assert attempt.begin_to_save(30, must=True)  # waits for the one before
    assert "attempt-1 step-000010" in whole(place)
    attempt.checkpoints.wait()
    assert [saved.step for saved in attempt.checkpoints.take_saved()] == [10, 30]
    assert attempt.checkpoints.take_saved() == []
    assert attempt.newest() == (30, 30.0)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["weight", "moment"])
def test_a_state_that_is_not_finite_is_not_kept(place, tmp_path: Path, where: str, number: float) -> None:
    attempt = Attempt(place, tmp_path, 1).begin()
    attempt.save(10)
    with pytest.raises(NumericalError, match="no longer finite after step 20"):
        attempt.begin_to_save(20, **{where: number})
    assert whole(place) == ["attempt-1 step-000010"]


@pytest.mark.parametrize("hear", ["take_saved", "wait", "save"])
def test_what_goes_wrong_in_the_background_is_raised_in_training(
    place, tmp_path: Path, hear: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_writer, "PATIENCE", 0.0)

    def break_down() -> None:
        raise StorageUnavailableError("the bucket is away")

    attempt = Attempt(place, tmp_path, 1, storage=Interrupted(place.storage, at_change=1, act=break_down)).begin()
    attempt.begin_to_save(10)
    act = {
        "take_saved": attempt.checkpoints.take_saved,
        "wait": attempt.checkpoints.wait,
        "save": lambda: attempt.save(20),
    }
    with pytest.raises(StorageUnavailableError, match="the bucket is away"):  # noqa: PT012
        while True:
            act[hear]()
    assert whole(place) == []
    assert not list(tmp_path.glob("scratch-*/step-*"))
    attempt.save(30)
    assert attempt.newest() == (30, 30.0)


def test_what_could_not_be_written_leaves_the_memory(place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[weakref.ref[Snapshot]] = []
    start = CheckpointWriter.start

    def note(writer: CheckpointWriter, snapshot: Snapshot) -> None:
        begun.append(weakref.ref(snapshot))
        start(writer, snapshot)

    monkeypatch.setattr(CheckpointWriter, "start", note)
    attempt = Attempt(place, tmp_path, 1, storage=Away(place.storage, changes=10**9)).begin()
    gc.disable()
    try:
        attempt.begin_to_save(10)
        with pytest.raises(StorageUnavailableError):
            attempt.checkpoints.wait(hurry=True)
        assert [snapshot() for snapshot in begun] == [None]
    finally:
        gc.enable()


def test_a_bucket_that_is_away_for_a_while_ends_no_training(
    place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_writer, "PAUSE", 0.01)
    attempt = Attempt(place, tmp_path, 1, storage=Away(place.storage, changes=20)).begin()
    attempt.save(10)
    (saved,) = attempt.checkpoints.take_saved()
    assert (saved.step, saved.trouble) == (10, "the bucket is away")
    assert attempt.moves >= 20  # that is no standstill
    attempt.save(20)
    (saved,) = attempt.checkpoints.take_saved()
    assert (saved.step, saved.trouble) == (20, None)
    assert attempt.newest() == (20, 20.0)


def test_a_state_that_must_be_kept_takes_the_place_of_one_that_storage_does_not_take(place, tmp_path: Path) -> None:
    """On a stop there is no time for both."""
    storage = Away(place.storage, changes=10**9, only="step-000010")
    attempt = Attempt(place, tmp_path, 1, storage=storage).begin()
    attempt.begin_to_save(10)
    assert attempt.begin_to_save(20, must=True)
    assert storage.left == 10**9 - 1  # nor for one more try
    attempt.checkpoints.wait(hurry=True)
    assert whole(place) == ["attempt-1 step-000020"]
    storage.only = "step-000030"
    assert attempt.begin_to_save(30, must=True)
    with pytest.raises(StorageUnavailableError, match="the bucket is away"):
        attempt.checkpoints.wait(hurry=True)


def test_patience_begins_with_the_first_failure_and_what_is_there_is_not_sent_again(
    place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_writer, "PAUSE", 0.0)
    monkeypatch.setattr(checkpoint_writer, "PATIENCE", 1.0)

    sent: list[str] = []

    class Slow(Storage):
        """Takes the first file slowly and fails at the second, once."""

        def upload_all(self, uploads: Sequence[Upload], *, on_progress: Progress | None = None) -> None:
            sent.append(uploads[0].path.name)
            if len(sent) == 2:
                raise StorageUnavailableError("the bucket is away")
            time.sleep(1.1 if len(sent) == 1 else 0)
            super().upload_all(uploads, on_progress=on_progress)

    attempt = Attempt(place, tmp_path, 1, storage=Slow(place.storage._config)).begin()
    attempt.save(10)
    assert attempt.newest() == (10, 10.0)
    if place.storage.local_path(place.at("out")) is None:
        first, second, *others = sent
        assert others[0] == second and first not in others


@pytest.mark.parametrize("is_whole", [True, False], ids=["it is there", "something else is there"])
def test_a_request_that_was_taken_for_lost_and_comes_after_all(
    place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_whole: bool
) -> None:
    """It is no rival's."""
    monkeypatch.setattr(checkpoint_writer, "PAUSE", 0.0)

    class Late(Storage):
        tries = 0

        def write_bytes(self, uri: str, data: bytes, *, if_absent: bool = False, if_version: str | None = None) -> None:
            if uri.endswith("/checkpoint.json"):
                Late.tries += 1
                if Late.tries == 1:
                    raise StorageUnavailableError("no answer")
                if Late.tries == 2:
                    super().write_bytes(uri, data if is_whole else b"{}")
                    raise PreconditionFailedError(uri)
            super().write_bytes(uri, data, if_absent=if_absent, if_version=if_version)

    attempt = Attempt(place, tmp_path, 1, storage=Late(place.storage._config)).begin()
    attempt.save(10)
    assert attempt.newest() == (10, 10.0)
    assert Late.tries == (2 if is_whole else 3)


def test_a_checkpoint_is_whole_although_older_ones_cannot_be_deleted(place, tmp_path: Path) -> None:
    class Keeping(Storage):
        is_away = False

        def delete(self, uris: Iterable[str]) -> None:
            if self.is_away:
                raise StorageUnavailableError("the bucket is away")
            super().delete(uris)

    storage = Keeping(place.storage._config)
    attempt = Attempt(place, tmp_path, 1, storage=storage, keep=1).begin()
    attempt.save(10)
    storage.is_away = True
    attempt.save(20)
    assert [saved.step for saved in attempt.checkpoints.take_saved()] == [10, 20]
    storage.is_away = False
    attempt.save(30)
    assert whole(place) == ["attempt-1 step-000030"]


ROW = asdict(
    ProgressEvent(
        step=5, total=30, loss=1.0, instance_loss=0.5, prior_loss=None, grad_norm=math.nan, learning_rate=1e-6,
        samples_per_second=8.0, eta_seconds=3.0, time=1.5e9,
    )
)  # fmt: skip


@pytest.mark.parametrize(
    ("whole_text", "damaged_text"),
    [
        ('"step": 20,\n "identity"', '"step": 28,\n "identity"'),
        ('"step": 5', '"step": 7'),
        ('"learning_rate"', '"learning_rata"'),
        ('"files"', '"filer"'),
        ('"size"', '"sizf"'),
        ('"time": ', '"tima": '),
        ('"precision": "FP32"', '"precision": "FP33"'),
    ],
)
def test_a_manifest_with_a_flipped_bit_is_passed_over(
    place, tmp_path: Path, whole_text: str, damaged_text: str
) -> None:
    attempt = Attempt(place, tmp_path, 1).begin()
    for step in (10, 20):
        attempt.checkpoints.save(step, cast(Any, State(step)), None, history=[ROW], must=True)
        attempt.checkpoints.wait()
    location = place.at("out/.kubooth/checkpoints/attempt-1/step-000020/checkpoint.json")
    text = place.storage.read_bytes(location).decode()
    assert whole_text in text
    place.storage.write_bytes(location, text.replace(whole_text, damaged_text, 1).encode())
    said: list[str] = []
    found = attempt.checkpoints.newest(said.append)
    assert found is not None and found.step == 10
    (event,) = found.progress
    assert (event.step, event.loss) == (5, 1.0)
    assert [sentence.partition(" is not used: ")[2] for sentence in said] == ["checkpoint.json is corrupt"]


def test_a_manifest_of_an_earlier_or_a_later_release_is_read(place, tmp_path: Path) -> None:
    """Earlier ones had no digest of their own; later ones may tell more of the training."""
    attempt = Attempt(place, tmp_path, 1).begin()
    attempt.save(10)
    location = place.at("out/.kubooth/checkpoints/attempt-1/step-000010/checkpoint.json")
    manifest = json.loads(place.storage.read_bytes(location))
    for left_out in ("sha256", "config", "precision"):
        del manifest[left_out]
    place.storage.write_bytes(location, json.dumps({**manifest, "history": [{**ROW, "later": 1}]}).encode())
    assert attempt.newest() == (10, 10.0)
    found = attempt.checkpoints.newest(pytest.fail)
    assert found is not None and [event.step for event in found.progress] == [5]
    assert precision_before(attempt.claim, ALONE) is None


def test_the_precision_that_a_configuration_was_trained_in_is_known(place, tmp_path: Path) -> None:
    attempt = Attempt(place, tmp_path, 1).begin()
    assert precision_before(attempt.claim, ALONE) is None
    attempt.save(10)
    assert precision_before(Attempt(place, tmp_path, 2).claim, ALONE) == "FP32"
    identity = attempt.claim.identity.model_copy(update={"digest": "another"})
    assert precision_before(replace(attempt.claim, identity=identity), ALONE) is None
    place.storage.write_bytes(place.at("out/.kubooth/checkpoints/attempt-1/step-000020/checkpoint.json"), b"[]")
    assert precision_before(attempt.claim, ALONE) == "FP32"


def test_what_is_cut_off_takes_nothing_from_a_successor_in_the_same_folder(place, tmp_path: Path) -> None:
    """A job that was made anew begins at attempt 1 again, while a pod of the old one may still be at work."""
    old = Attempt(place, tmp_path, 1).begin()
    new = Attempt(place, tmp_path, 1, uid="u2").begin()
    new.begin_to_save(10, weight=3.0)
    new.checkpoints.wait()
    files = {name: place.storage.read_bytes(place.at(name)) for name in place.names()}
    with pytest.raises(StoppedError, match="superseded"):
        old.save(10)
    assert {name: place.storage.read_bytes(place.at(name)) for name in place.names()} == files


def test_a_checkpoint_that_the_disk_has_no_room_for_takes_none(
    place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
        if path.name == "weights.safetensors":
            return write_tensors(path, tensors)
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    attempt = Attempt(place, tmp_path, 1).begin()
    attempt.save(10)
    before = place.names()
    monkeypatch.setattr(checkpoint_writer, "write_tensors", full)
    with pytest.raises((OSError, KuboothError)):
        attempt.save(20)
    assert place.names() == before
    assert not list(tmp_path.rglob("step-000020"))


def test_reading_a_large_checkpoint_is_no_standstill(place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = Attempt(place, tmp_path, 1).begin()
    attempt.save(10)
    sizes = [entry["size"] for entry in json.loads(place.storage.read_bytes(
        place.at("out/.kubooth/checkpoints/attempt-1/step-000010/checkpoint.json")
    ))["files"]]  # fmt: skip
    monkeypatch.setattr(checkpoint_layout, "READ_BYTES", 16)
    before = attempt.moves
    assert attempt.newest() == (10, 10.0)
    assert attempt.moves - before >= sum(sizes) // 16


@pytest.mark.parametrize("error", [StorageDeniedError("no right"), StorageUnavailableError("no answer")])
def test_a_result_stands_although_its_checkpoints_cannot_be_deleted(place, tmp_path: Path, error: Exception) -> None:
    class Kept(Storage):
        def delete_tree(self, uri: str) -> None:
            raise error

    attempt = Attempt(place, tmp_path, 1, storage=Kept(place.storage._config)).begin()
    attempt.save(10)
    reporter = Reporter()
    _clear_up(attempt.claim, reporter)
    assert reporter.warnings == [f"the result stands, but its checkpoints are still there: {error}"]


def test_a_damaged_checkpoint_takes_no_place_from_new_ones(place, tmp_path: Path) -> None:
    before = Attempt(place, tmp_path, 1, keep=1).begin()
    before.save(30)
    place.storage.write_bytes(place.at("out/.kubooth/checkpoints/attempt-1/step-000030/weights.safetensors"), b"?")
    after = Attempt(place, tmp_path, 2, keep=1).begin()
    said: list[str] = []
    assert after.checkpoints.newest(said.append) is None
    for step in (10, 20):
        after.save(step)
        assert whole(place) == ["attempt-1 step-000030", f"attempt-2 step-{step:06d}"]
    found = after.checkpoints.newest(said.append)
    assert found is not None and found.step == 20
    assert len(said) == 1
    after.save(30)
    assert whole(place) == ["attempt-2 step-000030"]


def test_checkpoints_of_other_inputs_neither_count_nor_go(place, tmp_path: Path) -> None:
    """The job was changed and made again: what is newer by its steps is of no use, and must not push out what is."""
    before = Attempt(place, tmp_path, 1).begin()
    for step in (700, 800):
        before.save(step)
    foreign = whole(place)
    after = Attempt(place, tmp_path, 1, uid="u2", inputs="another rate").begin()
    for step in (10, 20, 30):
        after.save(step)
    assert whole(place) == ["attempt-1 step-000020", "attempt-1 step-000030", *foreign]
    said: list[str] = []
    for _ in range(2):
        found = after.checkpoints.newest(said.append)
        assert found is not None and found.step == 30
    assert [sentence.partition(" is not used: ")[2] for sentence in said] == [
        "it belongs to another configuration, other photos or captions; training starts anew"
    ] * len(foreign)
    delete_checkpoints(after.claim)
    assert place.names() == []


def test_what_is_wanted_next_is_not_brought_back_from_the_bucket(place, tmp_path: Path) -> None:
    attempt = Attempt(place, tmp_path, 1, storage=Unread(place.storage)).begin()
    for step in (10, 20):
        assert attempt.begin_to_save(step, must=True)
        attempt.checkpoints.wait()
        assert attempt.newest() == (step, float(step))


def test_an_error_of_the_training_lets_the_last_checkpoint_become_whole(place, tmp_path: Path) -> None:
    attempt = Attempt(place, tmp_path, 1).begin()
    attempt.begin_to_save(10)
    attempt.checkpoints.end_writing()
    assert whole(place) == ["attempt-1 step-000010"]


class Away(Storage):
    """Does not take a checkpoint's manifest so many times, as a server that is away; `only` one of them."""

    def __init__(self, of: Storage, *, changes: int, only: str = "") -> None:
        super().__init__(of._config)
        self.left = changes
        self.only = only

    def write_bytes(self, uri: str, data: bytes, *, if_absent: bool = False, if_version: str | None = None) -> None:
        if self.left and self.only in uri and uri.endswith("/checkpoint.json"):
            self.left -= 1
            raise StorageUnavailableError("the bucket is away")
        super().write_bytes(uri, data, if_absent=if_absent, if_version=if_version)


class Unread(Storage):
    """Nobody downloads a folder."""

    def __init__(self, of: Storage) -> None:
        super().__init__(of._config)

    def fetch_tree(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("downloaded")


class Interrupted(Storage):
    """Does something before the n-th request that changes anything."""

    def __init__(self, of: Storage, *, at_change: int, act: Callable[[], None]) -> None:
        super().__init__(of._config)
        self._left = at_change
        self._act = act

    @property
    def has_fired(self) -> bool:
        return self._left < 0

    def _change(self) -> None:
        self._left -= 1
        if self._left == -1:
            self._act()

    def write_bytes(self, uri: str, data: bytes, *, if_absent: bool = False, if_version: str | None = None) -> None:
        self._change()
        super().write_bytes(uri, data, if_absent=if_absent, if_version=if_version)

    def upload_all(self, uploads: Sequence[Upload], *, on_progress: Progress | None = None) -> None:
        for upload in uploads:
            self._change()
            super().upload_all([upload], on_progress=on_progress)

    def delete(self, uris: Iterable[str]) -> None:
        self._change()
        super().delete(uris)

    def delete_tree(self, uri: str) -> None:
        self._change()
        super().delete_tree(uri)

    def delete_version(self, uri: str, version: str) -> None:
        self._change()
        super().delete_version(uri, version)


def test_overtaken_at_every_step(place, tmp_path: Path) -> None:
    """A cut-off attempt goes on saving after its successor has begun: it stops, and nothing that it saves counts.

    Whenever it was overtaken, the successor finds a whole checkpoint, and what the successor saves stays.
    """
    steps = 0
    while True:
        place.storage.delete_tree(place.at("out"))
        second = Attempt(place, tmp_path, 2)
        before: set[str] = set()

        def take_over(second: Attempt = second, before: set[str] = before) -> None:
            second.begin()
            found = second.newest()
            assert found is not None
            second.save(found[0] + 1)
            before.update(whole(place))

        storage = Interrupted(place.storage, at_change=steps, act=take_over)
        early = Attempt(place, tmp_path, 1).begin()
        early.save(10)
        early.save(20)
        late = Attempt(place, tmp_path, 1, storage=storage)
        with suppress(StoppedError):
            late.save(30)
            late.save(40)
        if not storage.has_fired:
            break
        with pytest.raises(StoppedError, match="superseded"):
            late.save(50)
        assert set(whole(place)) <= before, "written after the successor had begun"
        third = Attempt(place, tmp_path, 3).begin()
        assert third.newest() in ((21, 21.0), (31, 31.0), (41, 41.0))
        delete_checkpoints(Attempt(place, tmp_path, 3).claim)
        assert place.names() == []
        steps += 1
    assert steps >= 6


def test_a_result_that_stands_leaves_the_claim_of_a_successor(place, tmp_path: Path) -> None:
    """The successor finds the result and clears up itself."""
    second = Attempt(place, tmp_path, 2)
    storage = Interrupted(place.storage, at_change=0, act=lambda: second.begin() and None)
    Attempt(place, tmp_path, 1).begin().save(10)
    delete_checkpoints(Attempt(place, tmp_path, 1, storage=storage).claim)
    assert place.names() == [f"out/.kubooth/checkpoints/{CLAIM}"]
    delete_checkpoints(second.claim)
    assert place.names() == []


def test_racing_claims_have_one_winner(place, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def begin(number: int) -> bool:
        try:
            Attempt(place, tmp_path, number).begin()
        except StoppedError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        begun = list(pool.map(begin, (1, 2, 3, 4)))
    assert begun[-1]
    owner, _ = Attempt(place, tmp_path, 4).claim.read()
    assert owner is not None and owner.attempt == 4
