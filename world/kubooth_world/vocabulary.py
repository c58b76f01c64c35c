"""The words of the world: what a scene can hold and what a caption can say.

Everything else (renderer, captions, oracle, tokenizer) takes its lists from here. Colours are chosen
far apart, so that a small model can tell them apart and carry them.
"""

from typing import Final

Rgb = tuple[int, int, int]

CLASSES: Final[tuple[str, ...]] = (
    "dog",
    "cat",
    "bird",
    "fish",
    "car",
    "boat",
    "house",
    "mug",
    "robot",
    "backpack",
)

COLOURS: Final[dict[str, Rgb]] = {
    "red": (214, 40, 40),
    "orange": (247, 140, 22),
    "yellow": (252, 220, 62),
    "green": (56, 168, 78),
    "blue": (40, 100, 220),
    "purple": (132, 60, 178),
    "pink": (250, 150, 196),
    "white": (248, 248, 244),
}

PATTERNS: Final[tuple[str, ...]] = ("plain", "striped", "dotted", "checked")

CONTEXTS: Final[dict[str, str]] = {
    "snow": "in the snow",
    "beach": "on the beach",
    "jungle": "in the jungle",
    "city": "in the city",
    "grass": "on the grass",
    "night": "at night",
    "desert": "in the desert",
    "room": "in a room",
}
"""Context name to the phrase that a caption uses."""

HATS: Final[tuple[str, ...]] = ("none", "top hat", "santa hat")

OPENINGS: Final[tuple[str, ...]] = ("a photo of a", "a", "a picture of a", "a drawing of a")
"""How a caption begins."""
