"""The training loop: read `train` from top to bottom.

One code path for one rank or many, always through DeepSpeed. Nothing in a step waits for the device: losses are
gathered and read every few steps, where the ranks also agree on stopping.
"""

from __future__ import annotations

import gc
import resource
import shutil
from dataclasses import asdict, dataclass
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor

from kubooth_trainer import fit
from kubooth_trainer.batches import Batches, TrainInputs
from kubooth_trainer.checkpoint import Checkpoint, Checkpoints
from kubooth_trainer.config import TrainConfig, TrainingConfig
from kubooth_trainer.distributed import World
from kubooth_trainer.draws import seed_for
from kubooth_trainer.ema import Ema
from kubooth_trainer.engine import EngineOptions, build_engine, engine_state
from kubooth_trainer.errors import StoppedError
from kubooth_trainer.families import Conditioning
from kubooth_trainer.loss import dreambooth_loss
from kubooth_trainer.meter import Meter
from kubooth_trainer.methods.dreambooth import Trainee, parameter_groups
from kubooth_trainer.plan import Choice, Plan, going_on
from kubooth_trainer.progress import CheckpointEvent, Reporter, ResumedEvent
from kubooth_trainer.step_times import StepTimes
from kubooth_trainer.stopping import StopFlag, Watchdog
from kubooth_trainer.training_facts import TrainingFacts

SYNC_STEPS = 5
SYNC_SECONDS = 30.0  # slow steps are fewer between: on a stop there has to be time to save
LESS_OFTEN = (
    "the checkpoint before is still being written, so none is kept of this step: checkpoints.everySteps is shorter "
    "than it takes to write one, and training does not wait"
)


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """The world around the loop: ranks, state keeping, reporting, stopping."""

    world: World
    checkpoints: Checkpoints
    note: fit.MemoryNote
    reporter: Reporter
    stop: StopFlag
    watchdog: Watchdog


def train(
    config: TrainConfig,
    plan: Plan,
    inputs: TrainInputs,
    around: Surroundings,
    *,
    until: int | None = None,
    goes_on: bool = False,
    has_told: bool = False,
) -> TrainingFacts | None:
    """Trains to step `until` (None: to the last) and leaves a checkpoint of it. Collective.

    Goes on from the newest whole checkpoint; None where that is there already. `goes_on`: this start has told of it;
    `has_told`: and of what it trains by. `plan` is settled by the memory there is. Raises StoppedError after saving
    when asked to stop, NumericalError (with the step) when a loss is not finite, SmallerBatchError where memory did not
    suffice and the next start takes less.
    """
    reporter, total = around.reporter, config.training.steps
    until = until or total
    found = around.checkpoints.newest(reporter.warn)
    first = found.step if found else 0
    if found:
        reporter.history[:] = found.progress
    if found and found.sharding and first < until:
        config = going_on(config, plan, around.world, found.sharding)
    if not goes_on:
        if found:
            reporter.emit(ResumedEvent(uri=found.uri, step=found.step, time=found.time))
        note = f"resumed at step {first}" if first else ""
        reporter.begin("Train", total=total, unit="steps", done=first, note=note)
    if first >= until:
        return None
    trainee, frozen = _load(config, plan, inputs, around.world)
    prompts = frozen or inputs.token_ids
    limit = around.note.read(around.world)
    choice = fit.fit(config, plan, around.world, trainee=trainee, inputs=inputs, prompts=prompts, limit=limit)
    if not has_told:
        fit.tell(choice, around.world, limit, reporter)
    around.watchdog.beat()
    try:
        times = _train(config, choice.plan, _Loaded(trainee, prompts, found), inputs, around, until=until)
    except (RuntimeError, MemoryError) as error:  # torch's and the host's
        ending = fit.after(error, config, choice.plan, around.world, around.note)
        if ending is None:
            raise
        raise ending from error
    facts = _facts(choice, times, around.world)
    del trainee, frozen, prompts
    _free_memory()
    return facts


