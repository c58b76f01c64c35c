"""What deleted jobs have left is found and cleared away; results, other jobs' work and other files stay."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from kubooth_trainer.claim import CLAIM, Claim, Identity
from kubooth_trainer.leftovers import clear, leftovers, survey

RESULT = {"unet/weights", "manifest.json", CLAIM}
HOUR = 3600.0
LATER = 4e9  # after everything that a test writes


def owner(name: str, *, uid: str | None = "", namespace: str = "team") -> Identity:
    return Identity(name=name, namespace=namespace, uid=f"uid-{name}" if uid == "" else uid, attempt=1, digest="d")


def checkpoints(place, output: str, who: Identity) -> None:
    """Of an attempt that was cut off in its second."""
    place.put(f"{output}/.kubooth/checkpoints/{CLAIM}", who.to_json())
    place.put(f"{output}/.kubooth/checkpoints/attempt-1/step-000100/weights.safetensors", b"w" * 100)
    place.put(f"{output}/.kubooth/checkpoints/attempt-1/step-000100/checkpoint.json", b"{}")
    place.put(f"{output}/.kubooth/checkpoints/attempt-1/step-000200/weights.safetensors", b"w" * 50)


def published(place, output: str, who: Identity, *, whole: bool = True) -> None:
    place.put(f"{output}/{CLAIM}", who.to_json())
    place.put(f"{output}/unet/weights", b"w" * 10)
    if whole:
        place.put(f"{output}/manifest.json", b"{}")


@pytest.fixture
def filled(place):
    """Results of two jobs, one of which is deleted; and what four jobs were at when they were deleted or suspended."""
    published(place, "done", owner("done"))
    published(place, "gone", owner("gone"))
    checkpoints(place, "deleted", owner("deleted"))
    place.put("deleted/.kubooth/rejected/report.html", b"page")
    checkpoints(place, "uploading", owner("uploading"))
    published(place, "uploading", owner("uploading"), whole=False)
    published(place, "uploading/inner", owner("inner"))  # whoever puts a result there
    checkpoints(place, "suspended", owner("suspended"))
    checkpoints(place, "elsewhere", owner("elsewhere", namespace="other"))
    checkpoints(place, "local", owner("local", uid=None))
    place.put("photos/00.png", b"png")
    return place


def of_deleted(place, *, kept: Collection[str] = ("suspended", "done"), namespace: str | None = "team"):
    uids = {f"uid-{name}" for name in kept}
    return leftovers(survey(place.storage, place.uri), namespace=namespace, job_uids=uids, before=LATER)


def test_what_is_found(filled) -> None:
    found = [(work.uri, work.what, work.bytes) for work in of_deleted(filled)]
    assert sorted(found) == sorted(
        [
            (filled.at("deleted"), "checkpoints", 156),
            (filled.at("uploading"), "checkpoints", 152),
            (filled.at("uploading"), "part of a result", 10),
        ]
    )


def test_results_only_are_left(filled) -> None:
    assert all(clear(filled.storage, work) for work in of_deleted(filled, kept=(), namespace=None))
    kept = {f"{output}/{name}" for output in ("done", "gone", "uploading/inner") for name in RESULT}
    local = {name for name in filled.names() if name.startswith("local/")}
    assert local and set(filled.names()) == kept | {"photos/00.png"} | local
    assert of_deleted(filled, kept=(), namespace=None) == []


def test_what_belongs_to_a_job_that_is_there_stays(filled) -> None:
    before = set(filled.names())
    assert all(clear(filled.storage, work) for work in of_deleted(filled))
    gone = before - set(filled.names())
    assert {name.partition("/")[0] for name in gone} == {"deleted", "uploading"}


def test_what_was_written_of_late_stays(place) -> None:
    checkpoints(place, "deleted", owner("deleted"))
    ((work, written),) = survey(place.storage, place.uri)
    for before, expected in ((written - HOUR, []), (written + HOUR, [work])):
        assert leftovers([(work, written)], namespace=None, job_uids=(), before=before) == expected


def test_a_successor_that_takes_over_meanwhile_keeps_everything(filled) -> None:
    works = of_deleted(filled)
    for work in works:
        folder = f"{work.uri}/.kubooth/checkpoints" if work.in_reserved else work.uri
        Claim(storage=filled.storage, uri=folder, identity=owner("successor")).take(lambda _: None)
    before = filled.names()
    assert not any(clear(filled.storage, work) for work in works)
    assert filled.names() == before


def test_the_location_may_be_one_output(place) -> None:
    checkpoints(place, "out", owner("deleted"))
    published(place, "out", owner("deleted"), whole=False)
    works = [work for work, _ in survey(place.storage, place.at("out"))]
    assert {work.uri for work in works} == {place.at("out")}
    assert all(clear(place.storage, work) for work in works)
    assert place.names() == []


def test_a_claim_that_nobody_can_read_is_left_alone(place) -> None:
    place.put(f"out/.kubooth/checkpoints/{CLAIM}", b"not one of ours")
    assert survey(place.storage, place.uri) == []
