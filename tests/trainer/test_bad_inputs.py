"""Each bad input ends in one sentence that names the field or file, the code for "fix and resubmit", and no output.

The job runs in this process, as its only rank: everything here is refused before DeepSpeed is needed.
"""

from __future__ import annotations

import io
import json
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from trainer.tiny_job import config_dict

from kubooth_trainer.config import TrainConfig
from kubooth_trainer.distributed import World
from kubooth_trainer.errors import ExitCode, KuboothError
from kubooth_trainer.job import run_job
from kubooth_trainer.progress import Reporter
from kubooth_trainer.stopping import StopFlag, Watchdog

ALONE = World(rank=0, size=1, local_rank=0, local_size=1, device=torch.device("cpu"))


class Inputs:
    """A job's photos and model in folders that a case may spoil."""

    def __init__(self, folder: Path, model: Path, photos: Path) -> None:
        self.folder = folder
        self.photos = folder / "photos"
        self.model = folder / "model"
        shutil.copytree(photos, self.photos)
        shutil.copytree(model, self.model)
        self.config = config_dict(self.model, self.photos, folder)

    def use_archive(self, name: str) -> Path:
        path = self.folder / name
        self.config["subject"]["images"] = path.as_uri()
        return path

    def change_index(self, **changes: Any) -> None:
        path = self.model / "model_index.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    def run(self) -> KuboothError:
        reporter = Reporter()
        with pytest.raises(KuboothError) as caught:
            run_job(TrainConfig.model_validate(self.config), ALONE, reporter, StopFlag(), Watchdog(600, lambda _: None))
        return caught.value


@pytest.fixture
def inputs(tmp_path: Path, tiny_model: Path, photos: Path) -> Inputs:
    return Inputs(tmp_path, tiny_model, photos)


