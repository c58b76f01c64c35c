"""The exponential moving average of what is trained. `loop` updates it; checkpoints keep it, the export takes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from kubooth_trainer.engine import EngineState


class Ema:
    """Exponential moving average of the master weights, sharded as they are."""

    def __init__(self, state: EngineState, decay: float) -> None:
        self._state = state
        self._decay = decay
        self._average = [shard.detach().clone() for shard in state.shards()]

    def update(self, step: int) -> None:
        """After optimizer step `step` (counted from 1); the decay warms up as (1 + step) / (10 + step)."""
        decay = min(self._decay, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(self._average, [s.detach() for s in self._state.shards()], 1.0 - decay)

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """(name, averaged fp32 weight) for every parameter, each good until the next is asked for. Collective."""
        with self._swapped():
            yield from self._state.weights()

    def restore(self, read: Callable[[str], torch.Tensor]) -> None:
        """Sets the averages. Call before `EngineState.restore`, which sets the weights themselves."""
        for name in self._state.names:
            self._state.set_weight(name, read(name))
        self._average = [shard.detach().clone() for shard in self._state.shards()]

    @contextmanager
    def _swapped(self) -> Iterator[None]:
        """The averages in the place of the master weights, for as long as it takes to read them."""
        shards = [shard.detach() for shard in self._state.shards()]
        kept = [shard.clone() for shard in shards]
        try:
            for shard, average in zip(shards, self._average, strict=True):
                shard.copy_(average)
            yield
        finally:
            for shard, original in zip(shards, kept, strict=True):
                shard.copy_(original)
