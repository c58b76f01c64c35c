"""One training in a process of its own, taking turns: `worker.py ours CONFIG.json` or `worker.py plain SETTING.json`.

Started by `turns.Training`. `ours` is the product's own way from `run_job` on, with the photos decoded, encoded and
cached and the DeepSpeed engine built as in any job: only the watchdog, which hears of every step, is another.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from turns import Turns


def ours(path: Path, turns: Turns) -> None:
    from kubooth_trainer.config import load_config
    from kubooth_trainer.distributed import join
    from kubooth_trainer.job import run_job
    from kubooth_trainer.progress import Event, InfoEvent, ProgressEvent, Reporter
    from kubooth_trainer.stopping import StopFlag, Watchdog

    class Listening(Watchdog):
        def beat(self) -> None:
            turns.beat()

    class Losses:
        def emit(self, event: Event) -> None:
            if isinstance(event, ProgressEvent):
                turns.losses.append(event.loss)
            elif isinstance(event, InfoEvent):
                turns.facts[event.key] = event.value

    reporter = Reporter(sinks=[Losses()])
    config = load_config(path)
    run_job(config, join(config.deadlines.stall_seconds), reporter, StopFlag(), Listening(0.0, lambda _: None))


def plain(path: Path, turns: Turns) -> None:
    from plain_loop import PlainSetting, train

    setting = json.loads(path.read_text())
    folders = {name: Path(setting[name]) for name in ("model", "photos", "class_images")}

    def on_step(loss: float) -> None:
        turns.losses.append(loss)
        turns.beat()

    train(PlainSetting(**{**setting, **folders}), on_step)


KINDS: dict[str, Callable[[Path, Turns], None]] = {"ours": ours, "plain": plain}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not come between the answers
    KINDS[sys.argv[1]](Path(sys.argv[2]), Turns(sys.stdin, answers))


if __name__ == "__main__":
    main()
