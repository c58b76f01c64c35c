"""The pictures before and after: the same prompts and seeds on the base model and on the personalized one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kubooth_trainer.config import TrainConfig, fill_prompt
from kubooth_trainer.distributed import World
from kubooth_trainer.families import Family, load_parts
from kubooth_trainer.plan import Plan
from kubooth_trainer.sampling import Picture, Sampler, make_pictures

BATCH = 8


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One prompt (filled in) and its pictures, pairwise of equal seed. `is_class_only`: without the identifier.

    `plain` is the prompt without the identifier, which means nothing to an encoder of texts.
    """

    prompt: str
    plain: str
    is_class_only: bool
    before: list[Path]
    after: list[Path]


def plan_comparisons(config: TrainConfig, identifier: str, folder: Path) -> list[Comparison]:
    """Which pictures there will be, under `folder`."""
    comparisons = []
    for number, template in enumerate(config.evaluation.prompts):
        images = range(config.evaluation.images_per_prompt)
        comparisons.append(
            Comparison(
                prompt=fill_prompt(template, identifier=identifier, class_name=config.subject.class_name),
                plain=fill_prompt(template, identifier="", class_name=config.subject.class_name),
                is_class_only="{identifier}" not in template,
                before=[folder / "before" / f"{number:03d}-{image:02d}.png" for image in images],
                after=[folder / "after" / f"{number:03d}-{image:02d}.png" for image in images],
            )
        )
    return comparisons


@dataclass(frozen=True, kw_only=True)
class Subjects:
    """The two models that are compared: folders in diffusers layout."""

    family: Family
    base: Path
    trained: Path
    resolution: int


def sample_comparisons(
    config: TrainConfig,
    plan: Plan,
    subjects: Subjects,
    comparisons: list[Comparison],
    *,
    world: World,
    on_progress: Callable[[int], None],
) -> int | None:
    """Makes the missing pictures of both sides, spread over all ranks. Collective.

    Returns the smallest portion in which a device had to make them for want of memory; None: whole batches.
    """
    portions: list[int] = []
    per_side = sum(len(comparison.before) for comparison in comparisons)
    for number, (side, folder) in enumerate((("before", subjects.base), ("after", subjects.trained))):
        pictures = [
            Picture(path=path, prompt=comparison.prompt, seed=(config.training.seed, "evaluate", prompt, image))
            for prompt, comparison in enumerate(comparisons)
            for image, path in enumerate(getattr(comparison, side))
        ]
        if world.all_true([all(picture.path.exists() for picture in pictures)])[0]:
            on_progress(per_side * (number + 1))
            continue
        # No name holds a sampler here: the first model has left the device when the second one comes.
        portion = make_pictures(
            _sampler(config, plan, subjects, folder, world),
            pictures,
            batch=BATCH,
            world=world,
            on_progress=_after(number * per_side, on_progress),
        )
        portions += [portion] if portion is not None else []
    return min(portions, default=None)


def _sampler(config: TrainConfig, plan: Plan, subjects: Subjects, folder: Path, world: World) -> Sampler:
    parts = load_parts(subjects.family, folder, plan.dtype)
    for module in (parts.unet, parts.text, parts.vae):
        module.to(world.device)
    return Sampler(
        subjects.family,
        folder,
        parts,
        config.evaluation.sampler,
        resolution=subjects.resolution,
        negative_prompt="",
    )


def _after(offset: int, on_progress: Callable[[int], None]) -> Callable[[int], None]:
    return lambda done: on_progress(offset + done)
