"""Run by torchrun: trains a small network with AdamW8bit at each ZeRO stage, whole and resumed; prints its losses.

Usage: torchrun … adamw8bit_ranks.py FOLDER; checkpoints lie in FOLDER/CASE. No model, so that all stages take seconds.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch
from torch import nn

from kubooth_trainer import adamw8bit
from kubooth_trainer.checkpoint import Checkpoints
from kubooth_trainer.checkpoint_claim import claim_checkpoints
from kubooth_trainer.claim import Claim, Identity
from kubooth_trainer.config import CheckpointConfig, StorageConfig
from kubooth_trainer.distributed import World, join
from kubooth_trainer.ema import Ema
from kubooth_trainer.engine import EngineOptions, build_engine, effective_stage, engine_state
from kubooth_trainer.storage import Storage

STEPS, MIDDLE, BATCH = 12, 6, 4
RATES = (1e-3, 5e-4)
CASES = {
    "AdamW": (0, False), "0": (0, False), "1": (1, False), "2": (2, False), "3": (3, False), "bf16": (1, True),
    "cut": (2, False),
}  # fmt: skip
MOST_NUMBERS = {"cut": 64 * 256}  # weights and biases apart


def network() -> nn.Module:
    """Two groups. Biases have less than the 4096 numbers below which moments stay in fp32, shards of two ranks more."""
    torch.manual_seed(0)
    first, second = nn.Linear(64, 256), nn.Linear(256, 64)
    return nn.Sequential(first, nn.GELU(), second)


def groups(module: nn.Module) -> list[dict[str, object]]:
    return [{"params": list(module[at].parameters()), "lr": rate} for at, rate in zip((0, 2), RATES, strict=True)]  # type: ignore[index]


def options(case: str, world: World) -> EngineOptions:
    stage, bf16 = CASES[case]
    return EngineOptions(
        zero_stage=effective_stage(stage, bf16=bf16), bf16=bf16, micro_batch=BATCH // world.size, accumulation=1,
        world_size=world.size, max_grad_norm=1.0, optimizer="AdamW" if case == "AdamW" else "AdamW8bit",
        betas=(0.9, 0.999), epsilon=1e-8, weight_decay=1e-2, offload=False,
    )  # fmt: skip


def train(case: str, checkpoints: Checkpoints, world: World) -> list[float]:
    """From the newest checkpoint to the last step, with one in the middle; the losses on the way."""
    module, losses = network(), []
    adamw8bit.MOST_NUMBERS = MOST_NUMBERS.get(case, 1 << 30)
    engine = build_engine(module, groups(module), options(case, world))
    state = engine_state(engine, options(case, world))
    ema, first = Ema(state, 0.9), 0
    found = checkpoints.newest(lambda message: sys.exit(message))
    if found is not None:
        found.restore(state, ema)
        first = found.step
    for step in range(first, STEPS):
        torch.manual_seed(step)
        inputs = torch.randn(BATCH, 64)[world.rank :: world.size].to(next(module.parameters()).dtype)
        loss = (engine(inputs) - inputs.cumsum(1)).square().mean()
        engine.backward(loss)
        engine.step()
        ema.update(step + 1)
        losses.append(float(world.mean(loss.detach().float())))
        if step + 1 in (MIDDLE, STEPS):
            checkpoints.save(step + 1, state, ema, history=[], must=True)
    checkpoints.wait()
    engine.destroy()
    return losses


def main() -> None:
    world, folder = join(60.0), Path(sys.argv[1])
    identity = Identity(name="small", namespace="default", uid=None, attempt=1, digest="small")
    for case in CASES:
        for name in (case, f"{case} resumed"):
            uri = (folder / name).as_uri()
            if name != case and world.is_main:
                step = f"attempt-1/step-{MIDDLE:06d}"
                shutil.copytree(folder / case / step, folder / name / step)
            claim = Claim(storage=Storage(StorageConfig(endpoint=None, region=None)), uri=uri, identity=identity)
            if world.is_main:
                claim_checkpoints(claim)
            world.barrier()
            checkpoints = Checkpoints(
                claim, CheckpointConfig(uri=uri, every_steps=MIDDLE, keep=9), identity="small",
                precision="FP32", scratch=folder / "scratch", world=world, moved=lambda: None,
            )  # fmt: skip
            losses = train(case, checkpoints, world)
            if world.is_main:
                print("RESULT " + json.dumps({"case": name, "losses": losses}), flush=True)
            world.barrier()


if __name__ == "__main__":
    main()
