"""Finds the model that `kubooth sample` was asked for: an output of ours, a model folder, or a catalogue name.

Reads small files only; nothing heavy is imported here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubooth_cli.plan import at_home, bundled_models, output_uri
from kubooth_cli.workdir import cache_root
from kubooth_trainer.config import StorageConfig, fill_prompt
from kubooth_trainer.errors import BadModelError

MANIFEST = "manifest.json"
INDEX = "model_index.json"
SINGLE_FILE = "model.safetensors"
PLACEHOLDERS = ("{identifier}", "{class}")

Transfer = Callable[[int, int], None]  # bytes done, bytes in all


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What to draw. Picture `i` of `count` has seed `seed + i`. `guidance` None: as in the model's report, or 7.5."""

    prompt: str
    count: int
    seed: int
    steps: int
    guidance: float | None
    negative: str


class ModelError(Exception):
    """Why a model or a prompt cannot be used, in one sentence."""


@dataclass(frozen=True)
class Subject:
    """What a manifest says of the subject, and the guidance its report was made with."""

    identifier: str
    class_name: str
    guidance_scale: float | None


@dataclass(frozen=True)
class Model:
    """A model on this machine. `path` is a folder in diffusers layout or a single .safetensors file."""

    name: str
    path: Path
    subject: Subject | None

    def fill(self, prompt: str) -> str:
        """The prompt with `{identifier}` and `{class}` replaced. Raises ModelError where nothing is known of them."""
        asked = [placeholder for placeholder in PLACEHOLDERS if placeholder in prompt]
        if not asked:
            return prompt
        if self.subject is None:
            raise ModelError(
                f"the prompt holds {asked[0]}, but {self.name} has no {MANIFEST} that says what it stands for: "
                "write the words themselves, or name the output folder of a finished job"
            )
        return fill_prompt(prompt, identifier=self.subject.identifier, class_name=self.subject.class_name)


def find_model(given: str, environment: Mapping[str, str], on_transfer: Transfer | None = None) -> Model:
    """The model that `given` names: a path or `file:` URI first, then `s3://`, then the bundled catalogue.

    Raises:
        ModelError: nothing is there, or it is no model.
        KuboothError: the storage refused or did not answer.
    """
    if given.startswith("s3://"):
        folder = given.removesuffix(f"/{SINGLE_FILE}")  # its configs and manifest lie beside it
        return _open(given, _fetch(folder, environment, on_transfer))
    catalogue = bundled_models()
    path = at_home(Path(given))
    if given in catalogue and not path.exists():
        return _open(given, _local(catalogue[given]))
    if given.lower().startswith("file:"):
        path = _local(output_uri(given))
    if not path.exists():
        known = ", ".join(catalogue) or "none is installed; `pip install kubooth-world` brings small-world"
        raise ModelError(f"{given}: no such folder, file or bundled model (bundled: {known})")
    return _open(given, path)


def _local(uri: str) -> Path:
    from kubooth_trainer.storage import Storage

    path = Storage(StorageConfig(endpoint=None, region=None)).local_path(uri)
    assert path is not None
    return path


def _open(given: str, path: Path) -> Model:
    folder = path if path.is_dir() else path.parent
    subject = _subject(folder / MANIFEST)
    if path.is_file():
        if path.suffix != ".safetensors":
            raise ModelError(f"{given}: only safetensors files and folders in diffusers layout are loaded")
        return Model(given, path, subject)
    if (path / INDEX).is_file():
        return Model(given, path, subject)
    if (path / SINGLE_FILE).is_file():
        return Model(given, path / SINGLE_FILE, subject)
    raise ModelError(f"{given}: holds neither {INDEX} nor {SINGLE_FILE}: name the output folder of a finished job")


def _subject(manifest: Path) -> Subject | None:
    try:
        raw: Any = json.loads(manifest.read_text())
        config = raw["config"]
        return Subject(
            identifier=str(raw["identifier"]),
            class_name=str(config["subject"]["class_name"]),
            guidance_scale=float(config["evaluation"]["sampler"]["guidance_scale"]),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{manifest}: cannot be read as a manifest of a finished job ({error!r})") from error


def _fetch(uri: str, environment: Mapping[str, str], on_transfer: Transfer | None) -> Path:
    """Mirrors what is needed of a model into the cache; what is there whole stays."""
    from kubooth_trainer.families import check_model, wanted_files
    from kubooth_trainer.storage import Storage

    storage = Storage(StorageConfig(endpoint=None, region=None))  # AWS_ENDPOINT_URL and the like are boto3's to read
    names = [entry.name for entry in storage.list(uri)]
    if INDEX in names:
        family = check_model(uri, names, storage.read_bytes(storage.join(uri, INDEX)))
        wanted = {*wanted_files(names, family), MANIFEST}
    elif SINGLE_FILE in names:
        wanted = {name for name in names if name.endswith((".safetensors", ".json", ".txt"))}
    elif names:
        raise BadModelError(f"{uri}: holds neither {INDEX} nor {SINGLE_FILE}: name the output of a finished job")
    else:
        wanted = set(names)
    folder = cache_root(environment) / "models" / hashlib.sha256(uri.rstrip("/").encode()).hexdigest()[:16]
    return storage.fetch_tree(uri, folder, names=wanted, on_progress=on_transfer)
