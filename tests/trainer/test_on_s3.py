"""The whole job with everything in buckets of a real S3 server: model, photos, checkpoints and output."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from trainer.test_job import is_checkpoint, trainer_pids
from trainer.tiny_job import RUN_SECONDS, Launch, MakeConfig

from kubooth_trainer.progress import StageEvent
from kubooth_trainer.publish import verify
from kubooth_trainer.storage import Storage


def put_tree(s3: Any, folder: Path, prefix: str) -> str:
    for path in folder.rglob("*"):
        if path.is_file():
            s3.put(f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes())
    return str(s3.uri(f"{prefix}/"))


def test_killed_and_resumed_on_a_fresh_machine(
    s3: Any, tiny_model: Path, photos: Path, launch: Launch, make_config: MakeConfig, tmp_path: Path
) -> None:
    model = put_tree(s3, tiny_model, "models/tiny")
    s3.put("models/tiny/unet/diffusion_pytorch_model.bin", b"a pickle that nobody reads")
    common = {
        "model__uri": model,
        "subject__images": put_tree(s3, photos, "photos/rex"),
        "checkpoints__uri": s3.uri("checkpoints/rex"),
        "output__uri": s3.uri("results/rex/"),
        "storage": s3.config.model_dump(),
    }
    first = launch(make_config(**common))
    first.until(is_checkpoint)
    os.kill(trainer_pids(first)[0], signal.SIGKILL)
    assert first.finish().code == 70
    assert not [key for key in s3.keys() if key.startswith("results/")]  # noqa: SIM118 - not a mapping

    second = launch(make_config(**common, workdir=str(tmp_path / "another-node"))).finish()
    assert second.result.model == s3.uri("results/rex/")
    train = [event for event in second.events if isinstance(event, StageEvent) and event.stage == "Train"]
    assert re.fullmatch("resumed at step (5|10|15)", train[-1].note)
    assert not list((tmp_path / "another-node" / "model").rglob("*.bin"))

    storage = Storage(s3.config)
    assert verify(storage, s3.uri("results/rex/")) == []
    assert not [key for key in s3.keys() if key.startswith("checkpoints/")]  # noqa: SIM118
    folder = storage.fetch_tree(s3.uri("results/rex/"), tmp_path / "fetched")
    code = "from diffusers import StableDiffusionPipeline as P; import sys; P.from_pretrained(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, capture_output=True, timeout=RUN_SECONDS)
