"""Class images of one's own, `prior.uri`: a folder or an archive, and as many as a prior takes."""

from __future__ import annotations

import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from PIL import Image
from trainer.tiny_job import config_dict

from kubooth_trainer.acquire import Fetcher
from kubooth_trainer.config import TrainConfig
from kubooth_trainer.distributed import World
from kubooth_trainer.errors import BadSubjectError
from kubooth_trainer.progress import PriorEvent, Reporter
from kubooth_trainer.stages.prior import make_class_images
from kubooth_trainer.stages.setting import Setting
from kubooth_trainer.stopping import StopFlag, Watchdog
from kubooth_trainer.storage import Storage

ALONE = World(rank=0, size=1, local_rank=0, local_size=1, device=torch.device("cpu"))
MANY = 120  # more than a subject may have


class Heard(list[Any]):
    def emit(self, event: Any) -> None:
        self.append(event)


def made(work: Path, source: Path, images: int) -> tuple[list[Path], list[Any]]:
    heard = Heard()
    config = config_dict(work, work, work, prior__uri=source.as_uri(), prior__images=images)
    checked = TrainConfig.model_validate(config)
    storage = Storage(checked.storage)
    setting = Setting(
        config=checked, plan=cast("Any", None), world=ALONE, reporter=Reporter(sinks=[heard]), stop=StopFlag(),
        watchdog=Watchdog(600, lambda _: None), storage=storage,
    )  # fmt: skip
    found = make_class_images(
        setting, cast("Any", SimpleNamespace(resolution=64)), Fetcher(storage=storage, world=ALONE)
    )
    assert found.key is None  # nothing was sampled, so that no latents are known
    return found.paths, heard


@pytest.fixture
def many(tmp_path: Path) -> Path:
    folder = tmp_path / "dogs"
    folder.mkdir()
    for index in range(MANY):
        Image.new("RGB", (96, 64), (index, 0, 0)).save(folder / f"{index:03d}.png")
    return folder


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "archive"])
def test_all_that_are_asked_for_are_taken(many: Path, tmp_path: Path, packed: bool) -> None:
    source = many
    if packed:
        source = tmp_path / "dogs.zip"
        with zipfile.ZipFile(source, "w") as archive:
            for path in many.iterdir():
                archive.write(path, f"dogs/{path.name}")
    paths, heard = made(tmp_path, source, 110)
    assert len(paths) == 110
    with Image.open(paths[109]) as last:
        assert (last.size, last.getpixel((0, 0))) == ((64, 64), (109, 0, 0))
    assert [event for event in heard if isinstance(event, PriorEvent)] == [
        PriorEvent(source="Provided", images=110, cache_key=None)
    ]


def test_fewer_than_asked_for_are_said(many: Path, tmp_path: Path) -> None:
    paths, heard = made(tmp_path, many, 200)
    assert len(paths) == MANY
    assert any("prior.uri holds 120 class images" in getattr(event, "message", "") for event in heard)


def test_bad_ones_are_named_all_at_once(many: Path, tmp_path: Path) -> None:
    for name in ("003.png", "090.png"):
        (many / name).write_bytes(b"")
    with pytest.raises(BadSubjectError, match=r"^prior\.uri: 2 photos of 120 .*003\.png.*090\.png"):
        made(tmp_path, many, MANY)