@dataclass(frozen=True)
class _Loaded:
    """What is trained, on the CPU still; all its prompts; where it goes on from."""

    trainee: Trainee
    prompts: torch.Tensor | Conditioning
    found: Checkpoint | None


def _train(
    config: TrainConfig, plan: Plan, loaded: _Loaded, inputs: TrainInputs, around: Surroundings, *, until: int
) -> dict[str, float]:
    """The loop itself, to step `until`. Returns the mean seconds of a step's parts."""
    training, world, reporter = config.training, around.world, around.reporter
    if world.device.type == "cuda":  # what came before, as class images, is no part of training's peak
        _free_memory()
        torch.cuda.reset_peak_memory_stats(world.device)
    exact = _exact_weights(loaded) if plan.bf16 and not loaded.found else {}
    trainee, prompts = _place(loaded, config, plan, around)
    options = _options(config, plan, world)
    engine = build_engine(trainee, parameter_groups(trainee, training), options)
    state = engine_state(engine, options)
    while exact:  # DeepSpeed made its master weights of the module's, which it had rounded to bf16 before
        state.set_weight(*exact.popitem())
    ema = Ema(state, training.ema.decay) if training.ema else None
    first = 0
    if loaded.found:
        first = loaded.found.step
        loaded.found.restore(state, ema)
    batches = Batches(config, plan, inputs, world)
    meter = Meter(config, world, reporter, done=first)
    engine.train()
    around.watchdog.beat()
    times = StepTimes(world.device)
    told_of_haste = False
    between = SYNC_STEPS
    for step in range(first, until):
        rate = learning_rate_factor(training, step)
        for group in engine.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * rate
        torch.manual_seed(seed_for(training.seed, "dropout", step, world.rank))
        for micro in range(plan.accumulation):
            batch = batches.make(step, micro)
            times.mark("data")
            prediction = engine(batch.noisy, batch.timesteps, *batches.select(prompts, batch.prompts))
            terms = dreambooth_loss(
                prediction, batch.target, batch.weights, instances=plan.micro_batch, prior_weight=config.prior.weight
            )
            times.mark("forward")
            engine.backward(terms.total)
            times.mark("backward")
            engine.step()
            times.mark("optimizer")
            meter.record(torch.stack([terms.total, terms.instance, terms.prior]).detach(), micro)
        if ema:
            ema.update(step + 1)
        around.watchdog.beat()
        last = step + 1 == until
        due = last or (step + 1) % config.checkpoints.every_steps == 0
        if due or (step + 1) % between == 0:
            seconds = meter.report(step + 1, engine, learning_rate=training.learning_rate * rate)
            times.read()
            (between,) = world.as_main([steps_between_syncs(seconds)])
            stopping = not last and around.stop.requested(world)
            if due or stopping:
                history = [asdict(event) for event in reporter.history]
                is_kept = around.checkpoints.save(step + 1, state, ema, history=history, must=last or stopping)
                around.watchdog.beat()
                if not is_kept and not told_of_haste:
                    told_of_haste = True
                    reporter.warn(f"step {step + 1}: {LESS_OFTEN}")
            if last or stopping:
                around.checkpoints.wait(hurry=stopping)
            for saved in around.checkpoints.take_saved():
                reporter.emit(CheckpointEvent(uri=saved.uri, step=saved.step, time=saved.time))
                if saved.trouble:
                    reporter.warn(f"the checkpoint of step {saved.step} had to be sent again: {saved.trouble}")
            if stopping:
                raise StoppedError(f"stopped on request at step {step + 1}; the next start goes on from there")
        times.mark("other")
        if step == first:
            times.begin()
    engine.destroy()
    return times.means()


def steps_between_syncs(seconds: float) -> int:
    """How many steps of so many seconds go by before the ranks agree again."""
    return max(1, min(SYNC_STEPS, int(SYNC_SECONDS / seconds)))


