"""Whether the files of a model can be read at all, from their first bytes: before time is spent on anything else.

Called by `acquire` for base models and encoders once they are on this node. Weights say in their header how long they
are, so that a copy that was cut off is told without reading it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from kubooth_trainer.errors import BadModelError

_LFS = b"version https://git-lfs.github.com/spec/"


def check_readable(uri: str, folder: Path, names: Iterable[str]) -> None:
    """Judges the files `names` of `folder`, which came from `uri`. Raises BadModelError, naming the first bad one."""
    for name in names:
        path = folder / name
        with path.open("rb") as file:
            if file.read(len(_LFS)) == _LFS:
                raise BadModelError(
                    f"{uri}/{name} is a pointer of Git LFS, not the file itself: fetch the files (git lfs pull) and "
                    "upload the model again"
                )
        try:
            if name.endswith(".safetensors"):
                with safe_open(path, framework="np"):
                    pass
            elif name.endswith(".json"):
                _check_precision(f"{uri}/{name}", json.loads(path.read_bytes()))
        except (SafetensorError, ValueError) as error:
            raise BadModelError(
                f"{uri}/{name} is damaged or cut off ({error}): upload the model again, whole"
            ) from error


def _check_precision(name: str, content: Any) -> None:
    if isinstance(content, dict) and content.get("quantization_config"):
        raise BadModelError(
            f"{name}: the weights are quantized, and a model is trained in full: "
            "take the model that they were made from"
        )
