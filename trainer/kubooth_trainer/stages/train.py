"""Stage Train: the personalized weights, as a checkpoint: the last, or the best of those measured on the way."""

from __future__ import annotations

from dataclasses import dataclass

from kubooth_trainer.acquire import Acquired
from kubooth_trainer.batches import TrainInputs
from kubooth_trainer.checkpoint import Checkpoint, Checkpoints
from kubooth_trainer.fit import MemoryNote
from kubooth_trainer.loop import Surroundings, train
from kubooth_trainer.prior import prior_prompt
from kubooth_trainer.selection import Probe, Selection, ranked, should_stop
from kubooth_trainer.stages.prepare import Prepared
from kubooth_trainer.stages.select import Prober
from kubooth_trainer.stages.setting import Setting
from kubooth_trainer.training_facts import TrainingFacts


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The state that becomes the result. `facts`: how training went, where this start had a part in it; `selection`:
    what it was chosen from, where it was."""

    checkpoint: Checkpoint
    facts: TrainingFacts | None
    selection: Selection | None = None


def train_model(
    setting: Setting, acquired: Acquired, prepared: Prepared, checkpoints: Checkpoints, note: MemoryNote,
    prober: Prober | None,
) -> Trained:  # fmt: skip
    """Trains to the end, or as far as it pays. Collective. `prober`: None where the last state is the result."""
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
        note=note,
        reporter=setting.reporter,
        stop=setting.stop,
        watchdog=setting.watchdog,
    )
    try:
        if prober is not None:
            return _train_and_select(setting, inputs, surroundings, prober)
        facts = train(setting.config, setting.plan, inputs, surroundings)
    finally:
        checkpoints.end_writing()
    setting.reporter.end("Train")
    last = checkpoints.newest(setting.reporter.warn)
    assert last is not None and last.step == setting.config.training.steps
    return Trained(checkpoint=last, facts=facts)


def _train_and_select(setting: Setting, inputs: TrainInputs, around: Surroundings, prober: Prober) -> Trained:
    """In stretches, from one measured state to the next; the steps are those of a training in one go."""
    config, reporter, checkpoints = setting.config, setting.reporter, around.checkpoints
    wanted = config.evaluation.best_checkpoint
    assert wanted is not None
    probes = prober.kept()
    if probes:
        checkpoints.keep_step(ranked(probes)[0].step)
    facts: TrainingFacts | None = None
    goes_on = stopped = False
    for step in wanted.steps_of(config.training.steps):
        stopped = wanted.early_stop and should_stop(probes)
        if stopped:
            break
        if any(probe.step == step for probe in probes):
            continue
        told = facts is not None
        facts = train(config, setting.plan, inputs, around, until=step, goes_on=goes_on, has_told=told) or facts
        goes_on = True
        state = checkpoints.at(step, reporter.warn)
        probe = prober.probe(state) if state else None
        if probe is not None:
            probes = sorted([*probes, probe], key=lambda each: each.step)
            prober.keep(probes)
            checkpoints.keep_step(ranked(probes)[0].step)
            reporter.info(f"state at step {step}", _figures(probe))
    if not goes_on:
        last = checkpoints.newest(reporter.warn)
        reporter.history[:] = last.progress if last else []
        note = "trained and measured by an earlier start"
        reporter.begin("Train", total=config.training.steps, unit="steps", done=probes[-1].step, note=note)
    return _chosen(setting, checkpoints, probes, facts, stopped=stopped)


def _chosen(
    setting: Setting, checkpoints: Checkpoints, probes: list[Probe], facts: TrainingFacts | None, *, stopped: bool
) -> Trained:
    reporter = setting.reporter
    end = probes[-1].step if stopped else setting.config.training.steps
    for probe in ranked(probes):
        state = checkpoints.at(probe.step, reporter.warn)
        if state is not None:
            words = f"stopped at step {end}, " if stopped else ""
            reporter.end("Train", done=end, note=f"{words}the state at step {probe.step} is the best")
            selection = Selection(probes=tuple(probes), step=probe.step, stopped_early=stopped)
            return Trained(checkpoint=state, facts=facts, selection=selection)
    last = checkpoints.newest(reporter.warn)
    assert last is not None
    reporter.warn("evaluation.bestCheckpoint: no state could be measured, so the last one is the result")
    reporter.end("Train", done=end)
    return Trained(checkpoint=last, facts=facts)


def _figures(probe: Probe) -> str:
    figures = {"Dino": probe.dino, "Pres": probe.pres, "ClipT": probe.clip_t, "score": probe.score}
    return ", ".join(f"{name} {value:.3f}" for name, value in figures.items() if value is not None)
