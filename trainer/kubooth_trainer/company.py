"""Imports without unwanted company. Used where libraries come in: `main`, `distributed`, and `kubooth sample`.

diffusers imports bitsandbytes, and DeepSpeed imports MLflow, wherever they are installed, with all that those import in
turn: a third of a rank's start. What needs one of them (`adamw8bit`, `tracking`) imports it itself. The garbage
collector, which finds nothing among a million new objects that stay, is a sixth of the rest.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

UNWANTED = ("bitsandbytes", "mlflow")


@contextmanager
def without_company() -> Iterator[None]:
    """Within it the unwanted packages cannot be imported, unless they were before, and no garbage is collected.

    diffusers and DeepSpeed take the former for their not being installed, and keep to it.
    """
    collects = gc.isenabled()
    gc.disable()
    hidden = [name for name in UNWANTED if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # the import system's own way of saying: not there
    try:
        yield
    finally:
        if collects:
            gc.enable()
        for name in hidden:
            sys.modules.pop(name, None)
