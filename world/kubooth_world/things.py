"""The lifeless subjects, each drawn in subject units, and where a hat sits on them.

Same contract as `animals`: a drawing takes a `Figure` and returns (x, y, half width, turn).
"""

from kubooth_world.animals import Seat
from kubooth_world.canvas import INK, Figure, blob, box, capsule, ellipse, polygon, shade

_GLASS = (176, 222, 245)
_WOOD = (134, 84, 50)
_METAL = (188, 194, 206)


def draw_car(figure: Figure) -> Seat:
    """A car from the side: cabin with windows, two wheels, bumpers in the second colour."""
    p = figure.instance.shape
    main, second = figure.main, figure.second
    roof, floor = -0.50 - 0.14 * p[0], 0.60
    front, rear = 0.30 + 0.22 * p[1], -0.44 - 0.2 * p[2]
    hood = -0.06 + 0.10 * p[3]
    wheel = 0.20 + 0.07 * p[4]
    figure.draw((box(-1.02, 0.36, 1.02, 0.58, 0.08), second))
    figure.draw(
        (
            polygon((rear - 0.16, hood + 0.1), (rear + 0.06, roof), (front - 0.14, roof), (front + 0.16, hood + 0.1)),
            main,
        ),
        (
            blob(
                (-0.92, hood + 0.05),
                (-0.4, hood - 0.06),
                (0.4, hood - 0.06),
                (0.86, hood + 0.12),
                (0.96, 0.42),
                (0.6, floor),
                (-0.6, floor),
                (-0.96, 0.42),
            ),
            None,
        ),
    )
    middle = (rear + front) / 2
    figure.draw(
        (
            polygon(
                (rear + 0.02, hood), (rear + 0.13, roof + 0.12), (middle - 0.05, roof + 0.12), (middle - 0.05, hood)
            ),
            _GLASS,
        ),
        ink=0.010,
    )
    figure.draw(
        (
            polygon(
                (middle + 0.05, hood), (middle + 0.05, roof + 0.12), (front - 0.18, roof + 0.12), (front + 0.0, hood)
            ),
            _GLASS,
        ),
        ink=0.010,
    )
    for x in (-0.52 - 0.08 * p[5], 0.52 + 0.08 * p[6]):
        figure.draw((ellipse(x, floor, wheel, wheel), (62, 58, 70)))
        figure.draw((ellipse(x, floor, wheel * 0.5, wheel * 0.5), second if p[7] > 0.5 else _METAL), ink=0)
    figure.draw((ellipse(0.87, 0.22, 0.08, 0.10), (255, 240, 150)), ink=0.008)
    return (middle, roof + 0.03, 0.30, 0.0)


def draw_boat(figure: Figure) -> Seat:
    """A sailing boat: one big sail, a hull, a pennant and a band in the second colour."""
    p, step = figure.instance.shape, figure.pose.stride - 0.5
    main, second = figure.main, figure.second
    deck, keel = 0.36 + 0.08 * p[0], 0.90
    bow, stern = 0.98, -0.80 - 0.16 * p[1]
    mast = -0.16 + 0.2 * p[2]
    top = -0.86 - 0.06 * p[3]
    figure.draw((capsule(mast, top, mast, deck, 0.035), _WOOD), ink=0.012)
    belly = 0.72 + 0.24 * p[4]
    figure.draw(
        (
            blob(
                (mast + 0.06, top + 0.08),
                (mast + belly * 0.62, -0.28),
                (mast + belly, deck - 0.16),
                (mast + 0.5, deck - 0.12),
                (mast + 0.06, deck - 0.12),
                (mast + 0.06, -0.3),
            ),
            None,
        )
    )
    jib = 0.36 + 0.2 * p[5]
    figure.draw((polygon((mast - 0.08, top + 0.3), (mast - 0.08, deck - 0.12), (mast - 0.08 - jib, deck - 0.12)), main))
    wave = 0.12 * step
    figure.draw((polygon((mast, top - 0.06), (mast - 0.34, top + 0.04 + wave), (mast, top + 0.16)), second))
    hull = blob(
        (stern, deck),
        (0, deck + 0.04),
        (bow, deck - 0.06 - 0.1 * p[6]),
        (0.72, keel - 0.1),
        (0.4, keel),
        (-0.4, keel),
        (stern + 0.2, keel - 0.1),
    )
    figure.draw((hull, main))
    figure.draw((box(stern + 0.08, deck + 0.16, 0.80, deck + 0.28 + 0.05 * p[7], 0.05), second), ink=0)
    return (mast, top + 0.02, 0.25, 0.0)


