"""A whole job from process start to a saved model, cold and with a warm prior cache, against a straightforward one.

    python bench/whole_job.py --record bench/records/whole_job.json
    python bench/whole_job.py --quick                    # a trial on random weights

Method: docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from runs import PHOTOS, Run, keep, model_folder, record_of, resolved, run_command, run_job

from kubooth_trainer.config import TrainConfig, fill_prompt

PLAIN_JOB = Path(__file__).with_name("plain_job.py")
USUAL = {"bf16": False, "sampler_steps": 50, "sample_batch": 4}  # defaults of the usual public script
TARGETS = {"usual / cold": 4.0, "usual / warm": 10.0, "equal / cold": 1.5, "equal / warm": 4.0}


def main() -> None:
    options = _options()
    load = os.getloadavg()[0]
    with TemporaryDirectory() as folder:
        scratch = Path(folder)
        results = measure(options, model_folder(options.model, scratch), scratch)
    sizes = f"--model {Path(options.model).name} --images {options.images} --steps {options.steps}"
    command = f"python bench/whole_job.py {sizes} --batch {options.batch} --sampler-steps {options.sampler_steps}"
    keep(record_of("seconds and memory of a whole job", command, results, load=load), options.record)


def measure(options: argparse.Namespace, model: Path, scratch: Path) -> dict[str, Any]:
    """Each job once, one after the other: warm comes after cold and finds its class images."""
    cold = _config(options, model, scratch / "cold")
    runs = {"cold": run_job(cold), "warm": run_job(_config(options, model, scratch / "warm"))}
    facts = {event.key: event.value for _, event in runs["cold"].events if event.type == "info"}  # type: ignore[union-attr]
    bf16 = facts["precision"] == "BF16"
    equal = {"bf16": bf16, "sampler_steps": options.sampler_steps, "sample_batch": 8}
    runs["usual"] = _plain(cold, options, scratch / "usual", USUAL)
    runs["equal"] = _plain(cold, options, scratch / "equal", equal)
    return {
        "job": {
            "images": options.images,
            "steps": options.steps,
            "batch": options.batch,
            "precision": facts["precision"],
        },
        "plain": {"usual": USUAL, "equal": equal},
        "seconds": {name: round(run.seconds, 2) for name, run in runs.items()},
        "stages": {name: runs[name].stage_seconds() for name in ("cold", "warm")},
        "peak_mib": {name: round(run.peak_mib) for name, run in runs.items()},
        "ratios": {
            name: {"ratio": round(_ratio(runs, name), 2), "target_with_amx": target} for name, target in TARGETS.items()
        },
    }


def _ratio(runs: dict[str, Run], name: str) -> float:
    slow, fast = name.split(" / ")
    return runs[slow].seconds / runs[fast].seconds


def _config(options: argparse.Namespace, model: Path, folder: Path) -> TrainConfig:
    return resolved(
        folder,
        model,
        prior={"images": options.images, "sampler": {"steps": options.sampler_steps}},
        training={"steps": options.steps, "batchSize": options.batch},
    )


def _plain(config: TrainConfig, options: argparse.Namespace, folder: Path, sampling: dict[str, Any]) -> Run:
    """The straightforward job with the same hyper-parameters."""
    folder.mkdir()
    training, prior, model = config.training, config.prior, Path(config.model.uri.removeprefix("file://"))
    unet, vae = (json.loads((model / part / "config.json").read_text()) for part in ("unet", "vae"))
    words = {"identifier": config.subject.identifier or "", "class_name": config.subject.class_name}
    setting = {
        "model": str(model),
        "photos": str(PHOTOS),
        "class_images": str(folder / "class"),
        "prompt": fill_prompt(config.subject.prompt_template, **words),
        "class_prompt": fill_prompt(prior.prompt, **words),
        "batch": training.batch_size,
        "resolution": unet["sample_size"] * 2 ** (len(vae["block_out_channels"]) - 1),
        "learning_rate": training.learning_rate,
        "prior_weight": prior.weight,
        "max_grad_norm": training.max_grad_norm,
        "text_encoder_trained": training.train_text_encoder,
        "bf16": sampling["bf16"],
        "seed": training.seed,
        "job": {
            "images": options.images,
            "sampler_steps": sampling["sampler_steps"],
            "sample_batch": sampling["sample_batch"],
            "guidance_scale": prior.sampler.guidance_scale,
            "steps": options.steps,
            "output": str(folder / "output"),
        },
    }
    if options.quick:
        setting["job"]["sampler_steps"] = min(setting["job"]["sampler_steps"], options.sampler_steps)
    path = folder / "setting.json"
    path.write_text(json.dumps(setting))
    run = run_command([sys.executable, str(PLAIN_JOB), str(path)], path)
    if run.code:
        raise RuntimeError(f"the straightforward job failed: {path.with_suffix('.log').read_text()[-3000:]}")
    return run


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A whole job of ours against a straightforward one.")
    parser.add_argument("--model", default="small-world", help="small-world, tiny (random, for trials) or a folder")
    parser.add_argument("--images", type=int, default=80, help="class images")
    parser.add_argument("--steps", type=int, default=100, help="training steps")
    parser.add_argument("--batch", type=int, default=4, help="instance images per step; as many class images join them")
    parser.add_argument("--sampler-steps", type=int, default=25, help="of ours, and of the equal straightforward job")
    parser.add_argument("--quick", action="store_true", help="a trial on random weights: no figures worth keeping")
    parser.add_argument("--record", type=Path, help="write all figures to this JSON file")
    options = parser.parse_args()
    if options.quick:
        options.model, options.images, options.steps, options.batch, options.sampler_steps = "tiny", 4, 2, 1, 2
    return options


if __name__ == "__main__":
    main()
