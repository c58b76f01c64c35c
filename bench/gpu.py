"""A job of Stable Diffusion 1.5's shapes, with random weights, on one GPU: seconds, images per second, share of peak.

    python bench/gpu.py --record bench/records/gpu.json --trace trace.json.gz
    python bench/gpu.py --quick                          # a trial on a tiny model, on whatever there is

One after the other: training steps of 8 + 8 samples, a few of those under the profiler, and the whole job, cold and
warm. The record is written after each, so that a run which is cut short has kept its figures. Method:
docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import sd15
import torch
from runs import Run, keep, model_folder, record_of, resolved, run_job
from turns import Training

from kubooth_trainer.config import TrainConfig
from kubooth_trainer.loop import SYNC_STEPS
from kubooth_trainer.prior import BATCH
from kubooth_trainer.progress import StageEvent

PEAK_TFLOPS = {"B200": 2250, "H200": 989, "H100": 989, "A100": 312, "L40S": 362, "L4": 121}  # bf16, dense, as sold
TARGETS = {"cold": 60.0, "warm": 25.0, "share_of_peak": 0.45}  # seconds, seconds, on one H200
WARM_UP = 4 * SYNC_STEPS  # steps that are not timed; what comes before a training's first step counts as one too
PROFILED = 2  # steps: a trace of one is some 20 MB


def main() -> None:
    options = _options()
    load = os.getloadavg()[0]
    sizes = f"--images {options.images} --sampler-steps {options.sampler_steps} --steps {options.steps}"
    command = f"python bench/gpu.py {sizes} --large-batch {options.large_batch} --large-steps {options.large_steps}"
    results: dict[str, Any] = {}
    with TemporaryDirectory(dir=options.scratch) as folder:
        scratch = Path(folder)
        model = model_folder("tiny", scratch) if options.quick else sd15.write(scratch / "model")
        for part in measure(options, model, scratch):
            results |= part
            record = record_of("a job of Stable Diffusion 1.5's shapes on one GPU", command, results, load=load)
            keep(record, options.record)


def measure(options: argparse.Namespace, model: Path, scratch: Path) -> Iterator[dict[str, Any]]:
    """Runs it all, part by part. What needs the GPU's peak is left out where that is not known."""
    gpu = "0" if torch.cuda.is_available() else ""
    peak = peak_flops(options)
    yield {"device": torch.cuda.get_device_name() if gpu else "CPU", "peak_tflops": peak / 1e12 if peak else None}
    yield steps(options, model, scratch, gpu)
    for name in ("cold", "warm"):
        config = _job(options, model, scratch / name, gpu, training={"steps": options.steps, "batchSize": 1})
        run = run_job(config, gpu=gpu)
        yield {name: whole_job(options, run, target=TARGETS[name])}
        if name == "cold":
            flops = 2 * options.sampler_steps * sd15.unet_flops(model, 1)  # with guidance; the VAE's are not counted
            rate = images_per_second(run)
            yield {"class_images": {"per_second": round(rate, 2), "share_of_peak": share(flops * rate, peak)}}


def whole_job(options: argparse.Namespace, run: Run, *, target: float) -> dict[str, Any]:
    told = {event.key: event.value for _, event in run.events if event.type == "info"}  # type: ignore[union-attr]
    return {
        "seconds": round(run.seconds, 2),
        "target_on_h200": target,
        "stages": run.stage_seconds(),
        "images": options.images,
        "sampler_steps": options.sampler_steps,
        "steps": options.steps,
        "batch": 1,
        "precision": told["precision"],
    }


def images_per_second(run: Run) -> float:
    """Between the first batch of class images and the last: without the loading of the model, and the warming up."""
    looks = [
        (seconds, event.done)
        for seconds, event in run.events
        if isinstance(event, StageEvent) and event.stage == "Prior" and event.state == "Running" and event.done
    ]
    (began, first), (ended, last) = looks[0], looks[-1]
    if last == first:
        raise RuntimeError(f"all {last} class images were made in one batch: more images")
    return (last - first) / (ended - began)


