"""The one training loop that every stage uses: workers, optimizer, averages, checkpoints, progress.

On CPUs two processes of one thread each, which average their gradients, are as fast as one process of two threads
and hold up much better beside other work. Every draw of a step comes from (seed, step, rank),
so an interrupted run goes on exactly where its last checkpoint was.
"""

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

Loss = Callable[[np.random.Generator, int], tuple[Tensor, dict[str, float]]]
"""Takes the draws of one step and its number; returns the loss and figures to print."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long and how fast one stage trains; `batch` counts samples of one worker's step."""

    steps: int
    batch: int
    learning_rate: float
    warmup: int = 100
    ema: float = 0.998
    weight_decay: float = 0.01
    clip: float = 1.0
    sync_every: int = 1
    """1: workers average gradients in every step; n > 1: they step alone and average weights every n steps."""
    seed: int = 0
    save_every_s: float = 150.0
    print_every: int = 50


@dataclass(frozen=True, kw_only=True)
class Worker:
    """One of the processes that train a stage together."""

    rank: int
    count: int

    def join(self, folder: Path, name: str) -> None:
        """Meet the other workers and share the processor's threads (OMP_NUM_THREADS overrides)."""
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // self.count))
        if self.count > 1:
            meeting = folder / f"{name}.{os.getppid()}.rendezvous"
            dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=self.rank, world_size=self.count)


class Fit:
    """Modules in training, with their averaged weights, in one folder's checkpoint."""

    def __init__(
        self,
        plan: Plan,
        worker: Worker,
        path: Path,
        modules: Mapping[str, nn.Module],
        rates: Mapping[str, float] | None = None,
    ) -> None:
        """Build the optimizer; `rates` multiplies the learning rate of a module (1 when not named)."""
        self.plan, self.worker, self.path, self.modules = plan, worker, path, modules
        self.rates = rates or {}
        self.params: dict[str, nn.Parameter] = {
            f"{name}.{key}": parameter
            for name, module in modules.items()
            for key, parameter in module.named_parameters()
            if parameter.requires_grad
        }
        groups: list[dict[str, Any]] = [
            {
                "params": [p for p in module.parameters() if p.requires_grad],
                "scale": self.rates.get(name, 1.0),
            }
            for name, module in modules.items()
        ]
        self.optimizer = torch.optim.AdamW(
            groups, lr=plan.learning_rate, betas=(0.9, 0.99), weight_decay=plan.weight_decay, fused=True
        )
        self.average = {name: p.detach().clone() for name, p in self.params.items()}
        self.step = 0
        if path.exists():
            self._load()

    def run(self, loss: Loss, on_save: Callable[[], None] | None = None) -> None:
        """Train until the plan's last step; saves now and then, and at the end."""
        plan, began, saved, first = self.plan, time.monotonic(), time.monotonic(), self.step
        seen: dict[str, float] = {}
        while self.step < plan.steps:
            rng = np.random.default_rng((plan.seed, self.step, self.worker.rank))
            torch.manual_seed(int(rng.integers(2**31)))
            value, figures = loss(rng, self.step)
            torch.autograd.backward(value)
            self._update()
            for name, figure in {"loss": float(value.detach()), **figures}.items():
                seen[name] = 0.98 * seen.get(name, figure) + 0.02 * figure
            if self.worker.rank == 0:
                if self.step % plan.print_every == 0:
                    pace = (time.monotonic() - began) / (self.step - first)
                    shown = " ".join(f"{name} {figure:.4f}" for name, figure in seen.items())
                    left = pace * (plan.steps - self.step) / 60
                    print(
                        f"{self.path.stem} {self.step}/{plan.steps} {shown} {pace:.3f} s/step, {left:.1f} min left",
                        flush=True,
                    )
                if time.monotonic() - saved > plan.save_every_s or self.step == plan.steps:
                    self.save()
                    saved = time.monotonic()
                    if on_save is not None:
                        on_save()

    def use_average(self) -> None:
        """Put the averaged weights into the modules."""
        with torch.no_grad():
            for name, parameter in self.params.items():
                parameter.copy_(self.average[name])

    def save(self) -> None:
        """Write weights, averages and optimizer moments: whole or absent."""
        tensors: dict[str, Tensor] = {}
        for name, parameter in self.params.items():
            state = self.optimizer.state[parameter]
            tensors[f"model/{name}"] = parameter.detach().contiguous()
            tensors[f"ema/{name}"] = self.average[name].contiguous()
            tensors[f"m/{name}"] = state["exp_avg"].contiguous()
            tensors[f"v/{name}"] = state["exp_avg_sq"].contiguous()
        aside = self.path.with_suffix(".part")
        save_file(tensors, aside, metadata={"step": json.dumps(self.step)})
        aside.replace(self.path)

    def _load(self) -> None:
        with safe_open(self.path, framework="pt") as file, torch.no_grad():
            self.step = int(json.loads(file.metadata()["step"]))
            known = set(file.keys())
            for name, parameter in self.params.items():
                if f"model/{name}" not in known:
                    continue  # a part that training gained since: it begins anew
                parameter.copy_(file.get_tensor(f"model/{name}"))
                self.average[name].copy_(file.get_tensor(f"ema/{name}"))
                self.optimizer.state[parameter] = {
                    "step": torch.tensor(float(self.step)),
                    "exp_avg": file.get_tensor(f"m/{name}").clone(memory_format=torch.preserve_format),
                    "exp_avg_sq": file.get_tensor(f"v/{name}").clone(),
                }

    def _update(self) -> None:
        plan = self.plan
        if plan.sync_every == 1:
            self._average([p.grad for p in self.params.values() if p.grad is not None])
        torch.nn.utils.clip_grad_norm_(list(self.params.values()), plan.clip)
        rate = plan.learning_rate * learning_rate_factor(self.step, plan)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if plan.sync_every > 1 and self.step % plan.sync_every == 0:
            self._average([p.data for p in self.params.values()])
        decay = min(plan.ema, (1 + self.step) / (10 + self.step))
        averages = list(self.average.values())
        torch._foreach_lerp_(averages, [p.detach() for p in self.params.values()], 1 - decay)

    def _average(self, tensors: list[Tensor]) -> None:
        """Replace tensors by their mean over the workers."""
        if self.worker.count == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.worker.count
        pieces = flat.split_with_sizes([tensor.numel() for tensor in tensors])
        for tensor, piece in zip(tensors, pieces, strict=True):
            tensor.copy_(piece.view_as(tensor))


def learning_rate_factor(step: int, plan: Plan) -> float:
    """Return the warm-up and cosine factor of a step, in [0.02, 1]."""
    if step < plan.warmup:
        return (step + 1) / plan.warmup
    progress = (step - plan.warmup) / max(1, plan.steps - plan.warmup)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def load_average(path: Path, modules: Mapping[str, nn.Module]) -> None:
    """Load the averaged weights of a stage's checkpoint into its modules."""
    with safe_open(path, framework="pt") as file, torch.no_grad():
        for name, module in modules.items():
            for key, parameter in module.named_parameters():
                parameter.copy_(file.get_tensor(f"ema/{name}.{key}"))
