"""Work on a device in portions, halved whenever its memory does not suffice: for the VAE and the pictures of Evaluate.

Used by `sampling`, `latents` and the encoders. Training has a way of its own (`fit`): there a smaller
batch needs another plan.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

Item = TypeVar("Item")


class Portions:
    """How many items a device takes at once. `size` None: no bound was met yet."""

    def __init__(self) -> None:
        self.size: int | None = None

    def run(self, work: Callable[[Sequence[Item]], torch.Tensor], items: Sequence[Item]) -> torch.Tensor:
        """The rows [n, ...] that `work` makes of all items, in their order.

        Raises torch.OutOfMemoryError where not even one item fits.
        """
        rows: list[torch.Tensor] = []
        start = 0
        while start < len(items):
            portion = items[start : start + (self.size or len(items))]
            try:
                rows.append(work(portion))
            except torch.OutOfMemoryError:
                if len(portion) == 1:
                    raise
            else:
                start += len(portion)
                continue
            self.halve(len(portion))  # outside of `except`: its traceback holds on to tensors
        return torch.cat(rows)

    def halve(self, count: int) -> None:
        """After `count` items did not fit."""
        self.size = max(1, count // 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
