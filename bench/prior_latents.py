"""What it changes that training sees class images as the latents they were sampled as, not as pictures encoded again.

    python bench/prior_latents.py --record bench/records/prior_latents.json
    python bench/prior_latents.py --quick                # a trial on random weights

Two jobs on the same class images: one samples them, the other is given its pictures as `prior.uri`. Method:
docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from runs import PHOTOS, Run, keep, model_folder, record_of, resolved, run_job

from kubooth_trainer import latents
from kubooth_trainer.config import TrainConfig
from kubooth_trainer.progress import ProgressEvent, QualityEvent

PROMPTS = ["a photo of a {identifier} {class}", "a photo of a {identifier} {class} in the snow", "a photo of a {class}"]


def main() -> None:
    options = _options()
    load = os.getloadavg()[0]
    with TemporaryDirectory() as folder:
        results = measure(options, Path(folder))
    command = (
        f"python bench/prior_latents.py --model {options.model} --images {options.images} --steps {options.steps}"
        f" --sampler-steps {options.sampler_steps} --pictures {options.pictures}"
    )
    keep(record_of("training on sampled latents of class images", command, results, load=load), options.record)


def measure(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Both jobs, one after the other, and how far their latents are apart."""
    model = model_folder(options.model, scratch)
    sampled = _config(options, model, scratch / "sampled", {})
    runs = {"sampled": run_job(sampled)}
    (pictures,) = (folder for folder in (Path(sampled.workdir) / "prior").iterdir() if folder.is_dir())
    given = scratch / "given"
    given.mkdir()
    for path in pictures.glob("*.png"):
        (given / path.name).write_bytes(path.read_bytes())
    encoded = _config(options, model, scratch / "encoded", {"uri": given.as_uri()})
    runs["encoded"] = run_job(encoded)
    return {
        "images": options.images,
        "steps": options.steps,
        "latents": _distance(sampled, encoded),
        "mean_prior_loss": {name: _prior_loss(run) for name, run in runs.items()},
        "figures_after": {name: _figures(run) for name, run in runs.items()},
        "stages": {name: run.stage_seconds() for name, run in runs.items()},
    }


def _distance(sampled: TrainConfig, encoded: TrainConfig) -> dict[str, float]:
    """Root mean squares over all class images: of the difference, of the values, of the encoder's own deviation."""
    ours, theirs = (_class_latents(config) for config in (sampled, encoded))
    return {
        "difference": float((ours.mean - theirs.mean).square().mean().sqrt()),
        "values": float(ours.mean.square().mean().sqrt()),
        "deviation_of_the_encoder": float(theirs.std.square().mean().sqrt()),
    }


def _class_latents(config: TrainConfig) -> latents.Latents:
    (path,) = (Path(config.workdir) / "latents").glob("*.safetensors")
    return latents.load(path)["class"]


def _prior_loss(run: Run) -> float:
    losses = [event.prior_loss for _, event in run.events if isinstance(event, ProgressEvent)]
    return sum(loss for loss in losses if loss is not None) / len(losses)


def _figures(run: Run) -> dict[str, float]:
    """The measured figures of a result; none on random weights."""
    told = [event for _, event in run.events if isinstance(event, QualityEvent)]
    return {figure.name: figure.after for event in told for figure in event.figures if figure.after is not None}


def _config(options: argparse.Namespace, model: Path, folder: Path, prior: dict[str, Any]) -> TrainConfig:
    sampler = {"steps": options.sampler_steps, "guidanceScale": 3}
    evaluation = {"prompts": PROMPTS, "imagesPerPrompt": options.pictures, "sampler": sampler}
    return resolved(
        folder,
        model,
        subject={
            "className": "dog",
            "identifier": "zqx",
            "images": PHOTOS.as_uri(),
            "promptTemplate": PROMPTS[0],
        },
        prior={"images": options.images, **(prior or {"sampler": sampler})},
        training={"steps": options.steps, "batchSize": 4, "learningRate": 1e-4},
        evaluation=evaluation if options.model != "tiny" else {**evaluation, "metrics": []},
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Training on class latents as sampled, and on encoded class images.")
    parser.add_argument("--model", default="small-world", help="small-world, tiny (random, for trials) or a folder")
    parser.add_argument("--images", type=int, default=64, help="class images")
    parser.add_argument("--steps", type=int, default=250, help="training steps")
    parser.add_argument("--sampler-steps", type=int, default=20)
    parser.add_argument("--pictures", type=int, default=8, help="pictures per prompt to measure")
    parser.add_argument("--quick", action="store_true", help="a trial on random weights: no figures worth keeping")
    parser.add_argument("--record", type=Path, help="write all figures to this JSON file")
    options = parser.parse_args()
    if options.quick:
        options.model, options.images, options.steps, options.sampler_steps, options.pictures = "tiny", 4, 5, 2, 1
    return options


if __name__ == "__main__":
    main()
