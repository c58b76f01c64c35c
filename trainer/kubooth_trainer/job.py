"""One job from photos to a published model: read `run_job` from top to bottom; each stage is one file of `stages`.

Every stage leaves its work in the work folder under a key of what decided it, so that a restart skips what is whole.
Files shared by the ranks of a node are written by the node's first rank; collectives are entered by all.
"""

from __future__ import annotations

import time
from dataclasses import replace

from kubooth_trainer.acquire import Fetcher, acquire
from kubooth_trainer.adamw8bit import require_adamw8bit
from kubooth_trainer.checkpoint import Checkpoints, precision_before
from kubooth_trainer.checkpoint_claim import claim_checkpoints, delete_checkpoints
from kubooth_trainer.claim import Claim, Identity
from kubooth_trainer.config import STAGES, TrainConfig
from kubooth_trainer.distributed import World
from kubooth_trainer.errors import StorageDeniedError, StorageUnavailableError
from kubooth_trainer.fit import MemoryNote
from kubooth_trainer.model_cache import ModelCache
from kubooth_trainer.plan import auto_precision, make_plan
from kubooth_trainer.progress import Reporter, ResultEvent
from kubooth_trainer.publish import Destination, Manifest, SameJobComplete, check_output
from kubooth_trainer.recognition import with_class
from kubooth_trainer.result import Finished
from kubooth_trainer.single_file import SINGLE_FILE
from kubooth_trainer.stages.evaluate import evaluate
from kubooth_trainer.stages.prepare import prepare
from kubooth_trainer.stages.prior import make_class_images
from kubooth_trainer.stages.select import make_prober
from kubooth_trainer.stages.setting import Setting
from kubooth_trainer.stages.train import train_model
from kubooth_trainer.stages.upload import tell_quality, upload
from kubooth_trainer.stopping import StopFlag, Watchdog
from kubooth_trainer.storage import Storage


def run_job(config: TrainConfig, world: World, reporter: Reporter, stop: StopFlag, watchdog: Watchdog) -> None:
    """Does what is not done yet, and reports the result. Collective."""
    started = time.monotonic()
    storage = Storage(config.storage)
    destination = Destination(
        storage=storage, uri=config.output.uri, identity=Identity.of(config), overwrite=config.output.overwrite
    )
    existing = check_output(destination)
    if world.any(isinstance(existing, SameJobComplete)):  # an attempt that was cut off may end it between two looks
        existing = check_output(destination)
    claim = Claim(storage=storage, uri=config.checkpoints.uri, identity=destination.identity)
    if world.is_main and not isinstance(existing, SameJobComplete):
        claim_checkpoints(claim)
    world.barrier()
    if isinstance(existing, SameJobComplete):
        reporter.plan(skipped=STAGES)
        if world.is_main:
            _clear_up(claim, reporter)
        if remark := existing.remark(config.model_dump(mode="json"), config.output.uri):
            reporter.warn(remark)
        _report_result(config, reporter, destination, existing.manifest, seconds=time.monotonic() - started)
        return
    if config.training.optimizer == "AdamW8bit":
        require_adamw8bit(world.device)
    reporter.plan(skipped=() if config.prior.enabled else ("Prior",))
    before = precision_before(claim, world) if config.training.precision == "Auto" else None
    setting = Setting(
        config=config,
        plan=make_plan(config, world, precision_before=before),
        world=world,
        reporter=reporter,
        stop=stop,
        watchdog=watchdog,
        storage=storage,
    )
    _announce(setting)
    if before and before != (here := auto_precision(world)):
        reporter.warn(f"training.precision: Auto is {here} on this device; training goes on in {before}, as it began")
    fetcher = Fetcher(storage=storage, world=world, on_progress=setting.transfer(), cache=_model_cache(setting))
    acquired = acquire(config, fetcher, reporter)
    config = with_class(config, acquired.class_name)
    setting = replace(setting, config=config)
    reporter.info("className", acquired.class_name)
    reporter.info("identifier", acquired.identifier)
    class_images = make_class_images(setting, acquired, fetcher) if config.prior.enabled else None
    prepared = prepare(setting, acquired, class_images)
    checkpoints = Checkpoints(
        claim,
        config.checkpoints,
        identity=prepared.identity,
        precision=setting.plan.precision,
        scratch=setting.work / "checkpoints",
        world=world,
        moved=reporter.moved,
    )
    prober = make_prober(setting, acquired, claim, identity=prepared.identity)
    note = MemoryNote(claim=claim, identity=prepared.identity)
    trained = train_model(setting, acquired, prepared, checkpoints, note, prober)
    comparisons, quality = evaluate(setting, acquired, trained.checkpoint)
    if world.is_main:
        finished = Finished(
            config=config,
            plan=setting.plan,
            acquired=acquired,
            comparisons=comparisons,
            quality=quality,
            training=trained.facts,
            selection=trained.selection,
            class_images=class_images.paths if class_images else [],
            reporter=reporter,
            world_size=world.size,
            seconds=time.monotonic() - started,
        )
        tell_quality(setting, finished, destination, claim)
        manifest = upload(setting, finished, destination)
        _clear_up(claim, reporter)
        _report_result(config, reporter, destination, manifest, seconds=time.monotonic() - started)
    world.barrier()


def _clear_up(claim: Claim, reporter: Reporter) -> None:
    """Removes the checkpoints. The result stands: whatever storage says to that is no failure of the job."""
    try:
        delete_checkpoints(claim)
    except (StorageUnavailableError, StorageDeniedError) as error:
        reporter.warn(f"the result stands, but its checkpoints are still there: {error}")


def _model_cache(setting: Setting) -> ModelCache | None:
    cache = setting.config.model_cache
    if cache is None:
        return None
    return ModelCache(cache, setting.storage, warn=setting.reporter.warn, moved=setting.moved_alone)


def _announce(setting: Setting) -> None:
    setting.reporter.info("precision", setting.plan.precision)
    setting.reporter.info("ranks", str(setting.world.size))


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
            class_name=str(manifest.config["subject"]["class_name"]),
            seconds=seconds,
            bytes=manifest.total_bytes,
            output=destination.uri,
            manifest_digest=manifest.sha256,
        )
    )
