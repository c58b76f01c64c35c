"""The living subjects, each drawn facing right in subject units, and where a hat sits on them.

Every drawing takes a `Figure` and returns the hat's seat: (x, y, half width, turn in degrees). Shape
parameters `p[0]` to `p[7]` in [0, 1] make one dog differ from another in ways no caption can say.
"""

from kubooth_world.canvas import INK, Figure, blob, capsule, ellipse, polygon, shade

Seat = tuple[float, float, float, float]


def draw_dog(figure: Figure) -> Seat:
    """A chunky dog from the side: floppy ears, a long snout, a tail that wags."""
    p, step = figure.instance.shape, figure.pose.stride - 0.5
    main, second = figure.main, figure.second
    length, height = 0.62 + 0.14 * p[0], 0.44 + 0.10 * p[1]
    floor, hip, chest = 0.92, -0.18 - 0.6 * length, -0.18 + 0.62 * length
    leg = 0.11 + 0.05 * p[2]
    head_x, head_y, head = chest + 0.20, -0.36 - 0.12 * p[3], 0.33 + 0.07 * p[4]
    tail = 0.55 + 0.4 * p[5]
    tail_tip = (hip - 0.42 + 0.1 * step, 0.15 - tail)
    figure.draw((capsule(hip, 0.1, *tail_tip, 0.085), main))
    figure.draw((ellipse(*tail_tip, 0.11, 0.11), second))
    far = shade(main, 0.72)
    figure.draw(
        (capsule(hip + 0.22 + 0.2 * step, 0.4, hip + 0.2 + 0.5 * step, floor, leg), far),
        (capsule(chest - 0.22 - 0.2 * step, 0.4, chest - 0.2 - 0.5 * step, floor, leg), far),
    )
    figure.draw(
        (capsule(hip, 0.4, hip - 0.4 * step, floor, leg), main),
        (capsule(chest, 0.4, chest + 0.4 * step, floor, leg), main),
        (capsule(chest - 0.08, 0.1, head_x - 0.05, head_y, 0.24), main),
        (ellipse(-0.18, 0.20, length, height), None),
    )
    snout = 0.26 + 0.18 * p[6]
    figure.draw(
        (ellipse(head_x, head_y, head, head * 0.95), main),
        (capsule(head_x + 0.1, head_y + 0.12, head_x + snout + 0.08, head_y + 0.14, 0.17), main),
    )
    figure.draw((ellipse(head_x + snout + 0.2, head_y + 0.06, 0.10, 0.085), INK), ink=0)
    ear = 0.32 + 0.34 * p[7]
    figure.draw(
        (
            blob(
                (head_x - 0.05, head_y - head * 0.85),
                (head_x - 0.34, head_y - 0.12),
                (head_x - 0.30, head_y + ear),
                (head_x - 0.06, head_y + ear * 0.8),
                (head_x + 0.02, head_y - 0.1),
            ),
            second,
        )
    )
    figure.eye(head_x + 0.14, head_y - 0.09)
    return (head_x - 0.02, head_y - head * 0.84, 0.30, -8.0)


def draw_cat(figure: Figure) -> Seat:
    """A sitting cat from the front: pointed ears, a pear-shaped body, a tail that curls."""
    p, step = figure.instance.shape, figure.pose.stride - 0.5
    main, second = figure.main, figure.second
    wide, head, head_y = 0.46 + 0.14 * p[0], 0.40 + 0.08 * p[1], -0.40 - 0.08 * p[2]
    reach = 0.80 + 0.18 * p[3]
    figure.draw(
        (
            blob(
                (0.25, 0.75),
                (reach, 0.72),
                (reach + 0.04, 0.25),
                (reach - 0.14 + 0.3 * step, -0.1 - 0.3 * p[4]),
                (reach - 0.22 + 0.3 * step, 0.0 - 0.3 * p[4]),
                (reach - 0.2, 0.35),
                (0.5, 0.5),
            ),
            second,
        )
    )
    figure.draw(
        (
            blob(
                (-0.26, -0.2),
                (0.26, -0.2),
                (wide, 0.45),
                (wide - 0.04, 0.88),
                (0, 0.94),
                (0.04 - wide, 0.88),
                (-wide, 0.45),
            ),
            None,
        )
    )
    figure.draw((ellipse(-0.17, 0.86, 0.17, 0.11), main), (ellipse(0.17, 0.86, 0.17, 0.11), main))
    tall, lean = 0.36 + 0.26 * p[5], 0.06 + 0.14 * p[6]
    for side in (-1, 1):
        figure.draw(
            (
                polygon(
                    (side * 0.06, head_y - head * 0.7),
                    (side * (head * 0.75 + lean), head_y - head * 0.55 - tall),
                    (side * head * 0.98, head_y - 0.02),
                ),
                second,
            )
        )
    figure.draw((ellipse(0, head_y, head * 1.12, head), main))
    for side in (-1, 1):
        figure.draw((ellipse(side * 0.18, head_y - 0.04, 0.115, 0.145), (250, 250, 235)), ink=0.008)
        figure.draw((ellipse(side * 0.18 + 0.02, head_y - 0.03, 0.055, 0.115), INK), ink=0)
    nose = head_y + 0.15
    figure.draw((polygon((-0.08, nose), (0.08, nose), (0, nose + 0.09)), (240, 120, 140)), ink=0.006)
    for side in (-1, 1):
        for rise in (-0.03, 0.09):
            whisker = capsule(side * 0.2, nose + 0.07, side * 0.56, nose + 0.04 + rise, 0.014 + 0.008 * p[7])
            figure.draw((whisker, INK), ink=0)
    return (0.0, head_y - head * 0.82, 0.30, 0.0)


