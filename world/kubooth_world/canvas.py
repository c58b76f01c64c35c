"""Drawing with cartoon outlines: shapes as point lists, parts of a figure, patterned paint.

Pictures are drawn four times larger than asked and reduced at the end. Lengths are fractions of the
picture's side on a `Canvas` and units of the subject's half size (-1 to 1, y down) in a `Figure`.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from kubooth_world.scene import Instance, Pose
from kubooth_world.vocabulary import COLOURS, Rgb

Points = NDArray[np.float64]
"""(n, 2) x and y."""

SUPERSAMPLING: Final = 4
INK: Final[Rgb] = (38, 30, 48)
_OUTLINE: Final = 0.017
_TINT: Final = 9.0


def polygon(*corners: tuple[float, float]) -> Points:
    """Return corners as points."""
    return np.asarray(corners, dtype=np.float64)


def ellipse(x: float, y: float, rx: float, ry: float, degrees: float = 0.0) -> Points:
    """Return an ellipse around (x, y), turned by `degrees`."""
    t = np.linspace(0, 2 * math.pi, 36, endpoint=False)
    points = np.stack([rx * np.cos(t), ry * np.sin(t)], axis=1)
    return moved(points, degrees, x, y)


def rotate(points: Points, degrees: float) -> Points:
    """Turn points about the origin; positive is clockwise, since y points down."""
    a = math.radians(degrees)
    turn = np.array([[math.cos(a), math.sin(a)], [-math.sin(a), math.cos(a)]])
    return np.asarray(points @ turn, dtype=np.float64)


def moved(points: Points, degrees: float, x: float, y: float) -> Points:
    """Turn points about the origin, then shift them by (x, y)."""
    return np.asarray(rotate(points, degrees) + np.array([x, y]), dtype=np.float64)


def blob(*corners: tuple[float, float]) -> Points:
    """Return a smooth closed curve through the corners (Catmull-Rom)."""
    p1 = np.asarray(corners, dtype=np.float64)
    p0, p2, p3 = np.roll(p1, 1, axis=0), np.roll(p1, -1, axis=0), np.roll(p1, -2, axis=0)
    t = np.linspace(0, 1, 8, endpoint=False)[None, :, None]
    p0, p1, p2, p3 = (p[:, None, :] for p in (p0, p1, p2, p3))
    curve = 0.5 * (2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3)
    return np.asarray(curve.reshape(-1, 2))


def box(x0: float, y0: float, x1: float, y1: float, radius: float = 0.0) -> Points:
    """Return a rectangle with rounded corners."""
    if radius <= 0:
        return polygon((x0, y0), (x1, y0), (x1, y1), (x0, y1))
    t = np.linspace(0, math.pi / 2, 6)
    arc = np.stack([np.cos(t), np.sin(t)], axis=1) * radius
    corners = []
    for n, (x, y) in enumerate(
        ((x1 - radius, y1 - radius), (x0 + radius, y1 - radius), (x0 + radius, y0 + radius), (x1 - radius, y0 + radius))
    ):
        corners.append(rotate(arc, 90.0 * n) + np.array([x, y]))
    return np.concatenate(corners)


def capsule(x0: float, y0: float, x1: float, y1: float, radius: float) -> Points:
    """Return a thick line with round ends."""
    length = math.hypot(x1 - x0, y1 - y0)
    t = np.linspace(-math.pi / 2, math.pi / 2, 9)
    cap = np.stack([np.cos(t), np.sin(t)], axis=1) * radius
    end, start = cap + np.array([length, 0]), -cap
    degrees = math.degrees(math.atan2(y1 - y0, x1 - x0))
    return moved(np.concatenate([end, start]), degrees, x0, y0)


def shade(colour: Rgb, factor: float) -> Rgb:
    """Darken (factor below 1) or lighten towards white (above 1) a colour."""
    if factor <= 1:
        return (int(colour[0] * factor), int(colour[1] * factor), int(colour[2] * factor))
    mix = factor - 1
    return (
        int(colour[0] + (255 - colour[0]) * mix),
        int(colour[1] + (255 - colour[1]) * mix),
        int(colour[2] + (255 - colour[2]) * mix),
    )


class Canvas:
    """A square picture; coordinates are fractions of its side, y down."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.side = size * SUPERSAMPLING
        self.image = Image.new("RGB", (self.side, self.side))
        self.pen = ImageDraw.Draw(self.image)

    def fill(self, points: Points, colour: Rgb) -> None:
        """Fill a closed shape."""
        self.pen.polygon(_flat(points * self.side), fill=colour)

    def inked(self, points: Points, colour: Rgb, width: float = _OUTLINE) -> None:
        """Fill a closed shape and draw its outline."""
        self.outline(points, width)
        self.fill(points, colour)

    def outline(self, points: Points, width: float = _OUTLINE, colour: Rgb = INK) -> None:
        """Draw a closed line, `width` to each side of the edge, and what it encloses."""
        closed = np.concatenate([points, points[:2]]) * self.side
        self.pen.polygon(_flat(points * self.side), fill=colour)
        self.pen.line(_flat(closed), fill=colour, width=max(1, round(2 * width * self.side)), joint="curve")

    def pixels(self) -> NDArray[np.uint8]:
        """Return the finished picture, (size, size, 3) uint8."""
        return np.asarray(self.image.reduce(SUPERSAMPLING))


