"""From pictures to figures: the second half of the Evaluate stage.

Pictures are embedded in whole batches of fixed composition, shared out over the ranks and gathered, so that any
number of ranks gives the same figures. What is computed from the embeddings is in `metrics`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from kubooth_trainer.acquire import Acquired
from kubooth_trainer.config import ENCODER_OF, EvaluationConfig, Metric, TrainConfig
from kubooth_trainer.distributed import World
from kubooth_trainer.encoders import Encoders, ImageEncoder, PerceptualDistance, load_encoders
from kubooth_trainer.evaluate import Comparison
from kubooth_trainer.gate import judge_quality
from kubooth_trainer.metrics import Array, Estimate, mean_pairwise, mean_score, similarities, undefined
from kubooth_trainer.progress import Reporter
from kubooth_trainer.quality import TITLES, Figure, FigureName, Overfit, PromptFigure, Quality
from kubooth_trainer.sampling import smallest_portion

BATCH = 16  # pictures embedded at a time; part of what fixes the last bits

Load = Callable[[], Image.Image]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What the pictures are held against: the photos, with their names."""

    names: Sequence[str]
    images: Sequence[Image.Image]


@dataclass(kw_only=True)
class _Embedded:
    """Embeddings of one encoder: of the photos [m, d], and of each prompt's pictures [n, d] on both sides."""

    photos: Array
    before: list[Array] = field(default_factory=list)
    after: list[Array] = field(default_factory=list)


def appraise(
    config: TrainConfig,
    acquired: Acquired,
    comparisons: Sequence[Comparison],
    *,
    world: World,
    reporter: Reporter,
) -> Quality:
    """The figures, why others are not there, and the gate's verdict. Collective."""
    evaluation = config.evaluation
    quality = Quality(photos=len(acquired.subject.photos), images_per_prompt=evaluation.images_per_prompt)
    if acquired.encoders and acquired.unmeasurable is None:
        encoders = load_encoders(acquired.encoders, evaluation.encoders, world.device)
        photos = acquired.subject.photos
        subject = Subject(names=[photo.name for photo in photos], images=[photo.image for photo in photos])
        quality = measure(evaluation, encoders, subject, comparisons, world=world, moved=reporter.moved)
        portion = smallest_portion([encoder.portions for encoder in encoders.all()], world)
        if portion is not None:
            reporter.warn(f"Evaluate: for want of device memory, pictures were measured {portion} at a time")
    quality = replace(quality, absent=_absent(evaluation, acquired))
    if evaluation.gate is not None and evaluation.gate.metrics:
        quality = replace(quality, judgement=judge_quality(evaluation.gate, quality))
    return quality


def _absent(evaluation: EvaluationConfig, acquired: Acquired) -> tuple[str, ...]:
    """Which figures there are not, a sentence each."""
    if acquired.unmeasurable is not None:
        return (f"Nothing was measured: {acquired.unmeasurable}.",)
    if not evaluation.encoders:
        return ("Nothing was measured: the runtime names no encoders (spec.encoders), so judge the pictures by eye.",)
    if not evaluation.metrics:
        return ("Nothing was measured: evaluation.metrics is empty.",)
    lacking = sorted(set(ENCODER_OF.values()) - set(evaluation.encoders))
    sentences = []
    for role in lacking:
        titles = [TITLES[metric] for metric in ENCODER_OF if ENCODER_OF[metric] == role]
        were = "was" if len(titles) == 1 else "were"
        sentences.append(f"{' and '.join(titles)} {were} not measured: the runtime names no spec.encoders.{role}.")
    return tuple(sentences)


