"""What `test_measure` measures; run by torchrun it is one of several ranks, and leaves its figures in a file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from PIL import Image

from kubooth_trainer.config import EvaluationConfig, SamplerConfig
from kubooth_trainer.distributed import World
from kubooth_trainer.encoders import load_encoders
from kubooth_trainer.evaluate import Comparison
from kubooth_trainer.measure import Subject, measure

EVALUATION = EvaluationConfig(
    prompts=("a {identifier} {class} in the snow", "a {identifier} {class} on the beach", "a photo of a {class}"),
    images_per_prompt=3,
    sampler=SamplerConfig(name="DDIM", steps=1, guidance_scale=1.0),
    metrics=("Dino", "ClipI", "ClipT", "Pres", "Div"),
    encoders={},
    gate=None,
    best_checkpoint=None,
)


def comparisons_in(folder: Path) -> list[Comparison]:
    return [
        Comparison(
            prompt=template.replace("{identifier}", "zqx").replace("{class}", "dog"),
            plain=" ".join(template.replace("{identifier}", "").replace("{class}", "dog").split()),
            is_class_only="{identifier}" not in template,
            before=[folder / "before" / f"{number}-{index}.png" for index in range(3)],
            after=[folder / "after" / f"{number}-{index}.png" for index in range(3)],
        )
        for number, template in enumerate(EVALUATION.prompts)
    ]


def main() -> None:
    folder, folders = Path(sys.argv[1]), {role: Path(path) for role, path in json.loads(sys.argv[2]).items()}
    dist.init_process_group("gloo")
    rank, cpu = dist.get_rank(), torch.device("cpu")
    world = World(rank=rank, size=dist.get_world_size(), local_rank=rank, local_size=2, device=cpu)
    encoders = load_encoders(folders, {role: path.as_uri() for role, path in folders.items()}, cpu)  # type: ignore[arg-type,misc]
    names = [f"photo-{index}.png" for index in range(3)]
    subject = Subject(names=names, images=[Image.open(folder / name) for name in names])
    quality = measure(EVALUATION, encoders, subject, comparisons_in(folder), world=world, moved=lambda: None)
    (folder / f"rank-{rank}.json").write_text(json.dumps(quality.flat()))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
