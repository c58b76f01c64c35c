"""The training loop: read `train` from top to bottom.

One code path for one rank or many, always through DeepSpeed. Nothing in a step waits for the device: losses are
gathered and read every `SYNC_STEPS` steps, where the ranks also agree on stopping.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor

from kubooth_trainer.checkpoint import Checkpoints
from kubooth_trainer.config import TrainConfig, TrainingConfig
from kubooth_trainer.distributed import World
from kubooth_trainer.draws import HalfBatch, draw_half, seed_for
from kubooth_trainer.engine import Ema, EngineOptions, EngineState, build_engine
from kubooth_trainer.errors import NumericalError, StoppedError
from kubooth_trainer.families import Conditioning, Family
from kubooth_trainer.latents import Latents
from kubooth_trainer.loss import NoiseSchedule, add_noise, dreambooth_loss, min_snr_weights
from kubooth_trainer.methods.dreambooth import Trainee, base_rates, parameter_groups
from kubooth_trainer.plan import Plan
from kubooth_trainer.progress import CheckpointEvent, ProgressEvent, Reporter, ResumedEvent
from kubooth_trainer.stopping import StopFlag, Watchdog

SYNC_STEPS = 5


@dataclass(frozen=True, kw_only=True)
class TrainInputs:
    """What the stages before training have prepared.

    `token_ids` [prompts, encoders, tokens] of the distinct prompts; `instance_prompts` says which one each photo has,
    `class_prompt` which one the class images have. `class_latents` is None without prior preservation.
    """

    family: Family
    model_folder: Path
    instance_latents: Latents
    class_latents: Latents | None
    token_ids: torch.Tensor
    instance_prompts: list[int]
    class_prompt: int


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """The world around the loop: ranks, state keeping, reporting, stopping."""

    world: World
    checkpoints: Checkpoints
    reporter: Reporter
    stop: StopFlag
    watchdog: Watchdog


def train(config: TrainConfig, plan: Plan, inputs: TrainInputs, around: Surroundings) -> None:
    """Trains to `config.training.steps` and leaves a checkpoint of the last step. Collective.

    Goes on from the newest whole checkpoint. Raises StoppedError after saving when asked to stop, NumericalError
    (with the step) when a loss is not finite.
    """
    training, world, reporter = config.training, around.world, around.reporter
    found = around.checkpoints.newest(reporter.warn)
    first = found.step if found else 0
    note = f"resumed at step {first}" if first else ""
    if found:
        reporter.emit(ResumedEvent(uri=found.uri, step=found.step, time=found.time))
    reporter.begin("Train", total=training.steps, unit="steps", done=first, note=note)
    if first >= training.steps:
        return
    if training.compile and not shutil.which("cc"):
        reporter.warn("training.compile: there is no C compiler here, so the UNet is trained uncompiled")
    trainee, frozen = _trainee(config, plan, inputs, world)
    around.watchdog.beat()
    engine = build_engine(trainee, parameter_groups(trainee, training), _options(training, plan, world))
    state = EngineState(engine, zero_stage=plan.zero_stage)
    ema = Ema(state, training.ema.decay) if training.ema else None
    if found:
        found.restore(state, ema)
        reporter.history[:] = [ProgressEvent(**row) for row in found.history]
    batches = _Batches(config, plan, inputs, world)
    prompts: torch.Tensor | Conditioning = frozen or inputs.token_ids.to(world.device)
    meter = _Meter(config, world, reporter, done=first)
    engine.train()
    around.watchdog.beat()
    for step in range(first, training.steps):
        rate = learning_rate_factor(training, step)
        for group, base in zip(engine.optimizer.param_groups, base_rates(training), strict=True):
            group["lr"] = base * rate
        torch.manual_seed(seed_for(training.seed, "dropout", step, world.rank))
        for micro in range(plan.accumulation):
            batch = batches.make(step, micro)
            prediction = engine(batch.noisy, batch.timesteps, *batches.select(prompts, batch.prompts))
            terms = dreambooth_loss(
                prediction, batch.target, batch.weights, instances=plan.micro_batch, prior_weight=config.prior.weight
            )
            engine.backward(terms.total)
            engine.step()
            meter.record(torch.stack([terms.total, terms.instance, terms.prior]).detach(), micro)
        if ema:
            ema.update(step + 1)
        around.watchdog.beat()
        last = step + 1 == training.steps
        due = last or (step + 1) % config.checkpoints.every_steps == 0
        if due or (step + 1) % SYNC_STEPS == 0:
            meter.report(step + 1, engine, learning_rate=training.learning_rate * rate)
            stopping = not last and around.stop.requested(world)
            if due or stopping:
                around.checkpoints.save(step + 1, state, ema, history=[asdict(event) for event in reporter.history])
                around.watchdog.beat()
            if last or stopping:
                around.checkpoints.wait()
            for saved in around.checkpoints.take_saved():
                reporter.emit(CheckpointEvent(uri=saved.uri, step=saved.step, time=saved.time))
            if stopping:
                raise StoppedError(f"stopped on request at step {step + 1}; the next start goes on from there")
    engine.destroy()


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


def _options(training: TrainingConfig, plan: Plan, world: World) -> EngineOptions:
    return EngineOptions(
        zero_stage=plan.zero_stage,
        bf16=plan.bf16,
        micro_batch=plan.micro_batch,
        accumulation=plan.accumulation,
        world_size=world.size,
        max_grad_norm=training.max_grad_norm,
        betas=(training.adam_beta1, training.adam_beta2),
        epsilon=training.adam_epsilon,
        weight_decay=training.weight_decay,
    )


def _trainee(config: TrainConfig, plan: Plan, inputs: TrainInputs, world: World) -> tuple[Trainee, Conditioning | None]:
    """The module to train on this rank's device, and the prompts' conditioning where the text encoder is frozen."""
    family, training = inputs.family, config.training
    unet: Any = family.load_denoiser(inputs.model_folder, torch.float32)
    text: Any = family.load_text(inputs.model_folder, torch.float32)
    if plan.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
        for encoder in text.children():
            encoder.gradient_checkpointing_enable()
    if world.device.type == "cuda":
        unet.to(memory_format=torch.channels_last)
    else:  # measured on CPUs: batched matrix products are a tenth faster than fused attention at these sizes
        unet.set_attn_processor(AttnProcessor())
    if training.compile and shutil.which("cc"):
        unet.compile()
    frozen = None
    if not training.train_text_encoder:
        with torch.no_grad():
            frozen = {
                key: value.to(world.device, plan.dtype) for key, value in text.to(plan.dtype)(inputs.token_ids).items()
            }
    trainee = Trainee(family, unet, text if training.train_text_encoder else None).to(world.device)
    return trainee, frozen


@dataclass(frozen=True)
class _Batch:
    """One micro-batch on the device: instance samples first, then class samples."""

    noisy: torch.Tensor
    timesteps: torch.Tensor
    target: torch.Tensor
    weights: torch.Tensor
    prompts: list[int]


class _Batches:
    """Makes this rank's micro-batches from the latent cache and the indexed draws."""

    def __init__(self, config: TrainConfig, plan: Plan, inputs: TrainInputs, world: World) -> None:
        self._training = config.training
        self._plan = plan
        self._inputs = inputs
        self._world = world
        schedule = NoiseSchedule.from_config(
            inputs.family.load_schedule(inputs.model_folder), zero_terminal_snr=config.training.zero_terminal_snr
        )
        self._schedule = NoiseSchedule(schedule.alpha_bar.to(world.device), schedule.prediction)
        self._instance = inputs.instance_latents.to(world.device)
        self._class = inputs.class_latents.to(world.device) if inputs.class_latents else None

    def make(self, step: int, micro: int) -> _Batch:
        """The samples of the global batch that belong to this rank in this micro-step."""
        start = (micro * self._world.size + self._world.rank) * self._plan.micro_batch
        samples = range(start, start + self._plan.micro_batch)
        instance = self._half("instance", self._instance, step, samples)
        halves = [(self._instance, instance)]
        prompts = [self._inputs.instance_prompts[item] for item in instance.items]
        if self._class is not None:
            drawn = self._half("class", self._class, step, samples)
            halves.append((self._class, drawn))
            prompts += [self._inputs.class_prompt] * len(drawn.items)
        device = self._world.device
        clean = torch.cat(
            [latents.sample(half.items, half.views, half.latent_noise.to(device)) for latents, half in halves]
        )
        noise = torch.cat([half.noise for _, half in halves]).to(device)
        timesteps = torch.cat([half.timesteps for _, half in halves]).to(device)
        noisy, target = add_noise(self._schedule, clean, noise, timesteps)
        weights = min_snr_weights(self._schedule, timesteps, gamma=self._training.snr_gamma)
        return _Batch(noisy.to(self._plan.dtype), timesteps, target, weights.to(device), prompts)

    def select(
        self, prompts: torch.Tensor | Conditioning, wanted: list[int]
    ) -> tuple[torch.Tensor | Conditioning, torch.Tensor]:
        """The distinct prompts among the wanted ones, and which of them each sample has: each is encoded once."""
        distinct = sorted(set(wanted))
        index = torch.tensor([distinct.index(prompt) for prompt in wanted], device=self._world.device)
        if isinstance(prompts, torch.Tensor):
            return prompts[distinct], index
        return {key: value[distinct] for key, value in prompts.items()}, index

    def _half(self, half: Any, latents: Latents, step: int, samples: range) -> HalfBatch:
        return draw_half(
            half,
            seed=self._training.seed,
            step=step,
            samples=samples,
            batch_size=self._training.batch_size,
            items=latents.items,
            views=latents.views,
            shape=latents.shape,
            train_timesteps=self._schedule.alpha_bar.numel(),
            offset_noise=self._training.offset_noise,
        )


