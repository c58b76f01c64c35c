"""Numbers and times as people read them."""

from __future__ import annotations

import pytest

from kubooth_trainer.figures import duration, number

DURATIONS = {0.0: "0.0 s", 9.94: "9.9 s", 42.4: "42 s", 59.6: "1 min 00 s", 245.0: "4 min 05 s", 3780.0: "1 h 03 min"}
NUMBERS = {5e-6: "5e-6", 1.0: "1", 0.123456: "0.1235", 1e-8: "1e-8", 0.0: "0", 2.5e10: "2.5e10", 9.6: "9.6"}


@pytest.mark.parametrize(("seconds", "text"), DURATIONS.items())
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("value", "text"), NUMBERS.items())
def test_number(value: float, text: str) -> None:
    assert number(value) == text
