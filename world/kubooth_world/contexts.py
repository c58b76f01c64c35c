"""The eight places, painted on a canvas from a seed, and the ground each subject stands on.

Places differ in sky, ground and one or two large props, so that each is recognized at 64 pixels.
"""

from collections.abc import Callable
from typing import Final

import numpy as np

from kubooth_world.canvas import Canvas, blob, box, capsule, ellipse, moved, polygon, shade
from kubooth_world.vocabulary import Rgb

Painter = Callable[[Canvas, np.random.Generator], None]
_THIN: Final = 0.008


def paint_context(canvas: Canvas, name: str, seed: int) -> None:
    """Paint the place `name`; the same seed gives the same picture."""
    _PAINTERS[name](canvas, np.random.default_rng(seed))


def _snow(canvas: Canvas, rng: np.random.Generator) -> None:
    _sky(canvas, (150, 196, 232), (206, 228, 244))
    for x in rng.uniform(0.0, 1.0, 3):
        _fir(canvas, float(x), float(rng.uniform(0.50, 0.58)), float(rng.uniform(0.26, 0.4)))
    _hill(canvas, rng, 0.55, (224, 236, 248))
    _hill(canvas, rng, 0.72, (244, 249, 254))
    for x, y in rng.uniform(0, 1, (16, 2)):
        canvas.fill(ellipse(x, y, 0.014, 0.014), (255, 255, 255))


def _beach(canvas: Canvas, rng: np.random.Generator) -> None:
    _sky(canvas, (112, 202, 246), (190, 232, 250))
    canvas.fill(ellipse(float(rng.uniform(0.1, 0.9)), 0.13, 0.08, 0.08), (255, 226, 96))
    shore = float(rng.uniform(0.60, 0.68))
    canvas.fill(box(0, 0.44, 1, 1), (34, 138, 190))
    for x, y in zip(rng.uniform(0, 0.9, 4), (0.48, 0.52, 0.55, 0.58), strict=True):
        canvas.fill(box(x, y, x + 0.16, y + 0.014), (150, 214, 236))
    canvas.fill(
        blob((-0.2, shore + 0.03), (0.25, shore), (0.6, shore + 0.03), (1.2, shore), (1.2, 1.2), (-0.2, 1.2)),
        (240, 248, 250),
    )
    canvas.fill(
        blob(
            (-0.2, shore + 0.06),
            (0.25, shore + 0.03),
            (0.6, shore + 0.06),
            (1.2, shore + 0.03),
            (1.2, 1.2),
            (-0.2, 1.2),
        ),
        (246, 222, 166),
    )
    side = float(rng.choice([0.08, 0.92]))
    _palm(canvas, side, shore + 0.12, 1 if side < 0.5 else -1)


def _jungle(canvas: Canvas, rng: np.random.Generator) -> None:
    _sky(canvas, (20, 84, 62), (44, 120, 74))
    for x in rng.uniform(0, 1, 3):
        canvas.fill(box(x, 0, x + 0.07, 0.8), (66, 60, 40))
    for x in np.linspace(0, 1, 5) + rng.uniform(-0.06, 0.06, 5):
        _leaf(canvas, float(x), -0.06, float(rng.uniform(60, 120)), float(rng.uniform(0.30, 0.44)), (30, 112, 52))
    canvas.fill(box(0, 0.74, 1, 1), (58, 82, 36))
    for x in (0.02, 0.14, 0.86, 0.98):
        for turn in rng.uniform(-130, -50, 2):
            tone: Rgb = (36, 138, 58) if rng.random() < 0.5 else (74, 158, 54)
            _leaf(canvas, x, 0.80, float(turn), float(rng.uniform(0.30, 0.5)), tone)
    for x in rng.uniform(0.05, 0.95, 3):
        canvas.fill(ellipse(float(x), float(rng.uniform(0.88, 0.96)), 0.05, 0.02), (84, 112, 48))


