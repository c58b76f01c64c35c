"""Named sets of evaluation prompts: `evaluation.promptPack`.

Objects and LiveSubjects are the 25 prompts of the DreamBooth data set for each (google/dreambooth,
`prompts_and_classes.txt`); the others follow the applications of the paper (arXiv 2208.12242, section 4.4).
Called by `resolve`.
"""

from __future__ import annotations

from typing import Literal

PromptPack = Literal[
    "Recontext", "Accessories", "Properties", "Art", "Views", "Expressions", "Crosses", "Objects", "LiveSubjects"
]

CLASS_PROMPT = "a photo of a {class}"
"""Shows whether the class was kept: it closes every pack."""

_SUBJECT = "a {identifier} {class}"
_PLACES = (
    "in the jungle",
    "in the snow",
    "on the beach",
    "on a cobblestone street",
    "on top of pink fabric",
    "on top of a wooden floor",
    "with a city in the background",
    "with a mountain in the background",
    "with a blue house in the background",
    "on top of a purple rug in a forest",
)
_OBJECT_PLACES = (
    "with a wheat field in the background",
    "with a tree and autumn leaves in the background",
    "with the Eiffel Tower in the background",
    "floating on top of water",
    "floating in an ocean of milk",
    "on top of green grass with sunflowers around it",
    "on top of a mirror",
    "on top of the sidewalk in a crowded street",
    "on top of a dirt road",
    "on top of a white rug",
)
_OUTFITS = (
    "wearing a red hat",
    "wearing a santa hat",
    "wearing a rainbow scarf",
    "wearing a black top hat and a monocle",
    "in a chef outfit",
    "in a firefighter outfit",
    "in a police outfit",
    "wearing pink glasses",
    "wearing a yellow shirt",
    "in a purple wizard outfit",
)
_PROPERTIES = tuple(f"a {word} {{identifier}} {{class}}" for word in ("red", "purple", "shiny", "wet", "cube shaped"))
_PAINTERS = ("Vincent van Gogh", "Leonardo da Vinci", "Johannes Vermeer", "Pierre-Auguste Renoir", "Katsushika Hokusai")
_SIDES = ("the top", "the bottom", "the side", "the back")
_MOODS = ("depressed", "sad", "happy", "screaming", "sleeping")
_SPECIES = ("bear", "panda", "koala", "lion", "hippo")


def _each(endings: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{_SUBJECT} {ending}" for ending in endings)


_PACKS: dict[PromptPack, tuple[str, ...]] = {
    "Recontext": _each(_PLACES),
    "Accessories": _each(_OUTFITS),
    "Properties": _PROPERTIES,
    "Art": (
        *(f"a painting of {_SUBJECT} in the style of {painter}" for painter in _PAINTERS),
        f"a statue of {_SUBJECT} in the style of Michelangelo",
    ),
    "Views": _each(tuple(f"seen from {side}" for side in _SIDES)),
    "Expressions": tuple(f"a {mood} {{identifier}} {{class}}" for mood in _MOODS),
    "Crosses": tuple(f"a cross of {_SUBJECT} and a {species}" for species in _SPECIES),
    "Objects": (*_each(_PLACES + _OBJECT_PLACES), *_PROPERTIES),
    "LiveSubjects": (*_each(_PLACES + _OUTFITS), *_PROPERTIES),
}


def prompts_of(pack: PromptPack) -> tuple[str, ...]:
    """The prompts of a pack, with {identifier} and {class} still to be filled in."""
    return (*_PACKS[pack], CLASS_PROMPT)
