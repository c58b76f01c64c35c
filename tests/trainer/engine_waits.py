"""Run as a process: what a step of each engine reads back from the device, and what becomes of a gradient of nan.

Usage: engine_waits.py ZERO_STAGE FP32|BF16; prints {"reads": [where, ...], "nan_reaches_weights": ...}.
"""

from __future__ import annotations

import json
import sys
import traceback
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kubooth_trainer.distributed import join
from kubooth_trainer.engine import EngineOptions, EngineState, build_engine

SIZE = 8
CLIP = 1.0


class Reads(TorchDispatchMode):
    """Notes the places that take a number out of a tensor: on a GPU the host would wait there."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten._local_scalar_dense.default:
            self.places.append(traceback.format_stack()[-3].strip())
        return function(*args, **(kwargs or {}))


def main(zero_stage: int, precision: str) -> None:
    join(600.0)
    bf16 = precision == "BF16"
    options = EngineOptions(
        zero_stage=zero_stage, bf16=bf16, optimizer="AdamW", micro_batch=1, accumulation=1, world_size=1,
        max_grad_norm=CLIP, betas=(0.9, 0.999), epsilon=1e-8, weight_decay=0.0, offload=False,
    )  # fmt: skip
    layers = [torch.nn.Linear(SIZE, SIZE), torch.nn.Linear(SIZE, SIZE)]
    groups: list[dict[str, Any]] = [{"params": list(layer.parameters()), "lr": 1e-3} for layer in layers]
    engine = build_engine(torch.nn.Sequential(*layers), groups, options)
    inputs = torch.ones(1, SIZE, dtype=torch.bfloat16 if bf16 else torch.float32)

    def step(factor: float) -> None:
        engine.backward(engine(inputs).float().square().mean() * factor)
        engine.step()

    for _ in range(3):  # ZeRO 3 gets to know the order of the layers
        step(1.0)
    reads = Reads()
    with reads:
        step(1.0)
    step(float("nan"))
    weights = dict(EngineState(engine, zero_stage=zero_stage).weights())
    reaches = all(not bool(value.isfinite().any()) for value in weights.values())
    print(json.dumps({"reads": reads.places, "nan_reaches_weights": reaches}))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
