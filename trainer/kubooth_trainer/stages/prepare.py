"""Stage Prepare: the latents of all views."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from kubooth_trainer import latents
from kubooth_trainer.acquire import Acquired
from kubooth_trainer.latents import Latents
from kubooth_trainer.stages.setting import Setting
from kubooth_trainer.subject import crops


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What training sees of the photos and class images."""

    instance: Latents
    class_: Latents | None
    identity: str
    """Of exactly these inputs; checkpoints carry it."""


def prepare(setting: Setting, acquired: Acquired, class_images: list[Path]) -> Prepared:
    """Encodes all views, or takes the latents that are there. Collective."""
    config, world, reporter = setting.config, setting.world, setting.reporter
    instance_views = [
        crops(
            photo,
            resolution=acquired.resolution,
            crop=config.subject.crop,
            flip=config.subject.flip,
            seed=config.training.seed,
        )
        for photo in acquired.subject.photos
    ]
    class_views = [[Image.open(path).convert("RGB")] for path in class_images]
    total = len(instance_views) + len(class_views)
    pixels = latents.images_digest([*instance_views, *class_views])
    decisive = f"{config.digest()} {acquired.model_digest} {acquired.identifier} {setting.plan.precision} {pixels}"
    identity = hashlib.sha256(decisive.encode()).hexdigest()
    path = setting.work / "latents" / f"{identity[:16]}.safetensors"
    reporter.begin("Prepare", total=total, unit="images", note="latents were there" if path.exists() else "")
    if world.leads_node and not path.exists():
        vae = acquired.family.load_vae(acquired.model, setting.plan.dtype).to(world.device).eval()
        made = {"instance": latents.encode(vae, instance_views, on_progress=setting.alone("Prepare"))}
        if class_views:
            offset = len(instance_views)
            made["class"] = latents.encode(vae, class_views, on_progress=setting.alone("Prepare", offset))
        latents.save(made, path)
    world.barrier()
    kept = latents.load(path)
    reporter.end("Prepare")
    return Prepared(instance=kept["instance"], class_=kept.get("class"), identity=identity)
