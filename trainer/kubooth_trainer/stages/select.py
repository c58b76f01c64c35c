"""Part of the stage Train: measures states on the way, of which the best becomes the result."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from kubooth_trainer.acquire import Acquired
from kubooth_trainer.checkpoint import Checkpoint
from kubooth_trainer.checkpoint_claim import require_claim
from kubooth_trainer.claim import Claim
from kubooth_trainer.config import BestCheckpointConfig, Metric, TrainConfig
from kubooth_trainer.encoders import load_encoders
from kubooth_trainer.evaluate import Subjects, plan_comparisons, sample_comparisons
from kubooth_trainer.export import ExportOptions, export_model
from kubooth_trainer.measure import Subject, measure
from kubooth_trainer.selection import Probe, probe_of, probes_from_json, probes_to_json
from kubooth_trainer.stages.setting import Setting

FOLDER = "selection"  # beside the checkpoints, and in the work folder
METRICS: tuple[Metric, ...] = ("Dino", "Pres", "ClipT")


class Prober:
    """Samples and measures checkpoints of one job; keeps the figures beside the checkpoints, for a restart."""

    def __init__(self, setting: Setting, acquired: Acquired, claim: Claim, *, identity: str) -> None:
        """`identity` is that of the checkpoints."""
        wanted = setting.config.evaluation.best_checkpoint
        assert wanted is not None
        self._setting = setting
        self._acquired = acquired
        self._claim = claim
        self._config = _config_of_probes(setting.config, wanted)
        decisive = f"{identity} {self._config.evaluation.model_dump_json(exclude_defaults=True)}"
        self._key = hashlib.sha256(decisive.encode()).hexdigest()
        self._folder = setting.work / FOLDER / self._key[:16]
        self._location = setting.storage.join(claim.uri, f"{FOLDER}/probes.json")

    def kept(self) -> list[Probe]:
        """What an earlier start of this job has measured."""
        storage = self._setting.storage
        if not storage.exists(self._location):
            return []
        return probes_from_json(storage.read_bytes(self._location), self._key)

    def keep(self, probes: Sequence[Probe]) -> None:
        """Raises StoppedError where another attempt has taken over."""
        if self._setting.world.is_main:
            require_claim(self._claim)
            self._setting.storage.write_bytes(self._location, probes_to_json(probes, self._key))

    def probe(self, checkpoint: Checkpoint) -> Probe | None:
        """Pictures of one state, measured; None where the encoders cannot. Collective."""
        config, world, acquired = self._config, self._setting.world, self._acquired
        model = self._folder / "model"
        if world.leads_node:
            options = ExportOptions(dtype=self._setting.plan.dtype, zero_terminal_snr=config.training.zero_terminal_snr)
            export_model(acquired.family, acquired.model, checkpoint, model, options)
            self._setting.reporter.moved()
        world.barrier()
        of_step = plan_comparisons(config, acquired.identifier, self._folder / f"step-{checkpoint.step:06d}")
        of_base = plan_comparisons(config, acquired.identifier, self._folder)  # the same for all states
        comparisons = [replace(own, before=base.before) for own, base in zip(of_step, of_base, strict=True)]
        subjects = Subjects(family=acquired.family, base=acquired.model, trained=model, resolution=acquired.resolution)
        sample_comparisons(
            config, self._setting.plan, subjects, comparisons, world=world, on_progress=self._moved_together
        )
        photos = acquired.subject.photos
        subject = Subject(names=[photo.name for photo in photos], images=[photo.image for photo in photos])
        encoders = load_encoders(acquired.encoders, config.evaluation.encoders, world.device)
        moved = self._setting.reporter.moved
        quality = measure(config.evaluation, encoders, subject, comparisons, world=world, moved=moved)
        return probe_of(checkpoint.step, quality)

    def _moved_together(self, _: int) -> None:
        self._setting.reporter.moved()
        self._setting.watchdog.beat()
        self._setting.stop.raise_if_requested(self._setting.world)


def make_prober(setting: Setting, acquired: Acquired, claim: Claim, *, identity: str) -> Prober | None:
    """None where the job does not ask for it, or its photos cannot be measured, which is said."""
    if setting.config.evaluation.best_checkpoint is None:
        return None
    if acquired.unmeasurable is not None:
        setting.reporter.warn(
            f"evaluation.bestCheckpoint: the last state is the result, since none can be measured: "
            f"{acquired.unmeasurable}"
        )
        return None
    return Prober(setting, acquired, claim, identity=identity)


def _config_of_probes(config: TrainConfig, wanted: BestCheckpointConfig) -> TrainConfig:
    """The same job, asking for the pictures and figures of a probe."""
    asked = {"prompts": wanted.prompts, "images_per_prompt": wanted.images_per_prompt, "metrics": METRICS, "gate": None}
    return config.model_copy(update={"evaluation": config.evaluation.model_copy(update=asked)})
