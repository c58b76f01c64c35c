"""A whole job the straightforward way, as one process: `plain_job.py SETTING.json`. Started by `whole_job.py`.

What the usual public script does: class images by the pipeline, one process, one batch after the other, saved as
files; then `plain_loop.train`; then the pipeline saved. No evaluation, no report, no checkpoints.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from plain_loop import PlainSetting, train


class _EndError(Exception):
    """All steps are done."""


def main() -> None:
    from diffusers import DiffusionPipeline

    raw = json.loads(Path(sys.argv[1]).read_text())
    job = raw.pop("job")
    setting = PlainSetting(**{**raw, **{name: Path(raw[name]) for name in ("model", "photos", "class_images")}})
    setting.class_images.mkdir(parents=True, exist_ok=True)
    missing = job["images"] - len(list(setting.class_images.iterdir()))
    if missing > 0:
        dtype = torch.bfloat16 if setting.bf16 else torch.float32
        pipeline = DiffusionPipeline.from_pretrained(setting.model, torch_dtype=dtype, safety_checker=None)
        pipeline.set_progress_bar_config(disable=True)
        torch.manual_seed(setting.seed)
        for start in range(0, missing, job["sample_batch"]):
            count = min(job["sample_batch"], missing - start)
            pictures = pipeline(
                [setting.class_prompt] * count,
                num_inference_steps=job["sampler_steps"],
                guidance_scale=job["guidance_scale"],
                height=setting.resolution,
                width=setting.resolution,
            ).images
            for index, picture in enumerate(pictures, start):
                picture.save(setting.class_images / f"{index:05d}.png")
        del pipeline
    done = 0

    def on_step(loss: float) -> None:
        nonlocal done
        done += 1
        if done == job["steps"]:
            raise _EndError

    try:
        train(setting, on_step)
    except _EndError:
        DiffusionPipeline.from_pretrained(setting.model, safety_checker=None).save_pretrained(job["output"])


if __name__ == "__main__":
    main()