def _exact_weights(loaded: _Loaded) -> dict[str, torch.Tensor]:
    """The weights as they were read, in fp32 on the CPU, wherever the module's own go from here."""
    return {name: weight.detach() for name, weight in loaded.trainee.named_parameters() if weight.requires_grad}


def _free_memory() -> None:
    """After a training: an engine is held by cycles of references, and with it the memory of the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _facts(choice: Choice, step_seconds: dict[str, float], world: World) -> TrainingFacts:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if world.device.type == "cuda":
        peak = torch.cuda.max_memory_reserved(world.device)
    return TrainingFacts(
        zero_stage=choice.plan.zero_stage,
        plan=str(choice.plan),
        reasoning=choice.reasoning,
        estimate=choice.need.device,
        budget=choice.budget,
        peak=peak,
        step_seconds=step_seconds,
    )


def learning_rate_factor(training: TrainingConfig, step: int) -> float:
    """The factor on the peak learning rate for step `step` (from 0): linear warm-up, then the schedule."""
    if step < training.warmup_steps:
        return (step + 1) / training.warmup_steps
    progress = (step - training.warmup_steps) / max(1, training.steps - training.warmup_steps)
    match training.lr_schedule:
        case "Constant":
            return 1.0
        case "Linear":
            return 1.0 - progress
        case "Cosine":
            return float(0.5 * (1.0 + torch.cos(torch.tensor(progress * torch.pi, dtype=torch.float64))))


def _options(config: TrainConfig, plan: Plan, world: World) -> EngineOptions:
    training = config.training
    return EngineOptions(
        zero_stage=plan.zero_stage,
        bf16=plan.bf16,
        micro_batch=plan.micro_batch,
        accumulation=plan.accumulation,
        world_size=world.size,
        max_grad_norm=training.max_grad_norm,
        optimizer=training.optimizer,
        betas=(training.adam_beta1, training.adam_beta2),
        epsilon=training.adam_epsilon,
        weight_decay=training.weight_decay,
        offload=config.parallelism.offload == "Optimizer",
    )


def _load(config: TrainConfig, plan: Plan, inputs: TrainInputs, world: World) -> tuple[Trainee, Conditioning | None]:
    """The module to train, on the CPU, and the prompts' conditioning where the text encoder is frozen."""
    family, training = inputs.family, config.training
    unet: Any = family.load_denoiser(inputs.model_folder, torch.float32)
    text: Any = family.load_text(inputs.model_folder, torch.float32)
    if world.device.type != "cuda":
        # Measured on CPUs: batched matrix products are a tenth faster than fused attention at these sizes.
        unet.set_attn_processor(AttnProcessor())
    if training.train_text_encoder:
        return Trainee(family, unet, text), None
    with torch.no_grad():
        frozen = {key: value.to(plan.dtype) for key, value in text.to(plan.dtype)(inputs.token_ids).items()}
    return Trainee(family, unet, None), frozen


def _place(
    loaded: _Loaded, config: TrainConfig, plan: Plan, around: Surroundings
) -> tuple[Trainee, torch.Tensor | Conditioning]:
    """What is trained and the prompts, on this rank's device and as the plan wants them."""
    device, unet = around.world.device, loaded.trainee.unet
    if plan.gradient_checkpointing:
        typed: Any = unet
        typed.enable_gradient_checkpointing()
        for encoder in loaded.trainee.encoders():
            encoder.gradient_checkpointing_enable()
    # Not channels_last: DeepSpeed sends weights as bytes, which takes a last stride of 1, and makes them flat itself.
    if config.training.compile:
        if shutil.which("cc"):
            unet.compile()
        else:
            around.reporter.warn("training.compile: there is no C compiler here, so the UNet is trained uncompiled")
    if isinstance(loaded.prompts, torch.Tensor):
        return loaded.trainee.to(device, plan.dtype), loaded.prompts.to(device)
    return loaded.trainee.to(device, plan.dtype), {key: value.to(device) for key, value in loaded.prompts.items()}