def measure(
    evaluation: EvaluationConfig,
    encoders: Encoders,
    subject: Subject,
    comparisons: Sequence[Comparison],
    *,
    world: World,
    moved: Callable[[], None],
) -> Quality:
    """All figures that are asked for and can be computed. Collective. `moved` is called after each batch."""
    asked = set(evaluation.metrics)
    figures: list[Figure] = []
    own = [number for number, each in enumerate(comparisons) if not each.is_class_only]
    of_class = [number for number, each in enumerate(comparisons) if each.is_class_only]
    overfit = None
    if encoders.dino is not None and asked & {"Dino", "Pres"}:
        embedded = _embed(encoders.dino, subject, comparisons, world=world, moved=moved)
        if "Dino" in asked:
            figures.append(_likeness("Dino", embedded, comparisons, own))
            overfit = _overfit(embedded, comparisons, own, subject.names)
        if "Pres" in asked:
            figures.append(_likeness("Pres", embedded, comparisons, of_class))
    if encoders.clip is not None and asked & {"ClipI", "ClipT"}:
        embedded = _embed(encoders.clip, subject, comparisons, world=world, moved=moved)
        if "ClipI" in asked:
            figures.append(_likeness("ClipI", embedded, comparisons, own))
        if "ClipT" in asked:
            texts = encoders.clip.read([each.plain for each in comparisons]).double().numpy()
            figures.append(_fidelity(embedded, texts, comparisons, own))
    if encoders.lpips is not None and "Div" in asked:
        distances = _distances(encoders.lpips, comparisons, world=world, moved=moved)
        figures.append(_diversity("Div", distances, comparisons, own))
        figures.append(_diversity("ClassDiv", distances, comparisons, of_class))
    return Quality(
        figures=tuple(figures),
        overfit=overfit,
        encoders=tuple(encoder.facts for encoder in encoders.all()),
        photos=len(subject.images),
        images_per_prompt=evaluation.images_per_prompt,
    )


def _embed(
    encoder: ImageEncoder,
    subject: Subject,
    comparisons: Sequence[Comparison],
    *,
    world: World,
    moved: Callable[[], None],
) -> _Embedded:
    """Every photo and picture, each embedded once by some rank. Collective."""
    sides = [paths for each in comparisons for paths in (each.before, each.after)]
    loads: list[Load] = [image.copy for image in subject.images] + [_opener(path) for side in sides for path in side]
    batches = [loads[start : start + BATCH] for start in range(0, len(loads), BATCH)]
    rows: list[torch.Tensor] = []
    for start in range(0, len(batches), world.size):
        turn = batches[start : start + world.size]
        padded = torch.zeros(BATCH, encoder.width)
        if world.rank < len(turn):
            mine = turn[world.rank]
            padded[: len(mine)] = encoder.embed([load() for load in mine])
        rows += [made[: len(batch)] for batch, made in zip(turn, world.gather(padded), strict=False)]
        moved()
    flat = torch.cat(rows).double().numpy()
    parts = np.split(flat, np.cumsum([len(subject.images), *map(len, sides)])[:-1])
    return _Embedded(photos=parts[0], before=parts[1::2], after=parts[2::2])


def _distances(
    lpips: PerceptualDistance, comparisons: Sequence[Comparison], *, world: World, moved: Callable[[], None]
) -> list[tuple[Array, Array]]:
    """(before, after) matrices [n, n] of each prompt. Collective: a rank takes one side of a prompt at a time."""
    sides = [paths for each in comparisons for paths in (each.before, each.after)]
    most = max(map(len, sides), default=0)
    made: list[Array] = []
    for start in range(0, len(sides), world.size):
        turn = sides[start : start + world.size]
        padded = torch.zeros(most, most)
        if world.rank < len(turn):
            mine = turn[world.rank]
            padded[: len(mine), : len(mine)] = lpips.distances([_opener(path)() for path in mine])
        gathered = zip(turn, world.gather(padded), strict=False)
        made += [matrix[: len(side), : len(side)].double().numpy() for side, matrix in gathered]
        moved()
    return list(zip(made[::2], made[1::2], strict=True))


def _opener(path: Path) -> Load:
    def load() -> Image.Image:
        with Image.open(path) as image:
            return image.convert("RGB")

    return load


