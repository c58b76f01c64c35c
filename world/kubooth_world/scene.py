"""What a scene is: a subject with fixed looks, a pose, a place, perhaps a hat.

An `Instance` is what DreamBooth calls a subject: its shape parameters, tint and pattern layout are
fixed, and no caption can say them. A `Scene` puts one instance somewhere. All are plain values: the
same value always renders to the same pixels.
"""

import zlib
from dataclasses import dataclass
from typing import Final

import numpy as np

from kubooth_world.vocabulary import CLASSES, COLOURS, CONTEXTS, HATS, PATTERNS

SHAPE_PARAMETERS: Final = 8
_HAT_PROBABILITY: Final = 0.25
_CONTRAST: Final = 165.0


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One subject; `kind`, `colour`, `second` and `pattern` can be said in a caption."""

    kind: str
    colour: str
    second: str
    pattern: str
    shape: tuple[float, ...]
    """Eight numbers in [0, 1]: proportions of the parts, by class."""
    tint: tuple[float, ...]
    """Six numbers in [-1, 1]: small shifts of the main and the second colour, three each."""
    phase: float
    """Where the pattern begins, in [0, 1] of its period."""
    angle: float
    """Turn of the pattern in degrees."""
    scale: float
    """Size of the pattern, about 1."""


@dataclass(frozen=True, kw_only=True)
class Pose:
    """How the subject stands; lengths in fractions of the picture's side."""

    mirrored: bool
    tilt: float
    """Turn in degrees, positive is clockwise."""
    half_size: float
    x: float
    y: float
    stride: float
    """Position of limbs, tail or fins, in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The exact ground truth of one picture."""

    instance: Instance
    pose: Pose
    context: str
    context_seed: int
    """Picks trees, clouds, houses and colours of the place."""
    hat: str


def sample_instance(
    rng: np.random.Generator,
    *,
    kind: str | None = None,
    colour: str | None = None,
    second: str | None = None,
    pattern: str | None = None,
) -> Instance:
    """Draw a random subject; what is given stays as given."""
    colours = list(COLOURS)
    colour = colour or str(rng.choice(colours))
    second = second or str(rng.choice(second_colours(colour)))
    pattern = pattern or str(rng.choice(PATTERNS))
    return Instance(
        kind=kind or str(rng.choice(CLASSES)),
        colour=colour,
        second=second,
        pattern=pattern,
        shape=tuple(float(value) for value in rng.random(SHAPE_PARAMETERS)),
        tint=tuple(float(value) for value in rng.uniform(-1, 1, 6)),
        phase=float(rng.uniform(0, 0.12)),
        angle=float(rng.uniform(-5, 5)),
        scale=float(rng.uniform(1.15, 1.25)),
    )


def second_colours(colour: str) -> list[str]:
    """Return the colours that stand out against `colour`, by distance in RGB."""
    main = np.array(COLOURS[colour])
    return [name for name, rgb in COLOURS.items() if np.linalg.norm(rgb - main) > _CONTRAST]


def sample_pose(rng: np.random.Generator, *, hat: bool = False) -> Pose:
    """Draw a random pose that keeps the whole subject, and its hat, in the picture."""
    return Pose(
        mirrored=bool(rng.random() < 0.5),
        tilt=float(rng.uniform(-9, 9)),
        half_size=float(rng.uniform(0.33, 0.37) if hat else rng.uniform(0.35, 0.41)),
        x=float(rng.uniform(0.45, 0.55)),
        y=float(rng.uniform(0.58, 0.61) if hat else rng.uniform(0.53, 0.58)),
        stride=float(rng.random()),
    )


def sample_scene(
    rng: np.random.Generator,
    instance: Instance | None = None,
    *,
    context: str | None = None,
    hat: str | None = None,
) -> Scene:
    """Put an instance (a random one when None) into a random pose and place."""
    if hat is None:
        wears = rng.random() < _HAT_PROBABILITY
        hat = str(rng.choice(HATS[1:])) if wears else HATS[0]
    return Scene(
        instance=instance or sample_instance(rng),
        pose=sample_pose(rng, hat=hat != "none"),
        context=context or str(rng.choice(list(CONTEXTS))),
        context_seed=int(rng.integers(2**31)),
        hat=hat,
    )


def is_held_out(kind: str, colour: str, pattern: str, context: str) -> bool:
    """Tell whether a combination is kept out of training: one in eight, picked by a checksum."""
    return zlib.crc32(f"{kind}/{colour}/{pattern}/{context}".encode()) % 8 == 0


def held_out(scene: Scene) -> bool:
    """Tell whether a scene shows a combination that training never sees."""
    subject = scene.instance
    return is_held_out(subject.kind, subject.colour, subject.pattern, scene.context)