def draw_bird(figure: Figure) -> Seat:
    """A round bird from the side: a beak, a wing in the second colour, two thin legs."""
    p, step = figure.instance.shape, figure.pose.stride - 0.5
    main, second = figure.main, figure.second
    wide, high = 0.56 + 0.12 * p[0], 0.50 + 0.10 * p[1]
    head_x, head_y, head = 0.40 + 0.1 * p[2], -0.48 - 0.08 * p[3], 0.31 + 0.06 * p[4]
    for x in (-0.14, 0.14):
        figure.draw((capsule(x, 0.5, x + 0.2 * step, 0.90, 0.035), (240, 150, 40)), ink=0.010)
        figure.draw(
            (capsule(x + 0.2 * step - 0.04, 0.93, x + 0.2 * step + 0.16, 0.93, 0.035), (240, 150, 40)), ink=0.010
        )
    rise = 0.45 * p[5]
    figure.draw(
        (
            polygon((-0.3, 0.0), (-1.0, -0.22 - rise), (-1.06, 0.02 - rise), (-0.98, 0.2 - 0.5 * rise), (-0.35, 0.36)),
            second,
        )
    )
    beak = 0.30 + 0.22 * p[6]
    figure.draw(
        (
            polygon(
                (head_x + head * 0.7, head_y - 0.13),
                (head_x + head + beak, head_y + 0.05),
                (head_x + head * 0.7, head_y + 0.17),
            ),
            (250, 170, 30),
        )
    )
    figure.draw(
        (ellipse(-0.06, 0.18, wide, high), None),
        (ellipse(head_x, head_y, head, head), main),
        (capsule(0.22, -0.04, head_x - 0.04, head_y + 0.12, 0.24), main),
    )
    wing = 0.26 + 0.12 * p[7]
    figure.draw(
        (
            blob((-0.06, 0.0), (-0.3, 0.02), (-0.66, 0.06 + 0.3 * step), (-0.44, 0.10 + wing), (-0.14, 0.02 + wing)),
            second,
        )
    )
    figure.eye(head_x + 0.1, head_y - 0.05, 0.105)
    return (head_x - 0.04, head_y - head * 0.84, 0.27, -6.0)


def draw_fish(figure: Figure) -> Seat:
    """A fish from the side: a big oval body, tail and back fin in the second colour."""
    p, step = figure.instance.shape, figure.pose.stride - 0.5
    main, second = figure.main, figure.second
    long, high = 0.66 + 0.10 * p[0], 0.44 + 0.14 * p[1]
    fork, span = 0.12 + 0.18 * p[2], 0.34 + 0.22 * p[3]
    end = -long - 0.22
    figure.draw(
        (
            polygon(
                (-long + 0.18, 0.05),
                (end, 0.05 - span + 0.2 * step),
                (end + fork, 0.06),
                (end, 0.06 + span + 0.2 * step),
            ),
            second,
        )
    )
    fin = 0.25 + 0.25 * p[4]
    figure.draw(
        (blob((-0.42, -high * 0.5), (-0.34, -high - fin), (0.22, -high - 0.6 * fin), (0.34, -high * 0.5)), second)
    )
    figure.draw(
        (blob((-0.2, high * 0.6), (-0.4, high + 0.22 + 0.1 * p[5]), (0.02, high + 0.08), (0.1, high * 0.6)), second)
    )
    figure.draw((ellipse(0.05, 0.06, long, high), None))
    face = 0.30 + 0.12 * p[6]
    edge = 0.05 + long
    cheek = blob(
        (edge, 0.06),
        (edge - 0.07, 0.06 - high * 0.46),
        (edge - face, 0.02 - high * 0.66),
        (edge - face, 0.10 + high * 0.66),
        (edge - 0.07, 0.06 + high * 0.46),
    )
    figure.draw((cheek, main), ink=0)
    figure.draw((ellipse(edge - 0.05, 0.18, 0.07, 0.06), (240, 110, 120)), ink=0.008)
    figure.draw((blob((-0.02, 0.1), (-0.34, 0.0 + 0.2 * step), (-0.32, 0.3), (-0.06, 0.26)), second), ink=0.012)
    figure.eye(edge - face * 0.62, -0.08, 0.12 + 0.02 * p[7])
    return (edge - face - 0.06, 0.10 - high * 0.93, 0.27, 10.0)
