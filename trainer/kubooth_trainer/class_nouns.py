"""Class nouns that a CLIP chooses from for `className: Auto`, and holds a given one against. Read by `recognition`.

The classes of the DreamBooth data set (github.com/google/dreambooth, dataset/prompts_and_classes.txt), what the bundled
small world draws, and a few more kinds of which people have photos. "person" stands for all people: whose photos they
are is for the requester to say.
"""

from __future__ import annotations

OF_DREAMBOOTH = (
    "backpack", "stuffed animal", "bowl", "can", "candle", "cat", "clock", "sneaker", "dog", "toy", "boot", "glasses",
    "cartoon", "teapot", "vase",
)  # fmt: skip
OF_THE_SMALL_WORLD = ("dog", "cat", "bird", "fish", "car", "boat", "house", "mug", "robot", "backpack")
OTHERS = (
    "person", "horse", "rabbit", "bicycle", "motorcycle", "guitar", "chair", "lamp", "bag", "hat", "shirt", "dress",
    "watch", "bottle", "plant", "painting", "logo",
)  # fmt: skip

CLASS_NOUNS: tuple[str, ...] = tuple(dict.fromkeys((*OF_DREAMBOOTH, *OF_THE_SMALL_WORLD, *OTHERS)))
