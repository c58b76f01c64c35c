"""Loads the fixtures that several folders share. `bed` is found here, never through the repository root."""

import os
import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

# Files of tests that run side by side share the cores: OpenMP's threads wait for each other, and more of them than
# cores bring each other to a halt. Set before torch is imported, and for the processes that tests start.
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // workers)))

pytest_plugins = [
    "bed.s3",
    "bed.tiny",
    "bed.tiny_encoders",
    "bed.cluster",
    "bed.operator_process",
    "bed.podbed",
    "bed.trainings",
    "bed.helm",
    "bed.commands",
    "bed.images",
    "bed.mlflow_server",
]

# Fixtures whose files of tests come last, in this order.
TURNS = ("trainings", "cluster", "api_server")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that need a cluster come last, so that one which is started for a session does not idle for half of it.

    Of these, the long ones come first, which train in pods: at the end none is left over for one worker alone.
    """
    turns: dict[Path, int] = {}
    tests = Counter(item.path for item in items)
    for item in items:
        used = [turn for turn, name in enumerate(TURNS, start=1) if name in getattr(item, "fixturenames", ())]
        turns[item.path] = min([*used, turns.get(item.path, len(TURNS) + 1)])
    last = {path: (turn, -tests[path]) for path, turn in turns.items() if turn <= len(TURNS)}
    items.sort(key=lambda item: last.get(item.path, (0, 0)))
