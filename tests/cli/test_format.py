"""How numbers and events read: tables of values and texts."""

from __future__ import annotations

from typing import Any

import pytest

from kubooth_cli import format as fmt
from kubooth_cli.state import RunState, StageState
from kubooth_cli.wording import stage_line, stage_parts, train_parts, training_parts
from kubooth_trainer.progress import ProgressEvent, StageEvent


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0s"), (0, "0s"), (0.4, "0s"), (45, "45s"), (59.6, "1m00s"), (190, "3m10s"), (3599, "59m59s"),
        (3600, "1h00m"), (3725, "1h02m"), (86_400, "1d00h"), (183_600, "2d03h"),
    ],
)  # fmt: skip
def test_duration(seconds: float, text: str) -> None:
    assert fmt.duration(seconds) == text


@pytest.mark.parametrize(
    ("done", "total", "unit", "text"),
    [
        (640, 800, "", "640/800 80%"), (799, 800, "", "799/800 99%"), (800, 800, "", "800/800 100%"),
        (0, 5, "files", "0/5 0%"), (7, 0, "", "7"), (0, 0, "", ""),
        (12_100_000, 25_300_000, "bytes", "12.1 MB/25.3 MB 47%"),
    ],
)  # fmt: skip
def test_share(done: int, total: int, unit: str, text: str) -> None:
    assert fmt.share(done, total, unit) == text


@pytest.mark.parametrize(
    ("done", "total", "unit", "text"),
    [
        (120, 200, "images", "120/200 images"), (200, 200, "images", "200 images"), (0, 5, "files", "0/5 files"),
        (0, 0, "files", ""), (3, 0, "files", "3 files"), (5, 5, "", "5"), (25_300_000, 25_300_000, "bytes", "25.3 MB"),
    ],
)  # fmt: skip
def test_counted(done: int, total: int, unit: str, text: str) -> None:
    assert fmt.counted(done, total, unit) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.4213, "images", "0.42 images/s"), (11.26, "images", "11.3 images/s"), (312.4, "images", "312 images/s"),
        (8_400_000, "bytes", "8.4 MB/s"),
    ],
)  # fmt: skip
def test_rate(value: float, unit: str, text: str) -> None:
    assert fmt.rate(value, unit) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.08123, "loss 0.0812"), (0.0, "loss 0.0000"), (0.00042, "loss 4.2e-04"), (12.5, "loss 12.5000")],
)
def test_loss(value: float, text: str) -> None:
    assert fmt.loss(value) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_949, "999.9 kB"), (999_951, "1.0 MB"),
        (25_300_000, "25.3 MB"), (4_270_000_000, "4.3 GB"), (12_300_000_000_000, "12.3 TB"),
    ],
)  # fmt: skip
def test_size(count: int, text: str) -> None:
    assert fmt.size(count) == text


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        ("file:///out/rex/", "/out/rex"),
        ("file:///a%20folder/rex", "/a folder/rex"),
        ("s3://models/a%20b/", "s3://models/a%20b/"),
    ],
)
def test_plain_path(uri: str, text: str) -> None:
    assert fmt.plain_path(uri) == text


@pytest.mark.parametrize(
    ("parts", "width", "text"),
    [
        (["640/800 80%", "loss 0.0812", "3m10s left"], 80, "640/800 80%  loss 0.0812  3m10s left"),
        (["640/800 80%", "loss 0.0812", "3m10s left"], 30, "640/800 80%  loss 0.0812"),
        (["640/800 80%", "loss 0.0812"], 7, "640/800"),
        (["", "skipped", ""], 20, "skipped"),
        ([], 20, ""),
        (["x"], -4, ""),
    ],
)
def test_fitted(parts: list[str], width: int, text: str) -> None:
    assert fmt.fitted(parts, width) == text


@pytest.mark.parametrize(
    ("key", "text"), [("identifier", "identifier"), ("zeroStage", "zero stage"), ("OMP_X", "OMP_X")]
)
def test_words(key: str, text: str) -> None:
    assert fmt.words(key) == text