def draw_house(figure: Figure) -> Seat:
    """A house from the front: patterned walls, a roof in the second colour, door and windows."""
    p = figure.instance.shape
    second = figure.second
    wide, eaves, floor = 0.66 + 0.14 * p[0], -0.22 - 0.12 * p[1], 0.90
    ridge = -0.78 - 0.12 * p[2]
    chimney = 0.34 + 0.16 * p[3]
    figure.draw((box(chimney - 0.11, ridge + 0.02, chimney + 0.11, eaves), (170, 96, 84)))
    figure.draw((box(-wide, eaves - 0.05, wide, floor), None))
    flat = 0.04 + 0.3 * p[4]
    figure.draw(
        (polygon((-wide - 0.16, eaves + 0.06), (-flat, ridge), (flat, ridge), (wide + 0.16, eaves + 0.06)), second)
    )
    door, tall = -0.3 + 0.6 * p[5], 0.46 + 0.14 * p[6]
    figure.draw((box(door - 0.17, floor - tall, door + 0.17, floor, 0.0), _WOOD))
    figure.draw((ellipse(door + 0.09, floor - tall * 0.45, 0.035, 0.035), (250, 220, 90)), ink=0)
    window = 0.15 + 0.04 * p[7]
    spots = [x for x in (-0.42, 0.0, 0.42) if abs(x - door) > 0.33]
    for x in spots:
        figure.draw((box(x - window, eaves + 0.22, x + window, eaves + 0.24 + 2 * window), (255, 240, 168)), ink=0.012)
        figure.draw((box(x - 0.022, eaves + 0.22, x + 0.022, eaves + 0.24 + 2 * window), INK), ink=0)
    return (0.0, ridge + 0.06, 0.30, 0.0)


def draw_mug(figure: Figure) -> Seat:
    """A mug with a handle and steam; its rim and foot carry the second colour."""
    p, step = figure.instance.shape, figure.pose.stride - 0.5
    main, second = figure.main, figure.second
    top, floor = -0.44 - 0.14 * p[0], 0.86
    upper, lower = 0.56 + 0.10 * p[1], 0.46 + 0.20 * p[2]
    reach, loop = 0.30 + 0.12 * p[3], 0.30 + 0.10 * p[4]
    middle = (top + floor) / 2 + 0.1 * (p[5] - 0.5)
    figure.draw((ellipse(upper + 0.02, middle, reach, loop), main))
    inner = ellipse(upper + 0.02, middle, reach - 0.15, loop - 0.15)
    figure.draw((inner, shade(main, 0.55)), ink=0.008)
    depth = 0.15
    body = blob(
        (-upper, top),
        (0, top - 0.06),
        (upper, top),
        (0.5 * (upper + lower) + 0.02, 0.2),
        (lower, floor - 0.06),
        (0.25, floor),
        (-0.25, floor),
        (-lower, floor - 0.06),
        (-0.5 * (upper + lower) - 0.02, 0.2),
    )
    figure.draw((body, None))
    foot = 0.10 + 0.10 * p[6]
    figure.draw((box(-lower + 0.02, floor - 0.05 - foot, lower - 0.02, floor - 0.03, 0.06), second), ink=0)
    figure.draw((ellipse(0, top, upper, depth), second))
    figure.draw((ellipse(0, top + 0.01, upper - 0.11, depth - 0.055), (96, 58, 36)), ink=0)
    if figure.pose.stride < 0.99:
        for x in (-0.2, 0.18):
            steam = blob(
                (x, top - 0.16),
                (x + 0.09, top - 0.30),
                (x + 0.2 * step, top - 0.48 - 0.1 * p[7]),
                (x - 0.07, top - 0.32),
            )
            figure.draw((steam, (244, 244, 250)), ink=0)
    return (0.0, top + 0.04, 0.34, 0.0)


