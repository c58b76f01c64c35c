"""What the encoders of a job's runtime see in its photos: which class noun fits, and whether one shows another subject.

Called by `acquire` before time is spent. Classes are told zero-shot, as CLIP does it (arXiv 2103.00020, section 3.1.2):
a softmax over the similarities of a photo to "a photo of a NOUN", averaged over the photos.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from kubooth_trainer.class_nouns import CLASS_NOUNS
from kubooth_trainer.config import TrainConfig
from kubooth_trainer.distributed import World
from kubooth_trainer.encoders import Encoders, ImageEncoder, PairEncoder, field_of
from kubooth_trainer.encoders.clip import Clip
from kubooth_trainer.errors import ConfigError
from kubooth_trainer.metrics import Array, similarities
from kubooth_trainer.photo_check import Finding
from kubooth_trainer.subject import Photo

AUTO = "Auto"  # subject.className
BATCH = 16  # photos embedded at a time
SURE = 0.5  # probability below which a chosen noun is said to be a guess
CLEARLY = 0.5  # by so much more another noun has to fit for a given one to be doubted
FEWEST_FOR_OUTLIERS = 3
APART = 0.3
"""Cosine by which a photo's nearest other photo is farther than the others usually are from each other. Drawn subjects
with the bundled DINO, three to five photos: said of 1 set in 100 that is whole, and of a stranger among the photos in
96 sets of 100 where it is of another class, in 86 where it is another subject of the same class."""


@dataclass(frozen=True, kw_only=True)
class Recognized:
    """The class noun to train with; what a person should look at, on rank 0 alone."""

    class_name: str
    findings: tuple[Finding, ...]


def recognize(config: TrainConfig, encoders: Encoders, photos: Sequence[Photo], world: World) -> Recognized:
    """Settles `className: Auto`, doubts a given noun, and names photos of another subject. Collective.

    An encoder of a narrow domain is asked only where it knows such photos. Raises ConfigError for an Auto that no
    CLIP can settle.
    """
    images = [photo.image for photo in photos]
    given = config.subject.class_name
    clip = encoders.clip
    nouns: tuple[str, ...] = ()
    if given == AUTO:
        nouns = _nouns_for_auto(clip, images)
    elif clip is not None and Encoders(clip=clip).why_not(images) is None:
        nouns = _nouns_with(given, clip)
    findings: list[Finding] = []
    chosen = 0
    if world.is_main and nouns:
        assert clip is not None
        fits = class_probabilities(clip, images, nouns)
        chosen = nouns.index(max(fits, key=lambda noun: fits[noun]))
        findings += _doubts(given, fits)
    if given == AUTO:
        chosen = int(world.broadcast(torch.tensor([chosen]))[0])
    if world.is_main and encoders.dino is not None and Encoders(dino=encoders.dino).why_not(images) is None:
        findings += _strangers([photo.name for photo in photos], embedded(encoders.dino, images))
    return Recognized(class_name=nouns[chosen] if given == AUTO else given, findings=tuple(findings))


def with_class(config: TrainConfig, class_name: str) -> TrainConfig:
    """The same job with its class noun settled."""
    return config.model_copy(update={"subject": config.subject.model_copy(update={"class_name": class_name})})


def class_probabilities(clip: PairEncoder, images: Sequence[Image.Image], nouns: Sequence[str]) -> dict[str, float]:
    """Noun to probability: how well each fits the photos, all nouns together 1."""
    texts = clip.read([f"a photo of {_a(noun)}" for noun in nouns])
    logits = clip.scale * similarities(embedded(clip, images), texts.double().numpy())
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    means = (weights / weights.sum(axis=1, keepdims=True)).mean(axis=0)
    return {noun: float(mean) for noun, mean in zip(nouns, means, strict=True)}


def strangers(embeddings: Array) -> list[tuple[int, float, float]]:
    """Photos unlike all others: (row, highest similarity to another, usual similarity among the others).

    `embeddings` [n, d]; fewer than three rows tell nothing, since of two either may be the stranger.
    """
    count = len(embeddings)
    if count < FEWEST_FOR_OUTLIERS:
        return []
    among = similarities(embeddings, embeddings)
    found = []
    for row in range(count):
        others = np.delete(np.arange(count), row)
        rest = among[np.ix_(others, others)][np.triu_indices(count - 1, 1)]
        nearest, usual = float(among[row, others].max()), float(np.median(rest))
        if usual - nearest > APART:
            found.append((row, nearest, usual))
    return found


def embedded(encoder: ImageEncoder, images: Sequence[Image.Image]) -> Array:
    """Embeddings [n, width] of the photos."""
    rows = [encoder.embed(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
    return torch.cat(rows).double().numpy()


def _nouns_for_auto(clip: Clip | None, images: Sequence[Image.Image]) -> tuple[str, ...]:
    name_it = "name the class of the subject, such as dog"
    if clip is None:
        raise ConfigError(f"subject.className: Auto needs {field_of('clip')}; set it there, or {name_it}")
    why = Encoders(clip=clip).why_not(images)
    if why is not None:
        raise ConfigError(f"subject.className: Auto cannot be settled: {why}; or {name_it}")
    return clip.domain.classes if clip.domain and clip.domain.classes else CLASS_NOUNS


def _nouns_with(given: str, clip: Clip) -> tuple[str, ...]:
    """What to hold a given noun against; nothing where the encoder does not know that noun."""
    if clip.domain is not None:
        return clip.domain.classes if given in clip.domain.classes else ()
    return CLASS_NOUNS if given in CLASS_NOUNS else (*CLASS_NOUNS, given)


def _doubts(given: str, fits: Mapping[str, float]) -> list[Finding]:
    best, second = sorted(fits, key=lambda noun: -fits[noun])[:2]
    message = ""
    if given == AUTO and fits[best] < SURE:
        message = (
            f"subject.className: Auto chose {best} ({fits[best]:.2f}) without being sure; next is {second} "
            f"({fits[second]:.2f}). Name the class if {best} is wrong."
        )
    if given != AUTO and fits[best] - fits[given] > CLEARLY:
        message = (
            f"subject.className: the photos look like {_a(best)} ({fits[best]:.2f}) rather than {_a(given)} "
            f"({fits[given]:.2f}): see that the noun fits them."
        )
    return [Finding(message=message)] if message else []


def _a(noun: str) -> str:
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"


def _strangers(names: Sequence[str], embeddings: Array) -> list[Finding]:
    return [
        Finding(
            message=f"{names[row]} looks like another subject than the other photos (DINO similarity {nearest:.2f} at "
            f"most, theirs {usual:.2f}): remove it if it is, or crop it to the subject.",
            photos=(names[row],),
        )
        for row, nearest, usual in strangers(embeddings)
    ]
