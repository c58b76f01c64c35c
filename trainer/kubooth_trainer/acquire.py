"""The Download stage: model and photos to this node, and every judgement that can be made before time is spent."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kubooth_trainer.config import EncoderRole, TrainConfig, fill_prompt
from kubooth_trainer.distributed import World
from kubooth_trainer.encoders import Encoders, check_encoder, field_of, load_encoders
from kubooth_trainer.encoders.base import CONFIG
from kubooth_trainer.errors import BadModelError, BadSubjectError, ConfigError
from kubooth_trainer.families import INDEX, Family, check_model, wanted_files
from kubooth_trainer.identifier import choose_identifier, judge_identifier
from kubooth_trainer.loss import NoiseSchedule
from kubooth_trainer.model_cache import ModelCache
from kubooth_trainer.model_files import check_readable
from kubooth_trainer.photo_check import Finding
from kubooth_trainer.progress import Reporter
from kubooth_trainer.recognition import AUTO, recognize, with_class
from kubooth_trainer.single_file import check_single_file
from kubooth_trainer.storage import Progress, Storage
from kubooth_trainer.subject import LoadedSubject, load_photos, unpack_subject


@dataclass(frozen=True, kw_only=True)
class Acquired:
    """A model folder on this node, the checked photos, and the words for them.

    `findings` are what is to be looked at in the photos; `class_name` is settled where the config says Auto;
    `instance_prompts` has one filled prompt per photo; `model_digest` is SHA-256 over the model's files; `encoders`
    are the folders to measure with; `unmeasurable` says why they cannot speak of these photos.
    """

    family: Family
    model: Path
    model_digest: str
    subject: LoadedSubject
    findings: tuple[Finding, ...]
    class_name: str
    resolution: int
    identifier: str
    instance_prompts: list[str]
    encoders: dict[EncoderRole, Path]
    unmeasurable: str | None


@dataclass(frozen=True, kw_only=True)
class Fetcher:
    """Brings URIs to this node: the node's first rank copies, the others find it there."""

    storage: Storage
    world: World
    on_progress: Progress | None = None
    cache: ModelCache | None = None

    def fetch(self, uri: str, folder: Path, *, names: list[str] | None = None) -> Path:
        """The local folder or file of a URI. Collective."""
        if self.world.leads_node:
            self.storage.fetch_tree(uri, folder, names=names, on_progress=self.on_progress)
        self.world.barrier()
        return self.storage.fetch_tree(uri, folder, names=names)

    def fetch_model(self, uri: str, folder: Path, *, names: list[str], reporter: Reporter) -> Path:
        """The same for a model or encoder; where the node's cache holds it, `folder` is a link. Collective."""
        if self.cache is None or self.storage.local_path(uri) is not None:
            return self.fetch(uri, folder, names=names)
        if self.world.leads_node:
            if folder.is_symlink():
                folder.unlink()
            cached = self.cache.fetch(uri, names, self.on_progress)
            if cached is None:
                self.storage.fetch_tree(uri, folder, names=names, on_progress=self.on_progress)
            else:
                shutil.rmtree(folder, ignore_errors=True)
                folder.parent.mkdir(parents=True, exist_ok=True)
                folder.symlink_to(cached[0])
                reporter.info("modelCache", f"{uri}: {cached[1]}")
        self.world.barrier()
        return folder


def acquire(config: TrainConfig, fetcher: Fetcher, reporter: Reporter) -> Acquired:
    """Collective. Raises BadModelError, BadSubjectError, ConfigError or a storage error, all before any output."""
    work = Path(config.workdir)
    reporter.begin("Download", total=2, unit="inputs")
    encoders = _encoders(config, fetcher, work, reporter)
    family, model = _model(config, fetcher, work, reporter)
    if config.output.format == "SingleFile":
        check_single_file(model)
    reporter.advance("Download", 1)
    resolution = config.training.resolution or family.resolution(model)
    _check_resolution(family, model, resolution)
    _check_schedule(config, family, model)
    photos = _photos(config, fetcher, work)
    folder = unpack_subject(photos, work / f"unpacked-{fetcher.world.local_rank}")
    subject = load_photos(folder, resolution=resolution, captions=config.training.captions)
    loaded = load_encoders(encoders, config.evaluation.encoders, torch.device("cpu"))
    unmeasurable = _unmeasurable(config, loaded, subject)
    recognized = recognize(config, loaded, subject.photos, fetcher.world)
    config = with_class(config, recognized.class_name)
    findings = (*subject.findings, *recognized.findings)
    for finding in findings:
        reporter.warn(finding.message)
    tokenizers = family.load_tokenizers(model)
    identifier = _identifier(config, tokenizers[0], reporter)
    prompts = [
        fill_prompt(
            photo.caption or config.subject.prompt_template,
            identifier=identifier,
            class_name=config.subject.class_name,
        )
        for photo in subject.photos
    ]
    _check_lengths(config, family, tokenizers, identifier, prompts)
    if unmeasurable is not None and config.evaluation.gate is not None:
        reporter.warn(f"evaluation.gate cannot be judged: {unmeasurable}")
    acquired = Acquired(
        family=family,
        model=model,
        model_digest=_model_digest(model, work / "model-digest.json"),
        subject=subject,
        findings=findings,
        class_name=config.subject.class_name,
        resolution=resolution,
        identifier=identifier,
        instance_prompts=prompts,
        encoders=encoders,
        unmeasurable=unmeasurable,
    )
    reporter.end("Download")
    return acquired


