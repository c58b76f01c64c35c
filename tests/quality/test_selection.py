"""Which of several measured states is the best, and when measuring says that training is past it."""

from __future__ import annotations

import pytest

from kubooth_trainer.selection import Probe, probes_from_json, probes_to_json, ranked, should_stop


def states(*figures: tuple[float, float | None]) -> list[Probe]:
    """(Dino, Pres) of the states after 10, 20, ... steps."""
    return [Probe(step=10 * n, dino=dino, pres=pres, clip_t=None) for n, (dino, pres) in enumerate(figures, 1)]


def test_the_score_is_its_formula() -> None:
    assert Probe(step=1, dino=0.7, pres=0.3, clip_t=0.25).score == pytest.approx(0.7 - 0.3 + 2 * 0.25)
    assert Probe(step=1, dino=0.7, pres=0.3, clip_t=None).score == pytest.approx(0.4)
    assert Probe(step=1, dino=0.7, pres=None, clip_t=0.1).score == pytest.approx(0.9)


def test_the_best_has_the_highest_score_and_of_equals_the_fewest_steps() -> None:
    assert ranked(states((0.5, 0.2), (0.7, 0.3), (0.75, 0.5)))[0].step == 20
    assert ranked(states((0.5, 0.2), (0.6, 0.3), (0.7, 0.4)))[0].score == pytest.approx(0.3)
    assert ranked(states((0.5, 0.25), (0.75, 0.5)))[0].step == 10


@pytest.mark.parametrize(
    ("probes", "expected"),
    [
        pytest.param(states((0.7, 0.2), (0.7, 0.3)), False, id="too few"),
        pytest.param(states((0.7, 0.2), (0.7, 0.3), (0.7, 0.4)), True, id="twice past it"),
        pytest.param(states((0.7, 0.2), (0.709, 0.3), (0.709, 0.4)), True, id="gains that are none"),
        pytest.param(states((0.5, 0.2), (0.7, 0.3), (0.7, 0.4)), False, id="once only"),
        pytest.param(states((0.7, 0.2), (0.7, 0.3), (0.7, 0.3)), False, id="the class drifts no more"),
        pytest.param(states((0.7, 0.2), (0.7, 0.3), (0.72, 0.4)), False, id="identity still rises"),
        pytest.param(states((0.7, None), (0.7, None), (0.7, None)), False, id="no drift was measured"),
        pytest.param(states((0.5, 0.1), (0.8, 0.2), (0.7, 0.3), (0.6, 0.4)), True, id="identity falls"),
    ],
)
def test_training_stops_where_identity_rests_and_the_class_drifts_twice_in_a_row(
    probes: list[Probe], expected: bool
) -> None:
    assert should_stop(probes) is expected


def test_what_was_measured_is_read_again_and_nothing_else() -> None:
    probes = states((0.5, 0.2), (0.6, None))
    assert probes_from_json(probes_to_json(probes, "key"), "key") == probes
    assert probes_from_json(probes_to_json(probes, "key"), "another") == []
    assert probes_from_json(b'{"key": "key", "probes": [{"step": 1}]}', "key") == []
    assert probes_from_json(b"{", "key") == []
