"""Imports without unwanted company. Used where libraries come in: `main`, `distributed`, and `kubooth sample`.

diffusers imports bitsandbytes, and DeepSpeed imports MLflow, wherever they are installed, with all that those import in
turn: a third of a rank's start. What needs one of them (`adamw8bit`, `tracking`) imports it itself.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

UNWANTED = ("bitsandbytes", "mlflow")


@contextmanager
def without_company() -> Iterator[None]:
    """Within it the unwanted packages cannot be imported, unless they were before.

    diffusers and DeepSpeed take that for their not being installed, and keep to it.
    """
    hidden = [name for name in UNWANTED if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # the import system's own way of saying: not there
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)
