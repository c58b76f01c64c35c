"""Stage Prepare: the latents of all views."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from PIL import Image

from kubooth_trainer import latents
from kubooth_trainer.acquire import Acquired
from kubooth_trainer.latents import Latents
from kubooth_trainer.prior import ClassImages
from kubooth_trainer.stages.setting import Setting
from kubooth_trainer.subject import crops


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What training sees of the photos and class images."""

    instance: Latents
    class_: Latents | None
    identity: str
    """Of exactly these inputs; checkpoints carry it."""


def prepare(setting: Setting, acquired: Acquired, class_images: ClassImages | None) -> Prepared:
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
    own, sampled = _by_origin(class_images)
    total = len(instance_views) + len(own)
    pixels = latents.images_digest([*instance_views, *own])
    decisive = [config.digest(), acquired.model_digest, acquired.identifier, setting.plan.precision, pixels]
    decisive += [sampled.key or ""] if sampled else []
    identity = hashlib.sha256(" ".join(decisive).encode()).hexdigest()
    path = setting.work / "latents" / f"{identity[:16]}.safetensors"
    reporter.begin("Prepare", total=total, unit="images", note="latents were there" if path.exists() else "")
    if world.leads_node and not path.exists():
        vae = acquired.family.load_vae(acquired.model, setting.plan.dtype).to(world.device).eval()
        made = {"instance": latents.encode(vae, instance_views, on_progress=setting.alone("Prepare"))}
        if own:
            offset = len(instance_views)
            made["class"] = latents.encode(vae, own, on_progress=setting.alone("Prepare", offset))
        elif sampled:
            made["class"] = latents.as_sampled(sampled.latents())
        latents.save(made, path)
    world.barrier()
    kept = latents.load(path)
    reporter.end("Prepare")
    return Prepared(instance=kept["instance"], class_=kept.get("class"), identity=identity)


def _by_origin(class_images: ClassImages | None) -> tuple[list[list[Image.Image]], ClassImages | None]:
    """Views to encode of the user's own class images, or those that were sampled and have latents."""
    if class_images is None or class_images.key is not None:
        return [], class_images
    return [[Image.open(path).convert("RGB")] for path in class_images.paths], None
