"""Scene in, pixels out: the only entry to the drawing code.

The same scene gives the same picture at every size (64 for training, 256 for people), up to resampling.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kubooth_world import animals, things
from kubooth_world.animals import Seat
from kubooth_world.canvas import Canvas, Figure, Points, box, ellipse, moved, polygon, shade
from kubooth_world.contexts import paint_context
from kubooth_world.scene import Scene

SIZE: Final = 64
"""Side of a training picture in pixels."""

_SUBJECTS: Final[dict[str, Callable[[Figure], Seat]]] = {
    "dog": animals.draw_dog,
    "cat": animals.draw_cat,
    "bird": animals.draw_bird,
    "fish": animals.draw_fish,
    "car": things.draw_car,
    "boat": things.draw_boat,
    "house": things.draw_house,
    "mug": things.draw_mug,
    "robot": things.draw_robot,
    "backpack": things.draw_backpack,
}


def render(scene: Scene, size: int = SIZE) -> NDArray[np.uint8]:
    """Render a scene to (size, size, 3) uint8 RGB."""
    canvas = Canvas(size)
    paint_context(canvas, scene.context, scene.context_seed)
    pose = scene.pose
    foot = ellipse(pose.x, pose.y + pose.half_size * 0.93, pose.half_size * 0.9, 0.035)
    canvas.fill(foot, _shadow(canvas))
    figure = Figure(canvas, scene.instance, pose)
    seat = _SUBJECTS[scene.instance.kind](figure)
    if scene.hat != "none":
        _draw_hat(figure, scene.hat, seat)
    return canvas.pixels()


def _shadow(canvas: Canvas) -> tuple[int, int, int]:
    """Return a darker tone of the ground in the middle of the lower edge."""
    red, green, blue = canvas.image.getpixel((canvas.side // 2, canvas.side - 2))  # type: ignore[misc]
    return shade((red, green, blue), 0.72)


def _draw_hat(figure: Figure, hat: str, seat: Seat) -> None:
    x, y, wide, turn = seat

    def seated(points: Points) -> Points:
        return moved(points, turn, x, y)

    if hat == "top hat":
        crown = wide * 0.68
        figure.draw(
            (seated(box(-crown, -0.50, crown, 0.0, 0.03)), (52, 46, 60)),
            (seated(box(-wide * 1.12, -0.06, wide * 1.12, 0.05, 0.05)), (52, 46, 60)),
        )
        figure.draw((seated(box(-crown, -0.20, crown, -0.07)), (206, 52, 62)), ink=0)
    else:
        tip = (wide * 1.0, -0.34)
        figure.draw(
            (
                seated(
                    polygon((-wide * 0.95, 0.0), (-wide * 0.1, -0.56), tip, (wide * 0.5, -0.30), (wide * 0.95, 0.0))
                ),
                (216, 34, 48),
            )
        )
        figure.draw((seated(box(-wide * 1.1, -0.10, wide * 1.1, 0.06, 0.07)), (252, 252, 252)))
        figure.draw((seated(ellipse(*tip, 0.10, 0.10)), (252, 252, 252)))
