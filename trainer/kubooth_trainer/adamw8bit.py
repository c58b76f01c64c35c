"""AdamW with moments in 8 bits, from bitsandbytes, a package that a trainer may lack. `engine` calls this.

A moment is one byte a number and, for every 256 numbers that lie side by side, their largest magnitude in fp32
(arXiv 2110.02861). So what the bytes mean hangs on how parameters are laid out, by ZeRO stage and number of ranks, and
they are kept as they are: numbers that go through fp32 and back are not always the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from kubooth_trainer.errors import ConfigError

MOMENT_BYTES = 2 + 2 * 4 / 256  # of both moments, a parameter
CPU_STEP_BYTES = 12  # on CPUs a step has both moments and a denominator in fp32, a parameter
MOST_NUMBERS = (1 << 31) - (1 << 16)  # of a group: bitsandbytes counts in int32, and ZeRO 1 and 2 make it one, padded
_QUANTIZED = ("state1", "state2", "absmax1", "absmax2")
_TRIAL_NUMBERS = 4096  # fewer stay in fp32


def require_adamw8bit(device: torch.device) -> None:
    """Raises ConfigError where there is no bitsandbytes, or none that works on this device."""
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "training.optimizer: AdamW8bit needs bitsandbytes, which this trainer does not have; "
            "pip install 'kubooth[bnb]', or use AdamW"
        ) from error
    weight = torch.zeros(_TRIAL_NUMBERS, device=device, requires_grad=True)
    weight.grad = torch.ones_like(weight)
    try:
        make_adamw8bit([{"params": [weight], "lr": 1.0}]).step()
    except RuntimeError as error:  # a library for other versions of CUDA says so at the first use, at length
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ConfigError(
            f"training.optimizer: the bitsandbytes of this trainer does not work on {device.type} ({reason}); "
            "install one that does, or use AdamW"
        ) from error


def make_adamw8bit(groups: list[dict[str, Any]], **settings: Any) -> torch.optim.Optimizer:
    """The optimizer, with groups of more than `MOST_NUMBERS` cut; `settings` are betas, eps and weight_decay."""
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit([part for group in groups for part in _cut(group)], **settings)  # type: ignore[no-any-return]


def _cut(group: dict[str, Any]) -> list[dict[str, Any]]:
    """Groups of the same options whose parameters are those of `group`, in their order."""
    parts: list[list[torch.Tensor]] = [[]]
    numbers = 0
    for parameter in group["params"]:
        numbers += parameter.numel()
        if parts[-1] and numbers > MOST_NUMBERS:
            parts.append([])
            numbers = parameter.numel()
        parts[-1].append(parameter)
    return [{**group, "params": part} for part in parts]


def packed(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """What an optimizer keeps of one parameter, each part as a flat tensor; a view.

    In the order of memory, which is the library's: it does not heed strides, as those of channels_last.
    """
    return {part: state[part].as_strided((state[part].numel(),), (1,)) for part in _QUANTIZED if part in state}


def unpacked(
    optimizer: torch.optim.Optimizer,
    parameter: torch.Tensor,
    *,
    step: int,
    prefix: str,
    read: Callable[[str], torch.Tensor],
) -> dict[str, Any]:
    """The state of one parameter after `step` steps, from its parts, which `read` finds as `prefix`/part.

    Raises ValueError where they do not fit the parameter.
    """
    state: dict[str, Any] = {"step": step}
    for part in ("state1", "state2"):
        flat = read(f"{prefix}/{part}")
        if flat.numel() != parameter.numel():
            raise ValueError(f"{flat.numel()} numbers for a parameter of {parameter.numel()}")
        state[part] = flat.to(parameter.device, copy=True).reshape(parameter.shape)  # `flat` may be a mapped file
    if state["state1"].dtype == torch.uint8:
        maxima = ("absmax1", "absmax2")
        state |= {part: read(f"{prefix}/{part}").to(parameter.device, copy=True) for part in maxima}
        maps: dict[str, torch.Tensor] = optimizer.name2qmap  # type: ignore[attr-defined]
        state |= {"qmap1": maps["dynamic"].to(parameter.device), "qmap2": maps["udynamic"].to(parameter.device)}
    return state
