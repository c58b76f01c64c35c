"""Loads the fixtures that several folders share. `bed` is found here, never through the repository root."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))

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
]
