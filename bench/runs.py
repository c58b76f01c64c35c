"""Whole jobs as a user runs them, timed from outside. Shared by `whole_job.py` and `recovery.py`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import machine, sources, versions

from kubooth_cli.plan import Request, make_plan
from kubooth_trainer.config import TrainConfig
from kubooth_trainer.progress import Event, StageEvent, event_from_json

ROOT = Path(__file__).resolve().parent.parent
PHOTOS = ROOT / "examples" / "quickstart" / "photos"


@dataclass(frozen=True)
class Run:
    """One process from start to end. `events` carry the seconds since its start; `peak_mib` is of its largest rank."""

    code: int
    seconds: float
    peak_mib: float
    events: list[tuple[float, Event]]

    def stage_seconds(self) -> dict[str, float]:
        """Of the stages that ended."""
        ended = {event.stage: event for _, event in self.events if isinstance(event, StageEvent) and event.end}
        return {name: round(event.end - event.start, 3) for name, event in ended.items() if event.end and event.start}

    def when(self, matches: Callable[[Event], bool]) -> float:
        """Seconds from the start to the first event that matches."""
        return next(seconds for seconds, event in self.events if matches(event))


def resolved(folder: Path, model: Path, *, devices: int = 1, gpu: str = "", **groups: dict[str, Any]) -> TrainConfig:
    """A job as a user would write it, resolved as `kubooth run` resolves it; its work and cache lie in `folder`.

    `gpu` is what CUDA_VISIBLE_DEVICES says, here and below: nothing, unless a GPU is what is measured.
    """
    folder.mkdir(parents=True, exist_ok=True)
    subject = {"className": "dog", "identifier": "zqx", "images": PHOTOS.as_uri()}
    evaluation = {"prompts": ["a photo of {identifier} {class}"], "imagesPerPrompt": 1, "metrics": []}
    spec = {"model": {"uri": model.as_uri()}, "subject": subject, "evaluation": evaluation, **groups}
    spec["output"] = {"uri": (folder / "output").as_uri()}
    path = folder / "job.yaml"
    path.write_text(
        json.dumps(
            {
                "apiVersion": "kubooth.io/v1alpha1",
                "kind": "PersonalizationJob",
                "metadata": {"name": "bench"},
                "spec": spec,
            }
        )
    )  # JSON is YAML
    environment = {"CUDA_VISIBLE_DEVICES": gpu, "XDG_CACHE_HOME": str(folder.parent / "cache")}
    return make_plan(Request(job=path, devices=devices, workdir=folder / "work"), environment).config


def run_job(config: TrainConfig, *, until: Callable[[Event], bool] | None = None, gpu: str = "") -> Run:
    """Runs the launcher on a config; after the event `until` it is sent SIGTERM. Raises RuntimeError where it fails."""
    path = Path(config.workdir).with_suffix(".json")
    path.write_text(config.model_dump_json())
    run = run_command(
        [sys.executable, "-m", "kubooth_trainer.launcher", "--config", str(path)], path, until=until, gpu=gpu
    )
    if run.code != (0 if until is None else 143):
        raise RuntimeError(f"a job ended with {run.code}: {path.with_suffix('.log').read_text()[-3000:]}")
    return run


def run_command(
    arguments: Sequence[str], path: Path, *, until: Callable[[Event], bool] | None = None, gpu: str = ""
) -> Run:
    """Runs a process whose output is events, if any; its log goes beside `path`."""
    events: list[tuple[float, Event]] = []
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": gpu}
    with path.with_suffix(".log").open("w") as log:
        began = time.monotonic()
        process = subprocess.Popen(
            list(arguments), stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, **quiet}
        )
        assert process.stdout is not None
        for line in process.stdout:
            event = event_from_json(line)
            if event is None:
                continue
            events.append((time.monotonic() - began, event))
            if until is not None and until(event):
                process.terminate()
                until = None
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        process.stdout.close()
    return Run(process.returncode, seconds, used.ru_maxrss / 1024, events)


def record_of(what: str, command: str, results: dict[str, Any], *, load: float) -> dict[str, Any]:
    """What every record says beside its figures."""
    return {
        "what": what,
        "command": command,
        "machine": machine(),
        "versions": versions(),
        "sources": sources(ROOT),
        "load_before": round(load, 2),
        "results": results,
    }


def keep(record: dict[str, Any], path: Path | None) -> None:
    """Prints the figures, and writes the record where one is wanted."""
    print(json.dumps(record["results"], indent=1))
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n")


def model_folder(given: str, scratch: Path) -> Path:
    """`small-world`, `tiny` (random weights, for trials) or a folder in diffusers layout."""
    from kubooth_cli.plan import bundled_models

    if given == "tiny":
        code = f"from kubooth_world import tiny_model; tiny_model.write({str(scratch / 'tiny')!r})"
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        return scratch / "tiny"
    folder = Path(bundled_models().get(given, given).removeprefix("file://")).resolve()
    if not (folder / "model_index.json").is_file():
        sys.exit(f"{given}: no model in diffusers layout there")
    return folder