def _photos(config: TrainConfig, fetcher: Fetcher, work: Path) -> Path:
    uri = config.subject.images
    local = fetcher.storage.local_path(uri)
    if local is not None and local.is_dir() and not fetcher.storage.list(uri):
        raise BadSubjectError(f"subject.images: {uri} is an empty folder: put 3 to 5 photos of the subject there")
    return fetcher.fetch(uri, work / "photos")


def _model(config: TrainConfig, fetcher: Fetcher, work: Path, reporter: Reporter) -> tuple[Family, Path]:
    uri, storage = config.model.uri, fetcher.storage
    names = [entry.name for entry in storage.list(uri)]
    index = storage.read_bytes(storage.join(uri, INDEX)) if INDEX in names else None
    family = check_model(uri, names, index)
    wanted = wanted_files(names, family)
    folder = fetcher.fetch_model(uri, work / "model", names=wanted, reporter=reporter)
    check_readable(uri.rstrip("/"), folder, wanted)
    return family, folder


def _encoders(config: TrainConfig, fetcher: Fetcher, work: Path, reporter: Reporter) -> dict[EncoderRole, Path]:
    """The folders of the encoders, where anything is to be measured; CLIP's also where it names the class."""
    storage, folders = fetcher.storage, {}
    needed = config.evaluation.metrics or config.evaluation.best_checkpoint
    for role, uri in config.evaluation.encoders.items():
        if not needed and not (role == "clip" and config.subject.class_name == AUTO):
            continue
        names = [entry.name for entry in storage.list(uri)]
        about = storage.read_bytes(storage.join(uri, CONFIG)) if CONFIG in names else None
        wanted = check_encoder(role, uri, names, about)
        folders[role] = fetcher.fetch_model(uri, work / "encoders" / role, names=wanted, reporter=reporter)
        check_readable(f"{field_of(role)}: {uri.rstrip('/')}", folders[role], wanted)
    return folders


def _unmeasurable(config: TrainConfig, encoders: Encoders, subject: LoadedSubject) -> str | None:
    """Why the encoders say nothing of these photos."""
    gate = config.evaluation.gate
    why = encoders.why_not([photo.image for photo in subject.photos])
    if why is not None and gate is not None and gate.action == "Fail":
        raise ConfigError(f"evaluation.gate: cannot be judged: {why}; leave the gate out, or use such a runtime")
    return why


def _check_resolution(family: Family, model: Path, resolution: int) -> None:
    multiple = family.resolution_multiple(model)
    if resolution % multiple:
        raise ConfigError(
            f"training.resolution: must be a multiple of {multiple} pixels for this model, got {resolution}"
        )


def _check_schedule(config: TrainConfig, family: Family, model: Path) -> None:
    try:
        schedule = NoiseSchedule.from_config(family.load_schedule(model), zero_terminal_snr=False)
    except (ValueError, TypeError, OSError) as error:
        raise BadModelError(f"model.uri: {config.model.uri}: {error}") from error
    if config.training.zero_terminal_snr and schedule.prediction == "epsilon":
        raise ConfigError(
            "training.zeroTerminalSnr: needs a model that predicts v; this one predicts epsilon, which says nothing "
            "at a signal-to-noise ratio of zero. Leave it out for this model"
        )


def _identifier(config: TrainConfig, tokenizer: Any, reporter: Reporter) -> str:
    given = config.subject.identifier
    if given is None:
        chosen = choose_identifier(tokenizer, class_name=config.subject.class_name, seed=config.training.seed)
        return chosen.text
    for sentence in judge_identifier(tokenizer, given, class_name=config.subject.class_name):
        reporter.warn(sentence)
    return given


def _check_lengths(
    config: TrainConfig, family: Family, tokenizers: Any, identifier: str, instance_prompts: list[str]
) -> None:
    def filled(template: str) -> str:
        return fill_prompt(template, identifier=identifier, class_name=config.subject.class_name)

    named = [("subject.promptTemplate", prompt) for prompt in instance_prompts]
    named += [("prior.prompt", filled(config.prior.prompt)), ("prior.negativePrompt", config.prior.negative_prompt)]
    named += [
        (f"evaluation.prompts[{number}]", filled(prompt)) for number, prompt in enumerate(config.evaluation.prompts)
    ]
    if config.evaluation.best_checkpoint is not None:
        prompts = config.evaluation.best_checkpoint.prompts
        named += [
            (f"evaluation.bestCheckpoint.prompts[{number}]", filled(prompt)) for number, prompt in enumerate(prompts)
        ]
    for field, prompt in named:
        count = family.too_long(tokenizers, prompt)
        if count is not None:
            raise ConfigError(f"{field}: {prompt!r} has {count} tokens, more than this model reads; shorten it")


def _model_digest(model: Path, memory: Path) -> str:
    """SHA-256 (hex) over the model's files. Large models are read once: `memory` keeps it by sizes and times."""
    files = sorted(path for path in model.rglob("*") if path.is_file() and path.suffix in (".safetensors", ".json"))
    state = [[str(path.relative_to(model)), path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    known = _read_json(memory)
    if known.get("state") == state:
        return str(known["digest"])
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    partial = memory.with_suffix(f".{os.getpid()}.partial")
    memory.parent.mkdir(parents=True, exist_ok=True)
    partial.write_text(json.dumps({"state": state, "digest": digest.hexdigest()}))
    partial.replace(memory)
    return digest.hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