def _city(canvas: Canvas, rng: np.random.Generator) -> None:
    _sky(canvas, (250, 196, 150), (252, 224, 186))
    tones: tuple[Rgb, ...] = ((112, 118, 142), (138, 130, 150), (94, 106, 130), (156, 140, 140))
    left = -0.05
    while left < 1:
        wide, top = float(rng.uniform(0.16, 0.24)), float(rng.uniform(0.08, 0.34))
        canvas.inked(box(left, top, left + wide, 0.8), tones[int(rng.integers(len(tones)))], _THIN)
        for x in np.arange(left + 0.035, left + wide - 0.05, 0.07):
            for y in np.arange(top + 0.05, 0.66, 0.10):
                if rng.random() < 0.75:
                    canvas.fill(box(x, y, x + 0.035, y + 0.045), (255, 232, 140))
        left += wide
    canvas.fill(box(0, 0.72, 1, 0.76), (196, 192, 190))
    canvas.fill(box(0, 0.76, 1, 1), (92, 92, 102))
    shift = float(rng.uniform(0, 0.25))
    for x in np.arange(shift - 0.25, 1, 0.25):
        canvas.fill(box(x, 0.90, x + 0.13, 0.93), (236, 232, 220))


def _grass(canvas: Canvas, rng: np.random.Generator) -> None:
    _sky(canvas, (126, 198, 250), (196, 230, 252))
    for x, y in zip(rng.uniform(0.0, 1.0, 2), rng.uniform(0.08, 0.22, 2), strict=True):
        for shift, size in ((-0.08, 0.05), (0, 0.07), (0.08, 0.05)):
            canvas.fill(ellipse(x + shift, y, size * 1.2, size), (255, 255, 255))
    _hill(canvas, rng, 0.54, (146, 206, 88))
    _hill(canvas, rng, 0.66, (112, 190, 66))
    tones: tuple[Rgb, ...] = ((255, 255, 255), (252, 210, 70), (246, 120, 140))
    for x, y in zip(rng.uniform(0.02, 0.98, 7), rng.uniform(0.76, 0.97, 7), strict=True):
        canvas.fill(ellipse(x, y, 0.022, 0.022), tones[int(rng.integers(3))])
    for x, y in zip(rng.uniform(0.02, 0.98, 5), rng.uniform(0.72, 0.95, 5), strict=True):
        canvas.fill(polygon((x - 0.02, y), (x, y - 0.05), (x + 0.02, y)), (70, 150, 48))


def _night(canvas: Canvas, rng: np.random.Generator) -> None:
    _sky(canvas, (16, 20, 62), (38, 44, 104))
    x, y = float(rng.uniform(0.12, 0.88)), float(rng.uniform(0.10, 0.18))
    canvas.fill(ellipse(x, y, 0.095, 0.095), (252, 246, 206))
    canvas.fill(ellipse(x + 0.045, y - 0.02, 0.08, 0.08), (18, 22, 66))
    for x, y in zip(rng.uniform(0, 1, 14), rng.uniform(0.02, 0.6, 14), strict=True):
        canvas.fill(ellipse(x, y, 0.012, 0.012), (240, 240, 255))
    _hill(canvas, rng, 0.62, (30, 46, 84))
    _hill(canvas, rng, 0.74, (36, 62, 78))


def _desert(canvas: Canvas, rng: np.random.Generator) -> None:
    _sky(canvas, (246, 148, 92), (252, 206, 132))
    canvas.fill(ellipse(float(rng.uniform(0.15, 0.85)), float(rng.uniform(0.16, 0.3)), 0.10, 0.10), (255, 240, 176))
    _hill(canvas, rng, 0.52, (214, 142, 82))
    for x in (float(rng.uniform(0.04, 0.16)), float(rng.uniform(0.84, 0.96))):
        if rng.random() < 0.8:
            _cactus(canvas, x, float(rng.uniform(0.66, 0.74)), float(rng.uniform(0.22, 0.34)))
    _hill(canvas, rng, 0.70, (232, 172, 100))


