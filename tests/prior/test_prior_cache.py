"""Jobs that share class images: on a disk and in a bucket of a real S3 server; what there is, what breaks, who dies."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bed.proxy import Fault, proxied
from prior.shelf import Job, Shelf, together

from kubooth_trainer.config import StorageConfig
from kubooth_trainer.prior_claims import Lease
from kubooth_trainer.prior_entry import claim_name, image_name


def made(*jobs: Job) -> list[int]:
    return sorted(index for job in jobs for index in job.sampler.sampled)


def test_a_second_job_makes_nothing(shelf: Shelf) -> None:
    first, second = shelf.job(16), shelf.job(16)
    assert first.run().taken == 0
    count = second.run()
    assert (count.taken, count.made, second.sampler.sampled) == (16, 0, [])
    assert count.seconds_saved >= 0
    assert second.pictures == first.pictures
    assert shelf.names() == [*(image_name(index) for index in range(16)), "prior.json"]
    assert not first.warnings + second.warnings


def test_300_where_200_exist_makes_100(shelf: Shelf) -> None:
    shelf.job(200).run()
    job = shelf.job(300)
    count = job.run()
    assert (count.taken, count.made) == (200, 100)
    assert made(job) == list(range(200, 304))  # whole batches of 8: the last four are there for who asks for more
    alone = shelf.job(300, cached=False)
    alone.run()
    assert job.pictures == alone.pictures


def test_an_image_does_not_depend_on_how_many_are_asked_for(shelf: Shelf) -> None:
    few, many = shelf.job(3, cached=False), shelf.job(20, cached=False)
    few.run(), many.run()
    assert few.pictures == many.pictures[:3]


def test_two_jobs_at_once_make_each_image_once(shelf: Shelf) -> None:
    jobs = [shelf.job(96) for _ in range(2)]
    together(*(job.run for job in jobs))
    assert made(*jobs) == list(range(96))
    assert jobs[0].pictures == jobs[1].pictures
    assert not [name for name in shelf.names() if name.startswith("claim-")]


def test_a_batch_that_another_job_has_begun_is_waited_for(shelf: Shelf) -> None:
    slow, other = shelf.job(16), shelf.job(16)
    begun, finish = threading.Event(), threading.Event()

    def dawdle(batch: int) -> None:
        if batch == 0:
            begun.set()
            assert finish.wait(60)

    slow.sampler.on_batch = dawdle
    other.sampler.on_batch = lambda batch: finish.set()  # it makes the other batch meanwhile

    def late() -> Any:
        assert begun.wait(60)
        return other.run()

    together(slow.run, late)
    assert (made(slow), made(other)) == (list(range(8)), list(range(8, 16)))
    assert slow.pictures == other.pictures


def test_a_claim_whose_owner_died_is_taken_over(shelf: Shelf) -> None:
    shelf.storage.write_bytes(shelf.at(claim_name(0)), b'{"owner": "dead"}')
    job = shelf.job(8, lease=Lease(seconds=0.2, hold_seconds=60, poll_seconds=0.05))
    assert job.run().made == 8
    assert shelf.names() == [*(image_name(index) for index in range(8)), "prior.json"]


def test_a_claim_that_is_renewed_for_ever_is_taken_over_too(shelf: Shelf) -> None:
    stuck = shelf.job(8, lease=Lease(seconds=0.4, hold_seconds=60, poll_seconds=0.05))
    assert stuck.cache is not None and stuck.cache.claim(0)
    job = shelf.job(8, lease=Lease(seconds=60, hold_seconds=1, poll_seconds=0.05))
    assert job.run().made == 8
    stuck.cache.close()
    assert image_name(0) in shelf.names()


def test_a_job_that_is_stopped_gives_its_claims_back(shelf: Shelf) -> None:
    job = shelf.job(16)

    def stop(batch: int) -> None:
        raise KeyboardInterrupt

    job.sampler.on_batch = stop
    with pytest.raises(KeyboardInterrupt):
        job.run()
    assert not [name for name in shelf.names() if name.startswith("claim-")]


DAMAGE = {
    "torn": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "flipped": lambda data: data[:-9] + bytes([data[-9] ^ 4]) + data[-8:],
    "foreign": lambda data: b"a file of somebody else",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_image_is_dropped_and_made_again(shelf: Shelf, damage: Callable[[bytes], bytes]) -> None:
    first = shelf.job(16)
    first.run()
    victim = shelf.at(image_name(3))
    whole = shelf.storage.read_bytes(victim)
    shelf.storage.write_bytes(victim, damage(whole))
    second = shelf.job(16)
    count = second.run()
    assert (count.taken, count.made) == (8, 8)
    assert second.pictures == first.pictures
    assert [("1 damaged" in warning) for warning in second.warnings] == [True]
    third = shelf.job(16)
    assert third.run().made == 0
    assert third.pictures == first.pictures


def test_the_image_of_another_index_in_its_place_is_not_used(shelf: Shelf) -> None:
    first = shelf.job(8)
    first.run()
    shelf.storage.write_bytes(shelf.at(image_name(3)), shelf.storage.read_bytes(shelf.at(image_name(4))))
    second = shelf.job(8)
    second.run()
    assert second.pictures == first.pictures


def test_foreign_files_are_left_alone(shelf: Shelf) -> None:
    foreign = [shelf.at("notes.txt"), shelf.at("claim-x.json"), f"{shelf.uri.rstrip('/')}/readme", shelf.at("a/b")]
    for uri in foreign:
        shelf.storage.write_bytes(uri, b"mine")
    job = shelf.job(8)
    assert job.run().made == 8
    assert [shelf.storage.read_bytes(uri) for uri in foreign] == [b"mine"] * 4
    assert not job.warnings


# A cache that cannot be used: one warning and the same pictures


def expect_alone(shelf: Shelf, job: Job, words: str) -> None:
    alone = shelf.job(16, cached=False)
    alone.run()
    assert job.run().made == 16
    assert job.pictures == alone.pictures
    assert len(job.warnings) == 1 and words in job.warnings[0], job.warnings


def local(tmp_path: Path) -> Shelf:
    return Shelf(StorageConfig(endpoint=None, region=None), (tmp_path / "priors").as_uri(), tmp_path)


def test_a_location_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "priors").write_text("no folder")
    shelf = local(tmp_path)
    expect_alone(shelf, shelf.job(16), "prior cache")


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = local(tmp_path)
    written = os.fsync

    def full(descriptor: int) -> None:
        if os.readlink(f"/proc/self/fd/{descriptor}").startswith(str(tmp_path / "priors")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    expect_alone(shelf, shelf.job(16), "no room left")
    assert not [path for path in (tmp_path / "priors").rglob("*") if path.is_file()]


REFUSED = {"read-only": (403, "AccessDenied"), "full": (507, "StorageFull"), "no-conditions": (501, "NotImplemented")}


@pytest.mark.parametrize("answer", REFUSED.values(), ids=REFUSED.keys())
def test_a_bucket_that_takes_no_writes(tmp_path: Path, s3: Any, answer: tuple[int, str]) -> None:
    Shelf(s3.config, s3.uri("priors/"), tmp_path / "before").job(8).run()
    with proxied(s3.endpoint) as proxy:
        proxy.faults.append(Fault("PUT", answer=answer, times=10_000))
        shelf = Shelf(s3.behind(proxy.endpoint), s3.uri("priors/"), tmp_path)
        job, alone = shelf.job(16), shelf.job(16, cached=False)
        alone.run()
        count = job.run()
        assert (count.taken, count.made) == (8, 8)  # what is there is used all the same
        assert job.pictures == alone.pictures
        assert ["not kept in the prior cache" in warning for warning in job.warnings] == [True]


def test_an_endpoint_that_goes_away_half_way(tmp_path: Path, s3: Any) -> None:
    with proxied(s3.endpoint) as proxy:
        shelf = Shelf(s3.behind(proxy.endpoint), s3.uri("priors/"), tmp_path)
        job, alone = shelf.job(16), shelf.job(16, cached=False)
        job.sampler.on_batch = lambda batch: proxy.faults.append(Fault(answer=(503, "SlowDown"), times=10_000))
        alone.run()
        assert job.run().made == 16
        assert job.pictures == alone.pictures
        assert 1 <= len(job.warnings) <= 2


def test_an_endpoint_that_nobody_answers_at(tmp_path: Path, s3: Any) -> None:
    shelf = Shelf(s3.behind("http://127.0.0.1:9"), s3.uri("priors/"), tmp_path)
    expect_alone(shelf, shelf.job(16), "prior cache is not used")


def test_a_bucket_that_is_not_there(tmp_path: Path, s3: Any) -> None:
    shelf = Shelf(s3.config, "s3://there-is-none/priors/", tmp_path)
    expect_alone(shelf, shelf.job(16), "prior cache is not used")
