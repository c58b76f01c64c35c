"""Stage Train: the personalized weights, as the last checkpoint."""

from __future__ import annotations

from kubooth_trainer.acquire import Acquired
from kubooth_trainer.batches import TrainInputs
from kubooth_trainer.checkpoint import Checkpoint, Checkpoints
from kubooth_trainer.fit import MemoryNote
from kubooth_trainer.loop import Surroundings, train
from kubooth_trainer.prior import prior_prompt
from kubooth_trainer.stages.prepare import Prepared
from kubooth_trainer.stages.setting import Setting
from kubooth_trainer.training_facts import TrainingFacts


def train_model(
    setting: Setting, acquired: Acquired, prepared: Prepared, checkpoints: Checkpoints
) -> tuple[Checkpoint, TrainingFacts | None]:
    """Trains to the end. Returns the last checkpoint, and how training went, where this start had a part in it."""
    family = acquired.family
    distinct = sorted({*acquired.instance_prompts, prior_prompt(setting.config)})
    inputs = TrainInputs(
        family=family,
        model_folder=acquired.model,
        instance_latents=prepared.instance,
        class_latents=prepared.class_,
        token_ids=family.tokenize(family.load_tokenizers(acquired.model), distinct),
        instance_prompts=[distinct.index(prompt) for prompt in acquired.instance_prompts],
        class_prompt=distinct.index(prior_prompt(setting.config)),
    )
    surroundings = Surroundings(
        world=setting.world,
        checkpoints=checkpoints,
        note=MemoryNote(storage=setting.storage, uri=setting.config.checkpoints.uri, identity=prepared.identity),
        reporter=setting.reporter,
        stop=setting.stop,
        watchdog=setting.watchdog,
    )
    try:
        facts = train(setting.config, setting.plan, inputs, surroundings)
    finally:
        checkpoints.end_writing()
    setting.reporter.end("Train")
    last = checkpoints.newest(setting.reporter.warn)
    assert last is not None and last.step == setting.config.training.steps
    return last, facts