class _Meter:
    """Collects losses on the device and, at a sync, reads them, judges them and reports."""

    def __init__(self, config: TrainConfig, world: World, reporter: Reporter, *, done: int) -> None:
        self._total = config.training.steps
        self._has_prior = config.prior.enabled
        self._samples = config.training.batch_size * (2 if self._has_prior else 1)
        self._world = world
        self._reporter = reporter
        self._rows: list[torch.Tensor] = []
        self._counts: list[int] = []
        self._since = time.perf_counter()
        self._done = done

    def record(self, terms: torch.Tensor, micro: int) -> None:
        """Adds one micro-batch's (total, instance, prior); `micro` counts from 0 within a step."""
        if micro == 0:
            self._rows.append(terms)
            self._counts.append(1)
        else:
            self._rows[-1] = self._rows[-1] + terms
            self._counts[-1] += 1

    def report(self, step: int, engine: Any, *, learning_rate: float) -> None:
        """Collective. Raises NumericalError naming the first step whose loss is not finite."""
        rows = torch.stack([row / count for row, count in zip(self._rows, self._counts, strict=True)])
        losses = self._world.mean(rows.float()).cpu()
        steps = len(self._rows)
        self._rows, self._counts = [], []
        finite = torch.isfinite(losses).all(dim=1)
        if not bool(finite.all()):
            bad = step - steps + 1 + int((~finite).nonzero()[0])
            raise NumericalError(
                f"training.learningRate: the loss is not a number at step {bad}; the last good checkpoint is kept. "
                "Lower the learning rate or raise the precision, and submit again"
            )
        seconds = time.perf_counter() - self._since
        self._since = time.perf_counter()
        norm = engine.get_global_grad_norm()
        total, instance, prior = losses.mean(dim=0).tolist()
        self._reporter.emit(
            ProgressEvent(
                step=step,
                total=self._total,
                loss=total,
                instance_loss=instance,
                prior_loss=prior if self._has_prior else None,
                grad_norm=None if norm is None else float(norm),
                learning_rate=learning_rate,
                samples_per_second=self._samples * steps / seconds,
                eta_seconds=(self._total - step) * seconds / steps,
                time=time.time(),
            )
        )
        self._reporter.advance("Train", step)
