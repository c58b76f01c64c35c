"""One job from photos to a published model: read `run_job` from top to bottom; each stage is one function.

Every stage leaves its work in the work folder under a key of what decided it, so that a restart skips what is whole.
Files shared by the ranks of a node are written by the node's first rank; collectives are entered by all.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from kubooth_trainer import latents
from kubooth_trainer.acquire import Acquired, Fetcher, acquire
from kubooth_trainer.checkpoint import Checkpoint, Checkpoints
from kubooth_trainer.checkpoint_claim import claim_checkpoints, delete_checkpoints
from kubooth_trainer.claim import Claim, Identity
from kubooth_trainer.config import STAGES, StageName, TrainConfig
from kubooth_trainer.distributed import World
from kubooth_trainer.errors import BadSubjectError, QualityRejectedError
from kubooth_trainer.evaluate import Comparison, Subjects, plan_comparisons, sample_comparisons
from kubooth_trainer.export import ExportOptions, export_model
from kubooth_trainer.families import load_parts
from kubooth_trainer.loop import Surroundings, TrainInputs, train
from kubooth_trainer.measure import appraise
from kubooth_trainer.plan import Plan, make_plan
from kubooth_trainer.prior import (
    PriorMaker,
    PriorProgress,
    class_image_paths,
    describe_prior,
    drop_damaged,
    prior_key,
    prior_prompt,
    prior_words,
)
from kubooth_trainer.prior_cache import PriorCache, open_storage
from kubooth_trainer.progress import PriorEvent, Reporter, ResultEvent, transfer
from kubooth_trainer.publish import Destination, Manifest, SameJobComplete, check_output, publish
from kubooth_trainer.quality import Quality
from kubooth_trainer.result import Finished, manifest_fields, quality_event, write_pages
from kubooth_trainer.sampling import Sampler
from kubooth_trainer.single_file import SINGLE_FILE, write_single_file
from kubooth_trainer.stopping import StopFlag, Watchdog
from kubooth_trainer.storage import Progress, Storage
from kubooth_trainer.subject import crops, load_photos

REJECTED = ".kubooth/rejected"  # below the output


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The job and everything around it, the same for all stages."""

    config: TrainConfig
    plan: Plan
    world: World
    reporter: Reporter
    stop: StopFlag
    watchdog: Watchdog
    storage: Storage

    @property
    def work(self) -> Path:
        return Path(self.config.workdir)

    def progress(self, stage: StageName) -> Callable[[int], None]:
        """A callback for collective work of a stage: reports, keeps the watchdog quiet, and stops when asked to."""

        def advance(done: int) -> None:
            self.reporter.advance(stage, done)
            self.watchdog.beat()
            self.stop.raise_if_requested(self.world)

        return advance

    def alone(self, stage: StageName, offset: int = 0) -> Callable[[int], None]:
        """The same for work that this rank does while others wait for it."""

        def advance(done: int) -> None:
            self.reporter.advance(stage, offset + done)
            self.stop.raise_if_set_here()

        return advance

    def moved_alone(self) -> None:
        """The same for such work without a count."""
        self.reporter.moved()
        self.stop.raise_if_set_here()

    def transfer(self) -> Progress:
        """The same for files on their way to or from this rank."""
        moved = transfer(self.reporter.moved)

        def on_progress(done: int, total: int) -> None:
            moved(done, total)
            self.stop.raise_if_set_here()

        return on_progress


