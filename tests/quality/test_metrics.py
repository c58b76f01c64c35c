"""The figures, held against sums that were done by hand, and the properties that the papers' definitions have."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kubooth_trainer.metrics import Estimate, mean_pairwise, mean_score, similarities

EXACT = pytest.approx
TWO_DIRECTIONS = np.array([[3.0, 4.0], [1.0, 0.0]])
PHOTOS = np.array([[1.0, 0.0], [0.0, 2.0], [4.0, 3.0]])


def test_similarities_by_hand() -> None:
    # (3,4)/5 with (1,0), (0,1), (4,3)/5: 0.6, 0.8, 24/25. (1,0) with the same: 1, 0, 0.8.
    assert similarities(TWO_DIRECTIONS, PHOTOS) == EXACT(np.array([[0.6, 0.8, 0.96], [1.0, 0.0, 0.8]]), abs=1e-9)


def test_mean_likeness_by_hand() -> None:
    scores = similarities(TWO_DIRECTIONS, PHOTOS).mean(axis=1)
    estimate = mean_score([scores], pairs_each=3)
    assert estimate.value == EXACT((0.6 + 0.8 + 0.96 + 1.0 + 0.0 + 0.8) / 6, abs=1e-9)
    assert estimate.count == 6


def test_every_prompt_counts_alike() -> None:
    # Means of 0.5 and 0.9: the prompt with more pictures has no more weight.
    assert mean_score([np.array([0.4, 0.6]), np.array([0.9, 0.8, 1.0, 0.9])]).value == EXACT(0.7, abs=1e-9)


def test_mean_pairwise_by_hand() -> None:
    matrix = np.array([[0.0, 0.1, 0.5], [0.1, 0.0, 0.3], [0.5, 0.3, 0.0]])
    estimate = mean_pairwise([matrix])
    assert (estimate.value, estimate.count) == (EXACT(0.3, abs=1e-9), 3)


def test_photos_among_themselves_leave_out_self_pairs() -> None:
    among = similarities(PHOTOS, PHOTOS)  # 0, 0.8 and 0.6 between different ones, 1 with itself
    assert mean_pairwise([among]).value == EXACT(1.4 / 3, abs=1e-9)


def test_equal_pictures_are_as_alike_as_can_be_and_do_not_vary() -> None:
    same = np.tile([[0.2, 0.5, 0.1]], (4, 1))
    assert mean_score([similarities(same, same).mean(axis=1)]).value == EXACT(1.0, abs=1e-12)
    assert mean_pairwise([1 - similarities(same, same)]).value == EXACT(0.0, abs=1e-12)


def test_the_order_of_pictures_and_photos_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    pictures, photos, order = rng.normal(size=(6, 5)), rng.normal(size=(4, 5)), rng.permutation(6)
    one = mean_score([similarities(pictures, photos).mean(axis=1)]).value
    assert mean_score([similarities(pictures[order], photos[::-1]).mean(axis=1)]).value == EXACT(one, abs=1e-12)
    distances = 1 - similarities(pictures, pictures)
    assert mean_pairwise([distances[order][:, order]]).value == EXACT(mean_pairwise([distances]).value, abs=1e-12)


def test_the_length_of_an_embedding_does_not_matter() -> None:
    assert similarities(TWO_DIRECTIONS * 1e-3, PHOTOS * 1e3) == EXACT(similarities(TWO_DIRECTIONS, PHOTOS), abs=1e-12)


UNDEFINED = [
    ("no-pictures", mean_score([]), "there are no pictures"),
    ("one-photo", mean_pairwise([np.ones((1, 1))], what="photos"), "there are no two photos to compare"),
]


@pytest.mark.parametrize(("estimate", "why"), [c[1:] for c in UNDEFINED], ids=[c[0] for c in UNDEFINED])
def test_what_is_not_defined_says_so(estimate: Estimate, why: str) -> None:
    assert (estimate.value, estimate.low, estimate.high, estimate.note) == (None, None, None, why)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 16])
def test_no_figure_is_ever_a_nan(count: int) -> None:
    rng = np.random.default_rng(count)
    rows = rng.normal(size=(count, 3))
    for estimate in (mean_score([rows[:, 0]]), mean_pairwise([similarities(rows, rows)])):
        for value in (estimate.value, estimate.low, estimate.high):
            assert value is None or math.isfinite(value)
        assert (estimate.low is None) == (estimate.high is None)
        assert estimate.low is not None or estimate.note


def test_an_embedding_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="zero or not a number"):
        similarities(np.zeros((1, 3)), np.ones((1, 3)))


def test_intervals_hold_the_value_and_repeat() -> None:
    scores = [np.random.default_rng(n).normal(0.5, 0.1, 8) for n in range(5)]
    estimate = mean_score(scores)
    assert estimate == mean_score(scores)
    assert estimate.low is not None and estimate.high is not None and estimate.value is not None
    assert estimate.low < estimate.value < estimate.high


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        estimate = mean_score([rng.normal(0.3, 0.2, 30)])
        assert estimate.low is not None and estimate.high is not None
        covered += estimate.low <= 0.3 <= estimate.high
    assert 175 <= covered <= 200  # 95% of 200, give or take; the bootstrap of small samples is a little narrow


def test_a_paired_change_is_surer_than_its_sides() -> None:
    rng = np.random.default_rng(2)
    before = rng.normal(0.4, 0.2, 12)
    after = before + rng.normal(0.1, 0.02, 12)
    change, side = mean_score([after - before]), mean_score([after])
    assert change.value == EXACT(after.mean() - before.mean(), abs=1e-12)
    assert change.high is not None and change.low is not None and side.high is not None and side.low is not None
    assert change.high - change.low < (side.high - side.low) / 3
