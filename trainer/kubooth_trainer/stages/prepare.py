"""Stage Prepare: the latents of all views."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from PIL import Image

from kubooth_trainer import latents
from kubooth_trainer.acquire import Acquired
from kubooth_trainer.class_images import ClassImages
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
    photos, views = list(chain.from_iterable(instance_views)), len(instance_views[0])
    own, sampled = _by_origin(class_images)
    total = len(instance_views) + len(own)
    pixels = latents.images_digest(chain(photos, _opened(own)))
    decisive = [config.digest(), acquired.model_digest, acquired.identifier, setting.plan.precision, pixels]
    decisive += [sampled.key or ""] if sampled else []
    if config.training.captions:
        decisive.append(hashlib.sha256("\0".join(acquired.instance_prompts).encode()).hexdigest())
    identity = hashlib.sha256(" ".join(decisive).encode()).hexdigest()
    path = setting.work / "latents" / f"{identity[:16]}.safetensors"
    reporter.begin("Prepare", total=total, unit="images", note="latents were there" if path.exists() else "")
    if world.leads_node and not path.exists():
        vae = acquired.family.load_vae(acquired.model, setting.plan.dtype).to(world.device).eval()
        made = {"instance": latents.encode(vae, photos, views=views, on_progress=setting.alone("Prepare"))}
        if own:
            on_progress = setting.alone("Prepare", len(instance_views))
            made["class"] = latents.encode(vae, _opened(own), views=1, on_progress=on_progress)
        elif sampled:
            made["class"] = latents.as_sampled(sampled.latents())
        latents.save(made, path)
    world.barrier()
    kept = latents.load(path)
    reporter.end("Prepare")
    return Prepared(instance=kept["instance"], class_=kept.get("class"), identity=identity)


def _by_origin(class_images: ClassImages | None) -> tuple[Sequence[Path], ClassImages | None]:
    """The user's own class images, which are to be encoded, or those that were sampled and have latents."""
    if class_images is None or class_images.key is not None:
        return (), class_images
    return class_images.paths, None


def _opened(paths: Iterable[Path]) -> Iterator[Image.Image]:
    """One after the other: there may be thousands."""
    return (Image.open(path).convert("RGB") for path in paths)
