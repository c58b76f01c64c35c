"""Stage Prior: the class images, the user's own or sampled from the frozen model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from kubooth_trainer.acquire import Acquired, Fetcher
from kubooth_trainer.class_images import ClassImages, class_image_paths, drop_damaged
from kubooth_trainer.errors import BadSubjectError
from kubooth_trainer.families import load_parts
from kubooth_trainer.photo_files import photo_files, read_photos
from kubooth_trainer.prior import PriorMaker, PriorProgress, describe_prior, prior_key, prior_words
from kubooth_trainer.prior_cache import PriorCache, open_storage
from kubooth_trainer.progress import PriorEvent
from kubooth_trainer.sampling import Sampler
from kubooth_trainer.stages.setting import Setting
from kubooth_trainer.subject import crops, unpack_subject


def make_class_images(setting: Setting, acquired: Acquired, fetcher: Fetcher) -> ClassImages:
    """Class images: the user's own, or sampled from the frozen model where they are not whole already."""
    config, world, reporter = setting.config, setting.world, setting.reporter
    if config.prior.uri is not None:
        return _own_class_images(setting, acquired, fetcher)
    decisive = describe_prior(
        config, model_digest=acquired.model_digest, resolution=acquired.resolution, precision=setting.plan.precision
    )
    key = prior_key(decisive)
    folder = setting.work / "prior" / key[:16]
    if world.leads_node:
        dropped = drop_damaged(folder, config.prior.images)
        if dropped:
            reporter.warn(f"{dropped} damaged class images were dropped and are made again")
    world.barrier()
    paths = class_image_paths(folder, config.prior.images)
    ready = sum(path.exists() for path in paths)
    reporter.begin("Prior", total=len(paths), unit="images", done=ready, note=f"{ready} were there" if ready else "")
    cache = _shared_cache(setting, key, acquired.resolution)
    maker = PriorMaker(
        config, folder, world=world, cache=cache, load=lambda: _prior_sampler(setting, acquired)
    )  # fmt: skip

    def made(images: int) -> None:
        reporter.advance("Prior", images)
        setting.watchdog.beat()

    progress = PriorProgress(
        moved=setting.moved_alone,
        made=made,
        advance=setting.progress("Prior"),
        stopping=lambda: setting.stop.requested_here,
    )
    try:
        count = maker.run(progress)
    finally:
        if cache is not None:
            cache.close(about=decisive)
    reporter.end("Prior", note=prior_words(count, ready))
    source: Literal["Hit", "Partial", "Generated"] = "Generated"
    if count.made < len(paths):
        source = "Partial" if count.made else "Hit"
    saved = count.seconds_saved
    reporter.emit(PriorEvent(source=source, images=len(paths), cache_key=key, seconds_saved=saved))
    return ClassImages(paths=paths, key=key)


def _own_class_images(setting: Setting, acquired: Acquired, fetcher: Fetcher) -> ClassImages:
    config, reporter = setting.config, setting.reporter
    assert config.prior.uri is not None
    reporter.begin("Prior", total=config.prior.images, unit="images")
    source = fetcher.fetch(config.prior.uri, setting.work / "class-images")
    try:
        folder = unpack_subject(source, setting.work / f"unpacked-class-{setting.world.local_rank}")
        files = photo_files(folder)[0][: config.prior.images]
        paths = class_image_paths(setting.work / "prior" / "own", len(files))
        if setting.world.leads_node:
            _write_views(files, paths, resolution=acquired.resolution, on_progress=setting.alone("Prior"))
    except BadSubjectError as error:
        raise BadSubjectError(f"prior.uri: {str(error).removeprefix('subject.images: ')}") from error
    if len(files) < config.prior.images:
        reporter.warn(f"prior.uri holds {len(files)} class images; prior.images asks for {config.prior.images}")
    setting.world.barrier()
    reporter.end("Prior", note=f"{len(files)} of your own")
    reporter.emit(PriorEvent(source="Provided", images=len(files), cache_key=None))
    return ClassImages(paths=paths, key=None)


def _write_views(files: list[Path], paths: list[Path], *, resolution: int, on_progress: Callable[[int], None]) -> None:
    """One square view of each picture. One at a time: there may be thousands."""
    for place, (photo, _) in enumerate(read_photos(files, resolution=resolution, captions=False)):
        (view,) = crops(photo, resolution=resolution, crop="Center", flip=False, seed=0)
        paths[place].parent.mkdir(parents=True, exist_ok=True)
        view.save(paths[place])
        on_progress(place + 1)


def _shared_cache(setting: Setting, key: str, resolution: int) -> PriorCache | None:
    """The cache that jobs share, on rank 0, where there is one."""
    config = setting.config
    if config.prior.cache is None or not setting.world.is_main:
        return None
    storage = open_storage(config.storage)
    return PriorCache(storage, config.prior.cache, key=key, resolution=resolution, warn=setting.reporter.warn)


def _prior_sampler(setting: Setting, acquired: Acquired) -> Sampler:
    prior = setting.config.prior
    parts = load_parts(acquired.family, acquired.model, setting.plan.dtype)
    for module in (parts.unet, parts.text, parts.vae):
        module.to(setting.world.device)
    return Sampler(
        acquired.family,
        acquired.model,
        parts,
        prior.sampler,
        resolution=acquired.resolution,
        negative_prompt=prior.negative_prompt,
    )
