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

# Fixtures by which files of tests are told apart: those that train in pods, those with other pods, those without pods.
CLUSTERS = ("trainings", "cluster", "api_server")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that need a cluster come last, so that one which is started for a session does not idle for half of it.

    Those that train in pods are the long ones, and wait for much of their time: they are dealt out among the last two
    thirds of the files that compute, which then have the cores meanwhile. At the end are many short ones.
    """
    kinds: dict[Path, int] = {}
    tests = Counter(item.path for item in items)
    for item in items:
        used = [kind for kind, name in enumerate(CLUSTERS) if name in getattr(item, "fixturenames", ())]
        kinds[item.path] = min([*used, kinds.get(item.path, len(CLUSTERS))])
    training = sorted((path for path, kind in kinds.items() if kind == 0), key=lambda path: -tests[path])
    computing = [path for path, kind in kinds.items() if kind == len(CLUSTERS)]
    places = {path: (float(kind), -tests[path]) for path, kind in kinds.items()}
    places |= {path: (index / len(computing), 0) for index, path in enumerate(computing)}
    places |= {path: ((1 + 2 * index / len(training)) / 3, 0) for index, path in enumerate(training)}
    items.sort(key=lambda item: places[item.path])