def _likeness(name: Metric, embedded: _Embedded, comparisons: Sequence[Comparison], which: Sequence[int]) -> Figure:
    """DINO and CLIP-I of prompts with the identifier, PRES of those without: mean cosine to the photos."""
    scores = [
        tuple(similarities(side[number], embedded.photos).mean(axis=1) for side in (embedded.before, embedded.after))
        for number in which
    ]
    bound = None
    if name != "Pres":
        among = similarities(embedded.photos, embedded.photos)
        bound = mean_pairwise([among], what="photos")
    prompts = [comparisons[number].prompt for number in which]
    return _scored(name, prompts, scores, pairs_each=len(embedded.photos), bound=bound)


def _fidelity(embedded: _Embedded, texts: Array, comparisons: Sequence[Comparison], which: Sequence[int]) -> Figure:
    """CLIP-T: cosine of each picture with its own prompt."""
    scores = [
        tuple(
            similarities(side[number], texts[number : number + 1])[:, 0] for side in (embedded.before, embedded.after)
        )
        for number in which
    ]
    return _scored("ClipT", [comparisons[number].plain for number in which], scores, pairs_each=1, bound=None)


def _scored(
    name: FigureName,
    prompts: Sequence[str],
    scores: Sequence[tuple[Array, ...]],
    *,
    pairs_each: int,
    bound: Estimate | None,
) -> Figure:
    before, after = [pair[0] for pair in scores], [pair[1] for pair in scores]
    return Figure(
        name=name,
        before=_of(mean_score(before, pairs_each=pairs_each), prompts),
        after=_of(mean_score(after, pairs_each=pairs_each), prompts),
        change=_of(mean_score([b - a for a, b in scores], pairs_each=pairs_each), prompts),
        prompts=tuple(
            PromptFigure(
                prompt=prompt,
                before=mean_score([a], pairs_each=pairs_each),
                after=mean_score([b], pairs_each=pairs_each),
            )
            for prompt, (a, b) in zip(prompts, scores, strict=True)
        ),
        bound=bound,
    )


def _diversity(
    name: FigureName, distances: Sequence[tuple[Array, Array]], comparisons: Sequence[Comparison], which: Sequence[int]
) -> Figure:
    """DIV: mean LPIPS between pictures of one prompt."""
    pairs = [distances[number] for number in which]
    prompts = [comparisons[number].prompt for number in which]
    return Figure(
        name=name,
        before=_of(mean_pairwise([a for a, _ in pairs]), prompts),
        after=_of(mean_pairwise([b for _, b in pairs]), prompts),
        change=_of(mean_pairwise([b - a for a, b in pairs]), prompts),
        prompts=tuple(
            PromptFigure(prompt=prompt, before=mean_pairwise([a]), after=mean_pairwise([b]))
            for prompt, (a, b) in zip(prompts, pairs, strict=True)
        ),
    )


def _of(estimate: Estimate, prompts: Sequence[str]) -> Estimate:
    return estimate if prompts else undefined("no prompt asks for it")


def _overfit(
    embedded: _Embedded, comparisons: Sequence[Comparison], which: Sequence[int], names: Sequence[str]
) -> Overfit | None:
    """The picture that comes nearest to one photo."""
    nearest: list[tuple[float, int, int]] = []
    for side in (embedded.before, embedded.after):
        found = [(number, similarities(side[number], embedded.photos)) for number in which if len(side[number])]
        best = max(((float(s.max()), n, int(s.max(axis=0).argmax())) for n, s in found), default=None)
        if best is None:
            return None
        nearest.append(best)
    among = similarities(embedded.photos, embedded.photos)
    others = among[np.triu_indices(len(among), 1)]
    bound = Estimate(value=float(others.max()), count=len(others)) if len(others) else undefined("one photo only")
    (before, _, _), (after, number, photo) = nearest
    return Overfit(
        before=Estimate(value=before, count=1),
        after=Estimate(value=after, count=1),
        prompt=comparisons[number].prompt,
        photo=names[photo],
        bound=bound,
    )