def huge_png() -> bytes:
    """A PNG of 50,000 x 50,000 pixels whose data is a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")


def no_photos(inputs: Inputs) -> None:
    for path in inputs.photos.iterdir():
        path.unlink()


def unreadable(inputs: Inputs) -> None:
    (inputs.photos / "2.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(200))


def truncated(inputs: Inputs) -> None:
    path = inputs.photos / "2.png"
    path.write_bytes(path.read_bytes()[:-60])


def zero_byte(inputs: Inputs) -> None:
    (inputs.photos / "2.png").write_bytes(b"")


def text_named_jpg(inputs: Inputs) -> None:
    (inputs.photos / "notes.jpg").write_text("not a picture")


def thirty_pixels(inputs: Inputs) -> None:
    Image.new("RGB", (30, 30)).save(inputs.photos / "small.png")


def pixel_bomb(inputs: Inputs) -> None:
    (inputs.photos / "bomb.png").write_bytes(huge_png())


def zip_slip(inputs: Inputs) -> None:
    with zipfile.ZipFile(inputs.use_archive("photos.zip"), "w") as archive:
        archive.writestr("../evil.png", (inputs.photos / "0.png").read_bytes())


def zip_of_ten_gigabytes(inputs: Inputs) -> None:
    with zipfile.ZipFile(inputs.use_archive("photos.zip"), "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for number in range(10):
            info = zipfile.ZipInfo(f"{number}.png")
            info.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(info, "w", force_zip64=True) as member:
                for _ in range(16):
                    member.write(bytes(1 << 20))
    # The real size would take a minute to write: the directory claims 1 GiB for each member instead.
    path = inputs.folder / "photos.zip"
    data = bytearray(path.read_bytes())
    position = data.find(b"PK\x01\x02")
    while position >= 0:
        data[position + 24 : position + 28] = struct.pack("<I", 1 << 30)
        position = data.find(b"PK\x01\x02", position + 4)
    path.write_bytes(data)


def tar_with_link(inputs: Inputs) -> None:
    with tarfile.open(inputs.use_archive("photos.tar"), "w") as archive:
        link = tarfile.TarInfo("0.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link, io.BytesIO())


def no_index(inputs: Inputs) -> None:
    (inputs.model / "model_index.json").unlink()


def only_bin(inputs: Inputs) -> None:
    weights = inputs.model / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))


def no_weights(inputs: Inputs) -> None:
    (inputs.model / "vae" / "diffusion_pytorch_model.safetensors").unlink()


def cut_off_weights(inputs: Inputs) -> None:
    path = inputs.model / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def quantized(inputs: Inputs) -> None:
    path = inputs.model / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": {"load_in_4bit": True}}))


def pointer_of_git_lfs(inputs: Inputs) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 3438167536\n"
    (inputs.model / "text_encoder" / "model.safetensors").write_text(pointer)


def broken_config(inputs: Inputs) -> None:
    (inputs.model / "vae" / "config.json").write_text('{"_class_name": ')


def no_tokenizer(inputs: Inputs) -> None:
    shutil.rmtree(inputs.model / "tokenizer")


def unsupported_family(inputs: Inputs) -> None:
    inputs.change_index(_class_name="FluxPipeline")


def remote_code(inputs: Inputs) -> None:
    inputs.change_index(unet=["my_module", "MyUNet"])


def broken_index(inputs: Inputs) -> None:
    (inputs.model / "model_index.json").write_text("{")


def missing_model(inputs: Inputs) -> None:
    shutil.rmtree(inputs.model)


def another_jobs_output(inputs: Inputs) -> None:
    folder = inputs.folder / "output"
    folder.mkdir()
    (folder / "keep.txt").write_text("theirs")


def odd_resolution(inputs: Inputs) -> None:
    inputs.config["training"]["resolution"] = 33


def long_prompt(inputs: Inputs) -> None:
    inputs.config["evaluation"]["prompts"] = ["a photo of a {identifier} {class} " + "in the snow " * 40]


def zero_snr_for_epsilon(inputs: Inputs) -> None:
    inputs.config["training"]["zero_terminal_snr"] = True
    path = inputs.model / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prediction_type": "epsilon"}))


def indivisible_batch(inputs: Inputs) -> None:
    inputs.config["training"]["gradient_accumulation"] = 3


def own_class_images_missing(inputs: Inputs) -> None:
    folder = inputs.folder / "class"
    folder.mkdir()
    (folder / "readme.png").write_text("not a picture")
    inputs.config["prior"]["uri"] = folder.as_uri()


CASES: list[tuple[Callable[[Inputs], None], str, str]] = [  # how it is spoiled, reason, what the sentence names
    (no_photos, "BadSubject", "subject.images"),
    (unreadable, "BadSubject", "2.png"),
    (truncated, "BadSubject", "2.png"),
    (zero_byte, "BadSubject", "2.png"),
    (text_named_jpg, "BadSubject", "notes.jpg"),
    (thirty_pixels, "BadSubject", "small.png"),
    (pixel_bomb, "BadSubject", "bomb.png"),
    (zip_slip, "BadSubject", "../evil.png"),
    (zip_of_ten_gigabytes, "BadSubject", "photos.zip"),
    (tar_with_link, "BadSubject", "0.png"),
    (no_index, "BadModel", "model_index.json"),
    (only_bin, "BadModel", "unet/diffusion_pytorch_model.bin"),
    (no_weights, "BadModel", "vae/"),
    (cut_off_weights, "BadModel", "unet/diffusion_pytorch_model.safetensors is damaged or cut off"),
    (quantized, "BadModel", "unet/config.json: the weights are quantized"),
    (pointer_of_git_lfs, "BadModel", "text_encoder/model.safetensors is a pointer of Git LFS"),
    (broken_config, "BadModel", "vae/config.json is damaged"),
    (no_tokenizer, "BadModel", "tokenizer/ is missing"),
    (unsupported_family, "BadModel", "FluxPipeline"),
    (remote_code, "BadModel", "MyUNet"),
    (broken_index, "BadModel", "model_index.json"),
    (missing_model, "BadModel", "model_index.json"),
    (another_jobs_output, "OutputExists", "output.uri"),
    (odd_resolution, "ConfigError", "training.resolution"),
    (long_prompt, "ConfigError", "evaluation.prompts[0]"),
    (zero_snr_for_epsilon, "ConfigError", "training.zeroTerminalSnr"),
    (indivisible_batch, "ConfigError", "training.batchSize"),
    (own_class_images_missing, "BadSubject", "prior.uri"),
]


@pytest.mark.parametrize(("spoil", "reason", "named"), CASES, ids=[case[0].__name__ for case in CASES])
def test_bad_input(inputs: Inputs, spoil: Callable[[Inputs], None], reason: str, named: str) -> None:
    spoil(inputs)
    before = sorted((inputs.folder / "output").rglob("*"))
    error = inputs.run()
    assert (error.reason, error.exit_code) == (reason, ExitCode.FIX_AND_RESUBMIT)
    assert named in str(error)
    assert "\n" not in str(error)
    assert sorted((inputs.folder / "output").rglob("*")) == before


class TestOnS3:
    """The same, with photos, model or output in buckets of a real S3 server."""

    @pytest.fixture
    def on_s3(self, inputs: Inputs, s3: Any) -> Inputs:
        inputs.config["storage"] = s3.config.model_dump()
        for path in inputs.photos.iterdir():
            s3.put(f"photos/{path.name}", path.read_bytes())
        inputs.config["subject"]["images"] = s3.uri("photos/")
        return inputs

    def test_missing_bucket(self, on_s3: Inputs) -> None:
        on_s3.config["subject"]["images"] = "s3://no-such-bucket/photos/"
        error = on_s3.run()
        assert (error.reason, error.exit_code) == ("StorageDenied", ExitCode.FIX_AND_RESUBMIT)
        assert "no-such-bucket" in str(error)

    def test_missing_key(self, on_s3: Inputs, s3: Any) -> None:
        on_s3.config["subject"]["images"] = s3.uri("not-there/")
        error = on_s3.run()
        assert (error.reason, error.exit_code) == ("StorageDenied", ExitCode.FIX_AND_RESUBMIT)
        assert "not-there" in str(error)

    def test_access_denied(self, on_s3: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
        error = on_s3.run()
        assert (error.reason, error.exit_code) == ("StorageDenied", ExitCode.FIX_AND_RESUBMIT)
        assert "not-the-secret" not in str(error)

    def test_another_jobs_output(self, on_s3: Inputs, s3: Any) -> None:
        s3.put("result/keep.txt", b"theirs")
        on_s3.config["output"]["uri"] = s3.uri("result/")
        error = on_s3.run()
        assert (error.reason, error.exit_code) == ("OutputExists", ExitCode.FIX_AND_RESUBMIT)
        assert s3.keys().count("result/keep.txt") == 1