def run_job(config: TrainConfig, world: World, reporter: Reporter, stop: StopFlag, watchdog: Watchdog) -> None:
    """Does what is not done yet, and reports the result. Collective."""
    started = time.time()
    storage = Storage(config.storage)
    destination = Destination(
        storage=storage, uri=config.output.uri, identity=Identity.of(config), overwrite=config.output.overwrite
    )
    existing = check_output(destination)
    claim = Claim(storage=storage, uri=config.checkpoints.uri, identity=destination.identity)
    if world.is_main and not isinstance(existing, SameJobComplete):
        claim_checkpoints(claim)
    world.barrier()
    if isinstance(existing, SameJobComplete):
        reporter.plan(skipped=STAGES)
        if world.is_main:
            delete_checkpoints(claim)
        _report_result(config, reporter, destination, existing.manifest, seconds=time.time() - started)
        return
    reporter.plan(skipped=() if config.prior.enabled else ("Prior",))
    setting = Setting(
        config=config,
        plan=make_plan(config, world),
        world=world,
        reporter=reporter,
        stop=stop,
        watchdog=watchdog,
        storage=storage,
    )
    _announce(setting)
    fetcher = Fetcher(storage=storage, world=world, on_progress=setting.transfer())
    acquired = acquire(config, fetcher, reporter)
    reporter.info("identifier", acquired.identifier)
    class_images = _prior(setting, acquired, fetcher) if config.prior.enabled else []
    instance_latents, class_latents, identity = _prepare(setting, acquired, class_images)
    checkpoints = Checkpoints(
        claim,
        config.checkpoints,
        identity=identity,
        scratch=setting.work / "checkpoints",
        world=world,
        moved=reporter.moved,
    )
    trained = _train(setting, acquired, instance_latents, class_latents, checkpoints)
    comparisons, quality = _evaluate(setting, acquired, trained)
    if world.is_main:
        finished = Finished(
            config=config,
            plan=setting.plan,
            acquired=acquired,
            comparisons=comparisons,
            quality=quality,
            class_images=class_images,
            reporter=reporter,
            world_size=world.size,
            seconds=time.time() - started,
        )
        _tell_quality(setting, finished, destination)
        manifest = _upload(setting, finished, destination)
        delete_checkpoints(claim)
        _report_result(config, reporter, destination, manifest, seconds=time.time() - started)
    world.barrier()


def _announce(setting: Setting) -> None:
    plan = setting.plan
    setting.reporter.info("precision", plan.precision)
    setting.reporter.info("ranks", str(setting.world.size))
    setting.reporter.info("zeroStage", str(plan.zero_stage))
    setting.reporter.info("microBatch", f"{plan.micro_batch} x {plan.accumulation}")


def _prior(setting: Setting, acquired: Acquired, fetcher: Fetcher) -> list[Path]:
    """Class images: the user's own, or sampled from the frozen model where they are not whole already."""
    config, world, reporter = setting.config, setting.world, setting.reporter
    if config.prior.uri is not None:
        return _own_class_images(setting, acquired, fetcher)
    decisive = describe_prior(
        config, model_digest=acquired.model_digest, resolution=acquired.resolution, precision=setting.plan.precision
    )
    key = prior_key(decisive)
    folder = setting.work / "prior" / key[:16]
    if world.leads_node:
        dropped = drop_damaged(folder, config.prior.images)
        if dropped:
            reporter.warn(f"{dropped} damaged class images were dropped and are made again")
    world.barrier()
    paths = class_image_paths(folder, config.prior.images)
    ready = sum(path.exists() for path in paths)
    reporter.begin("Prior", total=len(paths), unit="images", done=ready, note=f"{ready} were there" if ready else "")
    cache = _prior_cache(setting, key, acquired.resolution)
    maker = PriorMaker(
        config, folder, world=world, cache=cache, load=lambda: _prior_sampler(setting, acquired)
    )  # fmt: skip
    try:
        count = maker.run(PriorProgress(moved=setting.moved_alone, advance=setting.progress("Prior")))
    finally:
        if cache is not None:
            cache.close(about=decisive)
    reporter.end("Prior", note=prior_words(count, ready))
    source: Literal["Hit", "Partial", "Generated"] = "Generated"
    if count.made < len(paths):
        source = "Partial" if count.made else "Hit"
    saved = count.seconds_saved
    reporter.emit(PriorEvent(source=source, images=len(paths), cache_key=key, seconds_saved=saved))
    return paths


def _prior_cache(setting: Setting, key: str, resolution: int) -> PriorCache | None:
    """The cache that jobs share, on rank 0, where there is one."""
    config = setting.config
    if config.prior.cache is None or not setting.world.is_main:
        return None
    storage = open_storage(config.storage)
    return PriorCache(storage, config.prior.cache, key=key, resolution=resolution, warn=setting.reporter.warn)


