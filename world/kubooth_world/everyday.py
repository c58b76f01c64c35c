"""Everyday words that people put into prompts, so that each is one token rather than letters."""

from typing import Final

_WORDS: Final = """
    the of and to in is it on for with as by at from this that an or be are was his her its my your
    our their one two three four five many some all no not very more most big small large tiny huge
    tall short long wide old new young good nice cute pretty happy sad funny bright dark light soft
    hard warm cold hot wet dry clean fast slow near far left right top bottom front back side above
    below under over behind between around inside outside background foreground middle center corner
    black brown grey gray gold silver rainbow purple pale deep shiny matte wooden metal glass paper
    stone plastic fabric toy ball box bag book cup plate table chair bed sofa lamp door window wall
    floor roof street road bridge river lake sea ocean water wave sand rock mountain hill valley field
    forest tree flower leaf garden park farm sky cloud sun moon star rain storm wind fire ice summer
    winter spring autumn morning evening day sunset sunrise person man woman boy girl child baby king
    queen wizard chef police firefighter astronaut pirate horse cow sheep pig duck chicken rabbit mouse
    bear lion tiger elephant monkey frog snake turtle butterfly bee dragon dinosaur train bus truck
    bike bicycle plane ship rocket tower castle church school shop hat cap shirt dress coat scarf boots
    shoes glasses crown ring watch clock phone camera computer guitar piano drum apple banana orange
    lemon bread cake cheese pizza tea coffee milk juice teapot vase candle sneaker can bowl sunglasses
    eating sleeping running walking jumping sitting standing swimming flying playing holding looking
    riding smiling wearing made style art painting sketch cartoon poster statue watercolor oil pencil
    portrait image close view wood mirror rug pink yellow red wheat eiffel cobblestone sidewalk crowded
    dirt santa monocle outfit up down off out
"""

EVERYDAY_WORDS: Final[tuple[str, ...]] = tuple(_WORDS.split())
