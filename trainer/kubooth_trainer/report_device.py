"""What the report says of the device: where the time of a step went, and the memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kubooth_trainer.figures import duration
from kubooth_trainer.training_facts import TrainingFacts

GIB = 1 << 30


def device_shown(training: TrainingFacts) -> dict[str, Any]:
    """The values of `device.html`: rows with a name, an amount, its share and the width of its bar in percent."""
    seconds, memory = training.step_seconds, training.estimate
    return {
        "step": duration(sum(seconds.values())) if seconds else "",
        "times": _rows(seconds, {part: f"{1000 * value:.1f} ms" for part, value in seconds.items()}),
        "memory": _rows(memory, {part: f"{size / GIB:.2f} GiB" for part, size in memory.items()}),
        "reasoning": training.reasoning,
        "peak": f"{training.peak / GIB:.2f} GiB",
    }


def _rows(amounts: Mapping[str, float], shown: Mapping[str, str]) -> list[dict[str, Any]]:
    total, most = sum(amounts.values()), max(amounts.values(), default=0.0)
    return [
        {
            "name": name,
            "amount": shown[name],
            "share": f"{100 * amount / total:.0f}%" if total else "",
            "width": round(100 * amount / most, 1) if most else 0,
        }
        for name, amount in amounts.items()
    ]
