"""A job of Stable Diffusion 1.5's shapes, with random weights, on one GPU: seconds, images per second, share of peak.

    python bench/gpu.py --record bench/records/gpu.json --trace trace.json
    python bench/gpu.py --quick                          # a trial on a tiny model, on whatever there is

Three things, one after the other: the whole job cold and warm, training steps of 8 + 8 samples, and a few of those
under the profiler. Method: docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import sd15
import torch
from runs import Run, keep, model_folder, record_of, resolved, run_job
from turns import Training

from kubooth_trainer.config import TrainConfig
from kubooth_trainer.loop import SYNC_STEPS
from kubooth_trainer.progress import ProgressEvent

PEAK_TFLOPS = {"B200": 2250, "H200": 989, "H100": 989, "A100": 312, "L40S": 362, "L4": 121}  # bf16, dense, as sold
TARGETS = {"cold": 60.0, "warm": 25.0, "share_of_peak": 0.45}  # seconds, seconds, on one H200
WARM_UP = 2 * SYNC_STEPS  # steps of a training that are not timed


def main() -> None:
    options = _options()
    load = os.getloadavg()[0]
    with TemporaryDirectory(dir=options.scratch) as folder:
        scratch = Path(folder)
        model = model_folder("tiny", scratch) if options.quick else sd15.write(scratch / "model")
        results = measure(options, model, scratch)
    sizes = f"--images {options.images} --sampler-steps {options.sampler_steps} --steps {options.steps}"
    command = f"python bench/gpu.py {sizes} --large-batch {options.large_batch} --large-steps {options.large_steps}"
    keep(record_of("a job of Stable Diffusion 1.5's shapes on one GPU", command, results, load=load), options.record)


def measure(options: argparse.Namespace, model: Path, scratch: Path) -> dict[str, Any]:
    """Runs it all. What needs the GPU's peak is left out where that is not known."""
    gpu = "0" if torch.cuda.is_available() else ""
    peak = peak_flops(options)
    training = {"steps": options.steps, "batchSize": 1}
    jobs = {
        name: run_job(_job(options, model, scratch / name, gpu, training=training), gpu=gpu)
        for name in ("cold", "warm")
    }
    images_per_second = options.images / jobs["cold"].stage_seconds()["Prior"]
    image_flops = 2 * options.sampler_steps * sd15.unet_flops(model, 1)  # with guidance; the VAE's are not counted
    large = run_job(_large(options, model, scratch / "large", gpu), gpu=gpu)
    per_step = seconds_per_step(large)
    flops = sd15.step_flops(model, samples=2 * options.large_batch, prompts=2)
    return {
        "device": torch.cuda.get_device_name() if gpu else "CPU",
        "peak_tflops": peak / 1e12 if peak else None,
        "job": {
            "images": options.images,
            "sampler_steps": options.sampler_steps,
            "steps": options.steps,
            "batch": 1,
            "precision": facts(jobs["cold"])["precision"],
        },
        "seconds": {
            name: {"measured": round(run.seconds, 2), "target_on_h200": TARGETS[name]} for name, run in jobs.items()
        },
        "stages": {name: run.stage_seconds() for name, run in jobs.items()},
        "class_images": {
            "per_second": round(images_per_second, 2),
            "share_of_peak": share(image_flops * images_per_second, peak),
        },
        "step": {
            "batch": {"instance": options.large_batch, "class": options.large_batch},
            "seconds": round(per_step, 4),
            "tflop": round(flops / 1e12, 3),
            "share_of_peak": share(flops / per_step, peak),
            "target_on_h200": TARGETS["share_of_peak"],
        },
        "costs": profiled(options, model, scratch, gpu),
    }


def peak_flops(options: argparse.Namespace) -> float | None:
    """The device's bf16 operations per second as its maker states them, by its name; None where that is not known."""
    if options.peak_tflops:
        return float(options.peak_tflops) * 1e12
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return next((tflops * 1e12 for part, tflops in PEAK_TFLOPS.items() if part in name.split()[-1:]), None)


def share(flops_per_second: float, peak: float | None) -> float | None:
    return round(flops_per_second / peak, 4) if peak else None


def facts(run: Run) -> dict[str, str]:
    return {event.key: event.value for _, event in run.events if event.type == "info"}  # type: ignore[union-attr]


def seconds_per_step(run: Run) -> float:
    """The median between two looks at the losses, each of which waits for the device."""
    looks = [(event.time, event.step) for _, event in run.events if isinstance(event, ProgressEvent)]
    warm = [look for look in looks if look[1] >= WARM_UP]
    if len(warm) < 2:
        raise RuntimeError(f"the training told of {len(warm)} moments after its first {WARM_UP} steps: more steps")
    return median((later - earlier) / (end - start) for (earlier, start), (later, end) in pairwise(warm))


def profiled(options: argparse.Namespace, model: Path, scratch: Path, gpu: str) -> dict[str, float]:
    """What a few training steps spend the GPU's time on; the trace goes where it is wanted."""
    path = scratch / "profiled.json"
    path.write_text(_large(options, model, scratch / "profiled", gpu).model_dump_json())
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
        return training.take(SYNC_STEPS, profiled=True, trace=options.trace).costs
    finally:
        training.end()


def _job(options: argparse.Namespace, model: Path, folder: Path, gpu: str, **groups: dict[str, int]) -> TrainConfig:
    """A job with the class images that all share; `groups` are the rest of its spec."""
    prior = {"images": options.images, "sampler": {"steps": options.sampler_steps}}
    return resolved(folder, model, gpu=gpu, prior=prior, **groups)


def _large(options: argparse.Namespace, model: Path, folder: Path, gpu: str) -> TrainConfig:
    """With no checkpoint among its steps."""
    training = {"steps": options.large_steps, "batchSize": options.large_batch}
    return _job(options, model, folder, gpu, training=training, checkpoints={"everySteps": options.large_steps})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A job of Stable Diffusion 1.5's shapes on one GPU.")
    parser.add_argument("--images", type=int, default=200, help="class images")
    parser.add_argument("--sampler-steps", type=int, default=25, help="of each class image")
    parser.add_argument(
        "--steps", type=int, default=800, help="training steps of the job, one photo and one class image each"
    )
    parser.add_argument(
        "--large-batch", type=int, default=8, help="photos, and class images, of a step whose share of peak is taken"
    )
    parser.add_argument("--large-steps", type=int, default=60, help="such steps")
    parser.add_argument("--peak-tflops", type=float, help="of the device in bf16, where its name is not known")
    parser.add_argument("--trace", type=Path, help="write the profiler's trace to this file")
    parser.add_argument(
        "--scratch", type=Path, help="a folder with 40 GB of room, fast best; default: that of temporary files"
    )
    parser.add_argument("--quick", action="store_true", help="a trial on a tiny model: no figures worth keeping")
    parser.add_argument("--record", type=Path, help="write all figures to this JSON file")
    options = parser.parse_args()
    if options.quick:
        options.images, options.sampler_steps, options.steps, options.large_batch, options.large_steps = 4, 2, 2, 2, 30
    elif not torch.cuda.is_available():
        sys.exit("gpu.py: torch finds no GPU here; --quick tries it out without one")
    return options


if __name__ == "__main__":
    main()
