"""What every stage of a job is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kubooth_trainer.config import StageName, TrainConfig
from kubooth_trainer.distributed import World
from kubooth_trainer.plan import Plan
from kubooth_trainer.progress import Reporter, transfer
from kubooth_trainer.stopping import StopFlag, Watchdog
from kubooth_trainer.storage import Progress, Storage


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The job and everything around it, the same for all stages."""

    config: TrainConfig
    plan: Plan
    world: World
    reporter: Reporter
    stop: StopFlag
    watchdog: Watchdog
    storage: Storage

    @property
    def work(self) -> Path:
        return Path(self.config.workdir)

    def progress(self, stage: StageName) -> Callable[[int], None]:
        """A callback for collective work of a stage: reports, keeps the watchdog quiet, and stops when asked to."""

        def advance(done: int) -> None:
            self.reporter.advance(stage, done)
            self.watchdog.beat()
            self.stop.raise_if_requested(self.world)

        return advance

    def alone(self, stage: StageName, offset: int = 0) -> Callable[[int], None]:
        """The same for work that this rank does while others wait for it."""

        def advance(done: int) -> None:
            self.reporter.advance(stage, offset + done)
            self.stop.raise_if_set_here()

        return advance

    def moved_alone(self) -> None:
        """The same for such work without a count."""
        self.reporter.moved()
        self.stop.raise_if_set_here()

    def transfer(self) -> Progress:
        """The same for files on their way to or from this rank."""
        moved = transfer(self.reporter.moved)

        def on_progress(done: int, total: int) -> None:
            moved(done, total)
            self.stop.raise_if_set_here()

        return on_progress
