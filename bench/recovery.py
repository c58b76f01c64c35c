"""What checkpoints cost while training goes on, and how long a stopped job takes until it trains again.

    python bench/recovery.py --record bench/records/recovery.json
    python bench/recovery.py --quick                     # a trial on random weights

Method: docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from runs import Run, keep, model_folder, record_of, resolved, run_job

from kubooth_trainer.progress import CheckpointEvent, Event, ProgressEvent

REFERENCE_STEPS = 100  # the target is set for a checkpoint every so many steps
TARGET = 0.02


def main() -> None:
    options = _options()
    load = os.getloadavg()[0]
    with TemporaryDirectory() as folder:
        scratch = Path(folder)
        results = measure(options, model_folder(options.model, scratch), scratch)
    sizes = f"--model {Path(options.model).name} --steps {options.steps} --every {options.every}"
    command = f"python bench/recovery.py {sizes} --rounds {options.rounds}"
    keep(record_of("checkpoint overhead and time to resume", command, results, load=load), options.record)


def measure(options: argparse.Namespace, model: Path, scratch: Path) -> dict[str, Any]:
    """Jobs with and without checkpoints take turns; then one is stopped and started again."""
    rounds: list[dict[str, float]] = []
    for number in range(options.rounds):
        rounds.append(
            {
                name: _train_seconds(run_job(_config(options, model, scratch / f"{name}-{number}", every)))
                for name, every in (("without", options.steps), ("with", options.every))
            }
        )
    count = options.steps // options.every - 1  # both write the last one
    per_checkpoint = [(each["with"] - each["without"]) / count for each in rounds]
    per_step = median(each["without"] for each in rounds) / options.steps
    stopped = _config(options, model, scratch / "stopped", options.every)
    first = run_job(stopped, until=lambda event: isinstance(event, CheckpointEvent))
    again = run_job(stopped)
    return {
        "train_seconds": rounds,
        "seconds_per_step": round(per_step, 4),
        "seconds_per_checkpoint": round(median(per_checkpoint), 4),
        "share_at_every_100_steps": round(median(per_checkpoint) / (REFERENCE_STEPS * per_step), 4),
        "share_target": TARGET,
        "seconds_to_first_step": {
            "of a first start": round(first.when(_is_progress), 2),
            "of a resumed one": round(again.when(_is_progress), 2),
        },
        "seconds_from_sigterm_to_exit": round(first.seconds - first.when(_is_checkpoint), 2),
        "peak_mib": round(first.peak_mib),
    }


def _is_progress(event: Event) -> bool:
    return isinstance(event, ProgressEvent)


def _is_checkpoint(event: Event) -> bool:
    return isinstance(event, CheckpointEvent)


def _train_seconds(run: Run) -> float:
    return run.stage_seconds()["Train"]


def _config(options: argparse.Namespace, model: Path, folder: Path, every: int) -> Any:
    return resolved(
        folder,
        model,
        prior={"images": 8, "sampler": {"steps": 2}},
        training={"steps": options.steps, "batchSize": 4},
        checkpoints={"everySteps": every},
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What checkpoints cost, and how long a resume takes.")
    parser.add_argument("--model", default="small-world", help="small-world, tiny (random, for trials) or a folder")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--every", type=int, default=10, help="steps between checkpoints, a divisor of --steps")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="a trial on random weights: no figures worth keeping")
    parser.add_argument("--record", type=Path, help="write all figures to this JSON file")
    options = parser.parse_args()
    if options.quick:
        options.model, options.steps, options.every, options.rounds = "tiny", 10, 5, 1
    if options.steps % options.every or options.steps // options.every < 2:
        parser.error("--every must divide --steps, at least twice")
    return options


if __name__ == "__main__":
    main()
