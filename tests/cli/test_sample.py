"""`kubooth sample`: finding the model, filling the prompt, and the same pictures for the same seed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image, ImageChops

from kubooth_cli.models import ModelError, find_model
from kubooth_cli.sample import sample_command

MANIFEST = {
    "identifier": "sks",
    "config": {"subject": {"class_name": "dog"}, "evaluation": {"sampler": {"guidance_scale": 3.0}}},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model in diffusers layout, without a manifest."""
    tiny_model = pytest.importorskip("kubooth_world.tiny_model")
    path: Path = tiny_model.write(tmp_path_factory.mktemp("models") / "base model")
    return path


@pytest.fixture
def output(base: Path, tmp_path: Path) -> Path:
    """The same model as the output of a finished job."""
    folder = shutil.copytree(base, tmp_path / "out")
    (folder / "manifest.json").write_text(json.dumps(MANIFEST))
    return folder


def sample(*arguments: object) -> Result:
    return CliRunner().invoke(sample_command, [*map(str, arguments), "--steps", "2"])


def opened(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        picture.load()
    return picture


def same(one: Image.Image, other: Image.Image) -> bool:
    """Equal but for the last bits: batches of another size may round otherwise."""
    return max(ImageChops.difference(one, other).tobytes()) <= 1


def test_a_grid_and_its_pictures(output: Path, tmp_path: Path) -> None:
    grid = tmp_path / "made" / "grid.png"
    done = sample(output, "a photo of {identifier} {class}", "-n", 3, "-o", grid, "--seed", 5, "--separate")
    assert done.exit_code == 0, done.output
    names = ["grid.png", "grid-5.png", "grid-6.png", "grid-7.png"]
    assert done.stdout.splitlines() == [str(grid.with_name(name)) for name in names]
    assert opened(grid).size == (32 * 2 + 4, 32 * 2 + 4)
    assert opened(grid.with_name("grid-6.png")).size == (32, 32)
    assert sorted(path.name for path in grid.parent.iterdir()) == sorted(names)

    again = tmp_path / "one.png"
    words = sample(output, "a photo of sks dog", "-n", 1, "-o", again, "--seed", 5)
    assert words.exit_code == 0, words.output
    assert opened(again).size == (32, 32)
    assert same(opened(again), opened(grid.with_name("grid-5.png")))  # alone or one of three
    other = tmp_path / "other.png"
    assert sample(output, "a photo of a cat", "-n", 1, "-o", other, "--seed", 5).exit_code == 0
    assert opened(again).tobytes() != opened(other).tobytes()


def test_the_placeholders_are_the_subjects(output: Path) -> None:
    model = find_model(str(output), {})
    assert model.fill("a photo of {identifier} {class} in the snow") == "a photo of sks dog in the snow"
    assert model.fill("a photo of {0} {}") == "a photo of {0} {}"  # replaced literally, nothing else
    assert model.subject is not None
    assert model.subject.guidance_scale == 3.0


def test_file_uris_and_percent_signs(base: Path) -> None:
    assert find_model(base.as_uri(), {}).path == base


@pytest.mark.parametrize("placeholder", ["{identifier}", "{class}"])
def test_placeholders_need_a_manifest(base: Path, placeholder: str) -> None:
    done = sample(base, f"a photo of {placeholder}")
    assert done.exit_code == 2
    assert done.stderr == (
        f"error: the prompt holds {placeholder}, but {base} has no manifest.json that says what it stands for: "
        "write the words themselves, or name the output folder of a finished job\n"
    )


def broken(folder: Path, name: str, content: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(content)
    return folder


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        (None, "", "no such folder, file or bundled model (bundled: "),
        ("notes.txt", "", "holds neither model_index.json nor model.safetensors"),
        ("model_index.json", '{"_class_name": "FluxPipeline"}', "the family FluxPipeline is not supported"),
        ("model_index.json", "{", "not a diffusers index"),
        ("model.safetensors", "", "a single file needs its model_index.json and configs beside it"),
        ("manifest.json", "{}", "cannot be read as a manifest of a finished job"),
    ],
)
def test_what_is_no_model_is_refused(tmp_path: Path, name: str | None, content: str, sentence: str) -> None:
    folder = tmp_path / "thing"
    if name:
        broken(folder, name, content)
    done = sample(folder, "a dog")
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ")
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_pickled_weights_are_refused(output: Path) -> None:
    shutil.rmtree(output / "unet")
    broken(output / "unet", "config.json", "{}")
    broken(output / "unet", "diffusion_pytorch_model.bin", "")
    done = sample(output, "a dog")
    assert done.exit_code == 2
    assert "is a pickle, which is never loaded" in done.stderr


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    path.write_bytes(b"\x80\x04")
    with pytest.raises(ModelError, match="only safetensors files and folders"):
        find_model(str(path), {})


def test_a_place_that_cannot_be_written_is_named(output: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = sample(output, "a dog", "-n", 1, "-o", tmp_path / "file" / "grid.png")
    assert done.exit_code == 2
    assert f"error: {tmp_path}/file/grid.png: cannot be written: " in done.stderr


def test_catalogue_names_come_from_the_bundled_package(monkeypatch: pytest.MonkeyPatch, base: Path) -> None:
    import kubooth_cli.models as models

    catalogue: dict[str, Any] = {"small-world": base.as_uri()}
    monkeypatch.setattr(models, "bundled_models", lambda: catalogue)
    assert find_model("small-world", {}).path == base
    with pytest.raises(ModelError, match=r"small-wrld: no such folder, file or bundled model \(bundled: small-world\)"):
        find_model("small-wrld", {})


def test_a_model_in_a_bucket_is_fetched_once(s3: Any, output: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    for path in output.rglob("*"):
        if path.is_file():
            s3.put(f"rex/{path.relative_to(output).as_posix()}", path.read_bytes())
    s3.put("rex/report.html", b"not needed here")
    moved: list[tuple[int, int]] = []
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    model = find_model(s3.uri("rex/"), cache, lambda done, total: moved.append((done, total)))
    assert model.path.is_relative_to(tmp_path / "cache" / "kubooth" / "models")
    assert model.fill("a {identifier} {class}") == "a sks dog"
    assert (model.path / "unet" / "config.json").is_file()
    assert not (model.path / "report.html").exists()
    assert moved[-1][0] == moved[-1][1] > 0
    weights = model.path / "unet" / "diffusion_pytorch_model.safetensors"
    before = weights.stat().st_ino
    assert find_model(s3.uri("rex"), cache).path == model.path
    assert weights.stat().st_ino == before


def test_nothing_in_a_bucket_is_said(s3: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    done = sample(s3.uri("nowhere/"), "a dog")
    assert done.exit_code == 2
    assert done.stderr == f"error: {s3.uri('nowhere/')}: there is nothing at this location: check the URI\n"