def draw_robot(figure: Figure) -> Seat:
    """A robot: patterned body, square head, arms and feet, an antenna in the second colour."""
    p, step = figure.instance.shape, figure.pose.stride - 0.5
    main, second = figure.main, figure.second
    wide, top, floor = 0.42 + 0.12 * p[0], -0.24, 0.62 + 0.06 * p[1]
    head, high = 0.34 + 0.10 * p[2], 0.44 + 0.10 * p[3]
    crown = top - 0.06 - high
    figure.draw((capsule(0, crown, 0.0, crown - 0.16, 0.03), _METAL), ink=0.010)
    figure.draw((ellipse(0, crown - 0.22, 0.095, 0.095), second))
    for side in (-1, 1):
        hand = (side * (wide + 0.24), 0.40 - 0.5 * side * step - 0.2 * p[4])
        figure.draw((capsule(side * wide, -0.06, *hand, 0.075), _METAL))
        figure.draw((ellipse(*hand, 0.12, 0.12), second))
        figure.draw((capsule(side * wide * 0.5, floor, side * wide * 0.5, 0.84, 0.085), _METAL))
        figure.draw((box(side * wide * 0.5 - 0.2, 0.80, side * wide * 0.5 + 0.2, 0.96, 0.07), second))
    figure.draw((box(-wide, top, wide, floor, 0.03 + 0.14 * p[5]), None))
    figure.draw((box(-head, crown, head, top - 0.03, 0.04 + 0.14 * p[6]), main))
    face = (crown + top) / 2 - 0.05
    figure.draw((box(-head * 0.78, face - 0.14, head * 0.78, face + 0.13, 0.1), (44, 48, 66)), ink=0)
    for side in (-1, 1):
        figure.draw((ellipse(side * head * 0.38, face, 0.075 + 0.02 * p[7], 0.085), (140, 245, 255)), ink=0)
    return (0.0, crown + 0.04, 0.31, 0.0)


def draw_backpack(figure: Figure) -> Seat:
    """A backpack from the front: patterned bag, plain flap, a pocket in the second colour."""
    p = figure.instance.shape
    main, second = figure.main, figure.second
    wide, top, floor = 0.54 + 0.12 * p[0], -0.62 - 0.12 * p[1], 0.90
    figure.draw((ellipse(0, top - 0.02, 0.20 + 0.06 * p[2], 0.22), second))
    figure.draw((ellipse(0, top + 0.02, 0.10 + 0.06 * p[2], 0.12), (70, 62, 76)), ink=0.008)
    for side in (-1, 1):
        figure.draw((capsule(side * (wide + 0.04), 0.0, side * (wide + 0.06), 0.62, 0.11 + 0.04 * p[3]), second))
    round_ = 0.16 + 0.22 * p[4]
    figure.draw((box(-wide, top, wide, floor, round_), None))
    flap = 0.34 + 0.16 * p[5]
    figure.draw((box(-wide - 0.02, top, wide + 0.02, top + flap, min(round_, flap / 2)), main))
    high = 0.30 + 0.14 * p[6]
    figure.draw((box(-wide * 0.62, floor - 0.1 - high, wide * 0.62, floor - 0.1, 0.08), second))
    figure.draw((box(-0.10, top + flap - 0.10, 0.10, top + flap + 0.10 + 0.05 * p[7], 0.03), (250, 214, 96)), ink=0.010)
    return (0.0, top + 0.02, 0.32, 0.0)
