"""How well a model follows prompts: `python -m kubooth_world.evaluate`.

Samples one picture for each of 300 prompts whose combination of class, colour, pattern and place was
kept out of training, lets the oracle read them, and prints the share that it reads as asked. The oracle's
own accuracy, on renders of the same combinations, stands beside.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from kubooth_world import dataset, model_path, oracle
from kubooth_world.captions import prompt
from kubooth_world.pixels import to_images, to_tensor
from kubooth_world.scene import is_held_out, sample_instance, sample_scene
from kubooth_world.vocabulary import CLASSES, COLOURS, CONTEXTS, PATTERNS

Images = NDArray[np.uint8]

GUIDANCE_SCALE: Final = 3.0
SAMPLING_STEPS: Final = 25
TARGETS: Final = {"kind": 0.97, "colour": 0.93, "context": 0.98, "pattern": 0.80}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One held-out combination and its prompt."""

    kind: str
    colour: str
    pattern: str
    context: str

    @property
    def prompt(self) -> str:
        """The full description, such as `a photo of a red striped dog in the snow`."""
        return prompt(self.kind, self.colour, self.pattern, self.context)


def held_out_prompts(count: int = 300, seed: int = 0) -> list[Asked]:
    """Return `count` of the held-out combinations, in random order."""
    every = [
        Asked(kind=kind, colour=colour, pattern=pattern, context=context)
        for kind in CLASSES
        for colour in COLOURS
        for pattern in PATTERNS
        for context in CONTEXTS
        if is_held_out(kind, colour, pattern, context)
    ]
    order = np.random.default_rng(seed).permutation(len(every))
    return [every[n] for n in order[:count]]


def sample(
    model: Path,
    prompts: list[str],
    *,
    guidance_scale: float = GUIDANCE_SCALE,
    steps: int = SAMPLING_STEPS,
    seed: int = 0,
    batch: int = 20,
) -> Images:
    """Sample one picture for each prompt with the model's own scheduler: (n, 64, 64, 3) uint8."""
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    pictures = []
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch]
        generators = [torch.Generator().manual_seed(seed + start + n) for n in range(len(part))]
        with torch.autocast("cpu", torch.bfloat16):
            drawn = pipeline(
                part,
                num_inference_steps=steps,
                guidance_scale=guidance_scale,
                generator=generators,
                output_type="pt",
            ).images
        pictures.append(to_images(drawn.float() * 2 - 1))
    return np.concatenate(pictures)


def agreement(judge: oracle.Oracle, images: Images, asked: list[Asked]) -> dict[str, float]:
    """Return the share of pictures that the oracle reads as asked, by attribute."""
    with torch.no_grad():
        reading = judge(to_tensor(images))
    return {
        name: float(np.mean([word == getattr(a, name) for word, a in zip(reading.words(name), asked, strict=True)]))
        for name in TARGETS
    }


def renders_of(asked: list[Asked], seed: int = 0) -> Images:
    """Render fresh scenes of the same combinations: (n, 64, 64, 3) uint8."""
    rng = np.random.default_rng(seed)
    scenes = [
        sample_scene(
            rng, sample_instance(rng, kind=a.kind, colour=a.colour, pattern=a.pattern), context=a.context, hat="none"
        )
        for a in asked
    ]
    return dataset.describe(scenes, rng).images


def grid(images: Images, columns: int) -> Image.Image:
    """Lay pictures of (n, h, w, 3) out in rows."""
    rows = [np.concatenate(list(images[n : n + columns]), axis=1) for n in range(0, len(images), columns)]
    return Image.fromarray(np.concatenate(rows, axis=0))


def evaluate(
    model: Path, judge: oracle.Oracle, *, prompts: int, guidance_scale: float, steps: int, seed: int = 0
) -> tuple[dict[str, Any], Images]:
    """Return the record of an evaluation and its pictures."""
    asked = held_out_prompts(prompts)
    began = time.monotonic()
    images = sample(model, [a.prompt for a in asked], guidance_scale=guidance_scale, steps=steps, seed=seed)
    seconds = time.monotonic() - began
    record = {
        "prompts": len(asked),
        "guidance_scale": guidance_scale,
        "sampling_steps": steps,
        "seed": seed,
        "seconds_per_image": round(seconds / len(asked), 3),
        "samples": _rounded(agreement(judge, images, asked)),
        "renders": _rounded(agreement(judge, renders_of(asked), asked)),
        "targets": TARGETS,
    }
    return record, images


def print_table(record: dict[str, Any]) -> None:
    """Print what the oracle agrees with, in percent."""
    print(f"{'':10}{'samples':>9}{'target':>9}{'oracle on renders':>20}")
    for name, target in TARGETS.items():
        print(f"{name:10}{record['samples'][name]:>9.1%}{target:>9.0%}{record['renders'][name]:>20.1%}")


def main(arguments: list[str] | None = None) -> None:
    """Evaluate a model folder and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=model_path())
    parser.add_argument("--oracle", type=Path, default=None, help="weights; the bundled ones when absent")
    parser.add_argument("--prompts", type=int, default=300)
    parser.add_argument("--guidance", type=float, default=GUIDANCE_SCALE)
    parser.add_argument("--steps", type=int, default=SAMPLING_STEPS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", type=Path, help="write the figures to this JSON file")
    parser.add_argument("--sheet", type=Path, help="write the first 96 samples to this picture")
    options = parser.parse_args(arguments)
    record, images = evaluate(
        options.model,
        oracle.load(options.oracle),
        prompts=options.prompts,
        guidance_scale=options.guidance,
        steps=options.steps,
        seed=options.seed,
    )
    print_table(record)
    if options.record:
        known = json.loads(options.record.read_text()) if options.record.exists() else {}
        options.record.write_text(json.dumps({**known, "evaluation": record}, indent=2) + "\n")
    if options.sheet:
        grid(images[:96], 12).save(options.sheet)


def _rounded(figures: dict[str, float]) -> dict[str, float]:
    return {name: round(figure, 4) for name, figure in figures.items()}


if __name__ == "__main__":
    main()