def stage(**overrides: Any) -> StageEvent:
    fields: dict[str, Any] = {
        "stage": "Prior", "state": "Running", "done": 50, "total": 200, "unit": "images", "start": 100.0, "end": None,
    }  # fmt: skip
    return StageEvent(**fields | overrides)


def progress(**overrides: Any) -> ProgressEvent:
    fields: dict[str, Any] = {
        "step": 640, "total": 800, "loss": 0.0812, "instance_loss": 0.04, "prior_loss": None, "grad_norm": 1.0,
        "learning_rate": 5e-6, "samples_per_second": 11.26, "eta_seconds": 190.0, "time": 0.0,
    }  # fmt: skip
    return ProgressEvent(**fields | overrides)


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (stage(done=0), "Prior: started (0/200 images)"),
        (stage(total=0, done=0), "Prior: started"),
        (stage(done=120, note="80 to make"), "Prior: started (120/200 images), 80 to make"),
        (stage(state="Succeeded", done=200, end=148.0), "Prior: done in 48s (200 images)"),
        (stage(state="Succeeded", done=0, total=0, start=None), "Prior: done"),
        (stage(state="Skipped", done=0, total=0), "Prior: skipped"),
        (stage(state="Skipped", note="200 images are there"), "Prior: skipped, 200 images are there"),
        (stage(state="Failed"), "Prior: failed"),
    ],
)
def test_stage_line(event: StageEvent, text: str) -> None:
    assert stage_line(event) == text


@pytest.mark.parametrize(
    ("event", "parts"),
    [
        (progress(), ["loss 0.0812", "11.3 images/s", "3m10s left"]),
        (progress(samples_per_second=0.0), ["loss 0.0812", "3m10s left"]),
        (progress(step=800), ["loss 0.0812", "11.3 images/s"]),
    ],
)
def test_training_parts(event: ProgressEvent, parts: list[str]) -> None:
    assert training_parts(event) == parts


@pytest.mark.parametrize(
    ("event", "first_done", "parts"),
    [
        (None, 0, []),
        (stage(state="Pending", done=0, total=0), 0, [""]),
        (stage(), 0, ["50/200 25%", "5.00 images/s", "30s left", ""]),
        (stage(), 30, ["50/200 25%", "2.00 images/s", "1m15s left", ""]),
        (stage(), 50, ["50/200 25%", "for 10s", ""]),
        (stage(total=0, done=0), 0, ["for 10s", ""]),
        (stage(state="Succeeded", done=200, end=148.0), 0, ["200 images in 48s", ""]),
        (stage(state="Skipped", note="were there"), 0, ["were there"]),
        (stage(state="Skipped"), 0, ["skipped"]),
        (stage(state="Failed"), 0, ["failed", ""]),
    ],
)
def test_stage_parts(event: StageEvent | None, first_done: int, parts: list[str]) -> None:
    assert stage_parts(StageState("Prior", event, first_done, first_seen=1000.0), now=1010.0) == parts


@pytest.mark.parametrize(
    ("event", "saved", "parts"),
    [
        (stage(stage="Train"), 600, ["640/800 80%", "loss 0.0812", "11.3 images/s", "3m10s left", "saved at 600", ""]),
        (stage(stage="Train", state="Failed"), 600, ["failed", "640/800 80%", "loss 0.0812", ""]),
        (
            stage(stage="Train", state="Succeeded", done=800, total=800, unit="steps", end=148.0),
            800,
            ["800 steps in 48s", "loss 0.0812", ""],
        ),
        (stage(stage="Train", state="Skipped"), None, ["skipped"]),
    ],
)
def test_train_parts(event: StageEvent, saved: int | None, parts: list[str]) -> None:
    assert train_parts(StageState("Train", event), progress(), saved, now=0.0) == parts


def test_state_tells_a_change_of_state_from_a_change_of_count() -> None:
    state = RunState()
    assert state.apply(stage(done=0), now=5.0)
    assert not state.apply(stage(done=10), now=6.0)
    assert state.running == "Prior"
    assert state.stages["Prior"].speed(now=10.0) == 2.0
    assert state.apply(stage(state="Succeeded", done=200), now=9.0)
    assert state.running is None
