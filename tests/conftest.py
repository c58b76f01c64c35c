"""Loads the fixtures that several folders share. `bed` is found here, never through the repository root."""

import os
import sys
from pathlib import Path

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