def _prior_sampler(setting: Setting, acquired: Acquired) -> Sampler:
    prior = setting.config.prior
    parts = load_parts(acquired.family, acquired.model, setting.plan.dtype)
    for module in (parts.unet, parts.text, parts.vae):
        module.to(setting.world.device)
    return Sampler(
        acquired.family,
        acquired.model,
        parts,
        prior.sampler,
        resolution=acquired.resolution,
        negative_prompt=prior.negative_prompt,
    )


def _own_class_images(setting: Setting, acquired: Acquired, fetcher: Fetcher) -> list[Path]:
    config, reporter = setting.config, setting.reporter
    assert config.prior.uri is not None
    reporter.begin("Prior", total=config.prior.images, unit="images")
    source = fetcher.fetch(config.prior.uri, setting.work / "class-images")
    try:
        loaded = load_photos(source, resolution=acquired.resolution, captions=False)
    except BadSubjectError as error:
        raise BadSubjectError(f"prior.uri: {str(error).removeprefix('subject.images: ')}") from error
    photos = loaded.photos[: config.prior.images]
    if len(photos) < config.prior.images:
        reporter.warn(f"prior.uri holds {len(photos)} class images; prior.images asks for {config.prior.images}")
    folder = setting.work / "prior" / "own"
    paths = class_image_paths(folder, len(photos))
    if setting.world.leads_node:
        folder.mkdir(parents=True, exist_ok=True)
        for photo, path in zip(photos, paths, strict=True):
            (view,) = crops(photo, resolution=acquired.resolution, crop="Center", flip=False, seed=0)
            view.save(path)
    setting.world.barrier()
    reporter.end("Prior", note=f"{len(photos)} of your own")
    reporter.emit(PriorEvent(source="Provided", images=len(photos), cache_key=None))
    return paths


def _prepare(
    setting: Setting, acquired: Acquired, class_images: list[Path]
) -> tuple[latents.Latents, latents.Latents | None, str]:
    """Latents of all views, and the identity that checkpoints of exactly these inputs carry."""
    config, world, reporter = setting.config, setting.world, setting.reporter
    instance_views = [
        crops(
            photo,
            resolution=acquired.resolution,
            crop=config.subject.crop,
            flip=config.subject.flip,
            seed=config.training.seed,
        )
        for photo in acquired.subject.photos
    ]
    class_views = [[Image.open(path).convert("RGB")] for path in class_images]
    total = len(instance_views) + len(class_views)
    pixels = latents.images_digest([*instance_views, *class_views])
    decisive = f"{config.digest()} {acquired.model_digest} {acquired.identifier} {setting.plan.precision} {pixels}"
    identity = hashlib.sha256(decisive.encode()).hexdigest()
    path = setting.work / "latents" / f"{identity[:16]}.safetensors"
    reporter.begin("Prepare", total=total, unit="images", note="latents were there" if path.exists() else "")
    if world.leads_node and not path.exists():
        vae = acquired.family.load_vae(acquired.model, setting.plan.dtype).to(world.device).eval()
        made = {"instance": latents.encode(vae, instance_views, on_progress=setting.alone("Prepare"))}
        if class_views:
            offset = len(instance_views)
            made["class"] = latents.encode(vae, class_views, on_progress=setting.alone("Prepare", offset))
        latents.save(made, path)
    world.barrier()
    kept = latents.load(path)
    reporter.end("Prepare")
    return kept["instance"], kept.get("class"), identity


def _train(
    setting: Setting,
    acquired: Acquired,
    instance_latents: latents.Latents,
    class_latents: latents.Latents | None,
    checkpoints: Checkpoints,
) -> Checkpoint:
    """Trains to the end and returns the last checkpoint."""
    family = acquired.family
    distinct = sorted({*acquired.instance_prompts, prior_prompt(setting.config)})
    inputs = TrainInputs(
        family=family,
        model_folder=acquired.model,
        instance_latents=instance_latents,
        class_latents=class_latents,
        token_ids=family.tokenize(family.load_tokenizers(acquired.model), distinct),
        instance_prompts=[distinct.index(prompt) for prompt in acquired.instance_prompts],
        class_prompt=distinct.index(prior_prompt(setting.config)),
    )
    surroundings = Surroundings(
        world=setting.world,
        checkpoints=checkpoints,
        reporter=setting.reporter,
        stop=setting.stop,
        watchdog=setting.watchdog,
    )
    try:
        train(setting.config, setting.plan, inputs, surroundings)
    finally:
        checkpoints.end_writing()
    setting.reporter.end("Train")
    last = checkpoints.newest(setting.reporter.warn)
    assert last is not None and last.step == setting.config.training.steps
    return last