def _room(canvas: Canvas, rng: np.random.Generator) -> None:
    tones: tuple[Rgb, ...] = ((206, 190, 214), (188, 206, 200), (222, 204, 180))
    wall = tones[int(rng.integers(len(tones)))]
    canvas.fill(box(0, 0, 1, 1), wall)
    canvas.fill(box(0, 0.70, 1, 1), (158, 104, 66))
    for y in (0.78, 0.88):
        canvas.fill(box(0, y, 1, y + 0.012), (126, 80, 52))
    canvas.fill(box(0, 0.68, 1, 0.72), (244, 238, 228))
    x = float(rng.uniform(0.02, 0.12))
    canvas.inked(box(x, 0.08, x + 0.30, 0.44), (250, 246, 236), _THIN)
    canvas.fill(box(x + 0.03, 0.11, x + 0.27, 0.41), (150, 212, 246))
    canvas.fill(box(x + 0.14, 0.11, x + 0.16, 0.41), (250, 246, 236))
    canvas.fill(box(x + 0.03, 0.25, x + 0.27, 0.27), (250, 246, 236))
    x = float(rng.uniform(0.64, 0.74))
    canvas.inked(box(x, 0.10, x + 0.22, 0.32), (176, 120, 62), _THIN)
    canvas.fill(box(x + 0.03, 0.13, x + 0.19, 0.29), shade(wall, 1.6))
    canvas.fill(
        blob((x + 0.03, 0.29), (x + 0.09, 0.19), (x + 0.13, 0.25), (x + 0.16, 0.21), (x + 0.19, 0.29)), (84, 150, 110)
    )
    rug: Rgb = ((190, 84, 84), (84, 112, 176), (98, 150, 110))[int(rng.integers(3))]
    canvas.fill(ellipse(0.5, 0.93, 0.46, 0.085), rug)


_PAINTERS: Final[dict[str, Painter]] = {
    "snow": _snow,
    "beach": _beach,
    "jungle": _jungle,
    "city": _city,
    "grass": _grass,
    "night": _night,
    "desert": _desert,
    "room": _room,
}


def _sky(canvas: Canvas, top: Rgb, low: Rgb) -> None:
    """Fill the canvas with four flat bands from `top` to `low`."""
    for n in range(4):
        tone = tuple(round(a + (b - a) * n / 3) for a, b in zip(top, low, strict=True))
        canvas.fill(box(0, 0.16 * n, 1, 1), (tone[0], tone[1], tone[2]))


def _hill(canvas: Canvas, rng: np.random.Generator, y: float, colour: Rgb) -> None:
    rise = rng.uniform(-0.05, 0.05, 4)
    ridge = [(-0.2 + 0.45 * n, y + float(rise[n])) for n in range(4)]
    canvas.fill(blob(*ridge, (1.6, 1.4), (-0.6, 1.4)), colour)


def _fir(canvas: Canvas, x: float, y: float, high: float) -> None:
    canvas.fill(box(x - 0.018, y - 0.05, x + 0.018, y + 0.06), (104, 74, 54))
    for n, wide in enumerate((0.11, 0.085, 0.055)):
        low = y - high * 0.27 * n
        canvas.fill(polygon((x - wide, low), (x, low - high * 0.42), (x + wide, low)), (58, 118, 100))
        canvas.fill(
            polygon((x - wide * 0.45, low - high * 0.23), (x, low - high * 0.42), (x + wide * 0.45, low - high * 0.23)),
            (240, 248, 252),
        )


def _palm(canvas: Canvas, x: float, y: float, lean: int) -> None:
    top = (x + 0.07 * lean, y - 0.52)
    canvas.fill(
        polygon((x - 0.035, y), (top[0] - 0.02, top[1]), (top[0] + 0.02, top[1]), (x + 0.035, y)), (150, 104, 62)
    )
    for turn in (-165, -120, -60, -15, 25, 155):
        _leaf(canvas, *top, float(turn), 0.24, (44, 148, 78))


def _leaf(canvas: Canvas, x: float, y: float, turn: float, length: float, colour: Rgb) -> None:
    shape = blob((0, 0), (length * 0.4, -length * 0.2), (length, 0), (length * 0.4, length * 0.2))
    canvas.fill(moved(shape, turn, x, y), colour)
    canvas.fill(moved(capsule(0, 0, length * 0.8, 0, 0.007), turn, x, y), shade(colour, 0.72))


def _cactus(canvas: Canvas, x: float, y: float, high: float) -> None:
    green: Rgb = (66, 138, 82)
    for part in (
        capsule(x, y, x, y - high, 0.035),
        capsule(x, y - high * 0.35, x + 0.08, y - high * 0.35, 0.022),
        capsule(x + 0.08, y - high * 0.35, x + 0.08, y - high * 0.7, 0.022),
        capsule(x, y - high * 0.5, x - 0.08, y - high * 0.5, 0.022),
        capsule(x - 0.08, y - high * 0.5, x - 0.08, y - high * 0.8, 0.022),
    ):
        canvas.fill(part, green)
