"""Losses on their way from the device to the reporter, a few steps at a time. Used by the loop."""

from __future__ import annotations

import math
import time
from typing import Any

import torch

from kubooth_trainer.config import TrainConfig
from kubooth_trainer.distributed import World
from kubooth_trainer.errors import NumericalError
from kubooth_trainer.progress import ProgressEvent, Reporter


class Meter:
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

    def report(self, step: int, engine: Any, *, learning_rate: float) -> float:
        """Seconds of a step on this rank, since the last report. Collective.

        Raises NumericalError naming the first step whose loss is not finite.
        """
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
        seconds = (time.perf_counter() - self._since) / steps
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
                grad_norm=float(norm) if norm is not None and math.isfinite(norm) else None,  # JSON has no infinity
                learning_rate=learning_rate,
                samples_per_second=self._samples / seconds,
                eta_seconds=(self._total - step) * seconds,
                time=time.time(),
            )
        )
        self._reporter.advance("Train", step)
        return seconds