def _evaluate(setting: Setting, acquired: Acquired, trained: Checkpoint) -> tuple[list[Comparison], Quality]:
    """Writes the model folder, samples the base and the personalized model with equal seeds, and measures both."""
    config, world, reporter = setting.config, setting.world, setting.reporter
    model = setting.work / "output"
    if world.leads_node:
        options = ExportOptions(dtype=setting.plan.dtype, zero_terminal_snr=config.training.zero_terminal_snr)
        export_model(acquired.family, acquired.model, trained, model, options)
        reporter.moved()
    world.barrier()
    settings = config.evaluation.model_dump_json()
    key = hashlib.sha256(f"{settings} {_weights_digest(model)}".encode()).hexdigest()
    comparisons = plan_comparisons(config, acquired.identifier, setting.work / "evaluation" / key[:16])
    total = 2 * sum(len(comparison.before) for comparison in comparisons)
    reporter.begin("Evaluate", total=total, unit="images")
    sample_comparisons(
        config,
        setting.plan,
        Subjects(family=acquired.family, base=acquired.model, trained=model, resolution=acquired.resolution),
        comparisons,
        world=world,
        on_progress=setting.progress("Evaluate"),
    )
    quality = appraise(config, acquired, comparisons, world=world, moved=reporter.moved)
    reporter.end("Evaluate")
    return comparisons, quality


def _tell_quality(setting: Setting, finished: Finished, destination: Destination) -> None:
    """Says what was measured. Raises QualityRejectedError where the gate lets nothing be published. Rank 0 alone.

    The report of a rejected result goes beside what is reserved for work in progress; checkpoints stay, so that the
    same job with another gate is only evaluated again.
    """
    config, storage, quality = setting.config, setting.storage, finished.quality
    gate, judgement = config.evaluation.gate, quality.judgement
    if gate is None or judgement is None or judgement.verdict == "Accepted" or gate.action == "Warn":
        if judgement is not None and judgement.verdict == "Rejected":
            setting.reporter.warn(f"evaluation.gate: {judgement.message}")
        setting.reporter.emit(quality_event(quality))
        return
    folder = setting.work / "rejected"
    folder.mkdir(parents=True, exist_ok=True)
    write_pages(finished, folder)
    report = storage.join(destination.uri, f"{REJECTED}/report.html")
    storage.write_bytes(report, (folder / "report.html").read_bytes())
    setting.reporter.emit(quality_event(quality, report=report))
    raise QualityRejectedError(f"evaluation.gate: {judgement.message}; the report is at {report}")


def _weights_digest(model: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(model.rglob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _upload(setting: Setting, finished: Finished, destination: Destination) -> Manifest:
    """Report, model card and model to the output; the manifest last. Rank 0 alone."""
    reporter = setting.reporter
    folder = setting.work / "output"
    if setting.config.output.format == "SingleFile":
        write_single_file(folder, setting.work / "single-file")
        reporter.moved()
        folder = setting.work / "single-file"
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    reporter.begin("Upload", total=total, unit="bytes")
    write_pages(finished, folder)
    manifest = publish(
        destination,
        folder,
        manifest_fields=manifest_fields(finished),
        on_progress=lambda done, _: reporter.advance("Upload", done),
    )
    reporter.end("Upload")
    return manifest


def _report_result(
    config: TrainConfig, reporter: Reporter, destination: Destination, manifest: Manifest, *, seconds: float
) -> None:
    join = destination.storage.join
    single = config.output.format == "SingleFile"
    reporter.emit(
        ResultEvent(
            model=join(destination.uri, SINGLE_FILE) if single else destination.uri,
            report=join(destination.uri, "report.html"),
            manifest=join(destination.uri, "manifest.json"),
            identifier=manifest.identifier,
            seconds=seconds,
            bytes=manifest.total_bytes,
            output=destination.uri,
            manifest_digest=manifest.sha256,
        )
    )