def peak_flops(options: argparse.Namespace) -> float | None:
    """The device's bf16 operations per second as its maker states them, by its name; None where that is not known."""
    if options.peak_tflops:
        return float(options.peak_tflops) * 1e12
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return next((tflops * 1e12 for part, tflops in PEAK_TFLOPS.items() if part in name.split()[-1:]), None)


def share(flops_per_second: float, peak: float | None) -> float | None:
    return round(flops_per_second / peak, 4) if peak else None


def steps(options: argparse.Namespace, model: Path, scratch: Path, gpu: str) -> dict[str, Any]:
    """Training steps by the clock, the device waited for at both ends, and what a few spend the GPU's time on."""
    folder = scratch / "steps"  # with a cache of its own: the cold job is to find none
    path = folder / "config.json"
    path.parent.mkdir()
    path.write_text(_large(options, model, folder / "large", gpu).model_dump_json())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "CUDA_VISIBLE_DEVICES": gpu}
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment = {**os.environ, **ranks, **place, **quiet}
    training = Training(["ours", str(path)], environment=environment, log=path.with_suffix(".log"))
    try:
        training.wait_until_ready()
        training.take(WARM_UP)
        timed = training.take(options.large_steps)
        costs = training.take(PROFILED, profiled=True, trace=options.trace).costs
    finally:
        training.end()
    per_step = sum(timed.seconds) / len(timed.seconds)
    flops = sd15.step_flops(model, samples=2 * options.large_batch, prompts=2)
    return {
        "step": {
            "batch": {"instance": options.large_batch, "class": options.large_batch},
            "seconds": round(per_step, 4),
            "tflop": round(flops / 1e12, 3),
            "share_of_peak": share(flops / per_step, peak_flops(options)),
            "target_on_h200": TARGETS["share_of_peak"],
        },
        "costs": costs,
    }


def _job(options: argparse.Namespace, model: Path, folder: Path, gpu: str, **groups: dict[str, int]) -> TrainConfig:
    """A job with the class images that all share; `groups` are the rest of its spec."""
    prior = {"images": options.images, "sampler": {"steps": options.sampler_steps}}
    return resolved(folder, model, gpu=gpu, **{"prior": prior, **groups})


def _large(options: argparse.Namespace, model: Path, folder: Path, gpu: str) -> TrainConfig:
    """With few class images, and no checkpoint among its steps, of which there are some to spare."""
    last = WARM_UP + options.large_steps + PROFILED + SYNC_STEPS
    training = {"steps": last, "batchSize": options.large_batch}
    prior = {"images": 2 * BATCH, "sampler": {"steps": options.sampler_steps}}
    return _job(options, model, folder, gpu, prior=prior, training=training, checkpoints={"everySteps": last})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A job of Stable Diffusion 1.5's shapes on one GPU.")
    parser.add_argument("--images", type=int, default=200, help="class images, more than a batch of 8")
    parser.add_argument("--sampler-steps", type=int, default=25, help="of each class image")
    parser.add_argument(
        "--steps", type=int, default=800, help="training steps of the job, one photo and one class image each"
    )
    parser.add_argument(
        "--large-batch", type=int, default=8, help="photos, and class images, of a step whose share of peak is taken"
    )
    parser.add_argument("--large-steps", type=int, default=40, help="such steps that are timed")
    parser.add_argument("--peak-tflops", type=float, help="of the device in bf16, where its name is not known")
    parser.add_argument("--trace", type=Path, help="write the profiler's trace to this file; .gz compresses it")
    parser.add_argument(
        "--scratch", type=Path, help="a folder with 50 GB of room, fast best; default: that of temporary files"
    )
    parser.add_argument("--quick", action="store_true", help="a trial on a tiny model: no figures worth keeping")
    parser.add_argument("--record", type=Path, help="write all figures to this JSON file, after each part anew")
    options = parser.parse_args()
    if options.quick:
        options.images, options.sampler_steps, options.steps, options.large_batch, options.large_steps = 24, 2, 2, 2, 10
    elif not torch.cuda.is_available():
        sys.exit("gpu.py: torch finds no GPU here; --quick tries it out without one")
    return options


if __name__ == "__main__":
    main()