class Figure:
    """The subject on a canvas: parts in groups that share one outline, painted with its colours."""

    def __init__(self, canvas: Canvas, instance: Instance, pose: Pose) -> None:
        self.canvas = canvas
        self.instance = instance
        self.pose = pose
        self.main = _tinted(COLOURS[instance.colour], instance.tint[:3])
        self.second = _tinted(COLOURS[instance.second], instance.tint[3:])
        self._cloth: Image.Image | None = None

    def place(self, points: Points) -> Points:
        """Map subject units to fractions of the picture."""
        turned = rotate(points, self.pose.tilt)
        if self.pose.mirrored:
            turned = turned * np.array([-1.0, 1.0])
        return np.asarray(turned * self.pose.half_size + np.array([self.pose.x, self.pose.y]))

    def draw(self, *parts: tuple[Points, Rgb | None], ink: float = _OUTLINE) -> None:
        """Draw a group of parts under one common outline; a part without colour gets the pattern."""
        placed = [(self.place(points), colour) for points, colour in parts]
        if ink > 0:
            for points, _ in placed:
                self.canvas.outline(points, ink)
        for points, colour in placed:
            if colour is None and self.instance.pattern != "plain":
                mask = Image.new("1", (self.canvas.side, self.canvas.side))
                ImageDraw.Draw(mask).polygon(_flat(points * self.canvas.side), fill=1)
                self.canvas.image.paste(self._patterned(), (0, 0), mask)
            else:
                self.canvas.fill(points, colour or self.main)

    def eye(self, x: float, y: float, size: float = 0.11) -> None:
        """Draw a round eye that looks forward."""
        self.draw((ellipse(x, y, size, size * 1.15), (255, 255, 255)), ink=0.008)
        self.draw((ellipse(x + 0.25 * size, y, size * 0.62, size * 0.72), INK), ink=0)

    def _patterned(self) -> Image.Image:
        """Return main-coloured cloth with the pattern in the second colour, as large as the canvas."""
        if self._cloth is None:
            self._cloth = Image.new("RGB", (self.canvas.side, self.canvas.side), self.main)
            pen = ImageDraw.Draw(self._cloth)
            for points in _pattern(self.instance):
                pen.polygon(_flat(self.place(points) * self.canvas.side), fill=self.second)
        return self._cloth


def _pattern(instance: Instance) -> list[Points]:
    """Return the second-coloured shapes of a pattern, in subject units."""
    if instance.pattern == "striped":
        period = 0.46 * instance.scale
        starts = (np.arange(-5, 6) + instance.phase) * period
        shapes = [box(x, -2, x + 0.44 * period, 2) for x in starts]
    elif instance.pattern == "dotted":
        pitch = 0.46 * instance.scale
        shapes = [
            ellipse(
                (i + 0.5 * (j % 2) + instance.phase) * pitch,
                (j + instance.phase) * 0.87 * pitch,
                0.31 * pitch,
                0.31 * pitch,
            )
            for i in range(-4, 5)
            for j in range(-4, 5)
        ]
    else:
        cell = 0.32 * instance.scale
        shapes = [
            box(x, y, x + 0.97 * cell, y + 0.97 * cell)
            for i in range(-6, 7)
            for j in range(-6, 7)
            if (i + j) % 2 == 0
            for x, y in [((i + 2 * instance.phase) * cell, j * cell)]
        ]
    return [rotate(points, instance.angle) for points in shapes]


def _tinted(colour: Rgb, tint: tuple[float, ...]) -> Rgb:
    red, green, blue = (
        max(0, min(255, round(value + _TINT * shift))) for value, shift in zip(colour, tint, strict=True)
    )
    return (red, green, blue)


def _flat(points: Points) -> list[float]:
    flat: list[float] = points.ravel().tolist()
    return flat
