"""Names of weights in a component's folder, and which variant of them is loaded.

As diffusers and transformers write them; the last two are those of earlier releases, which diffusers still reads:

    plain                               variant fp16
    model.safetensors                   model.fp16.safetensors
    model-00001-of-00002.safetensors    model.fp16-00001-of-00002.safetensors    model-00001-of-00002.fp16.safetensors
    model.safetensors.index.json        model.safetensors.index.fp16.json        model.safetensors.fp16.index.json
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_VARIANT = re.compile(r"\.(fp16|non_ema)(?=[.-])")


def variant_of(name: str) -> str | None:
    """The variant that a file name tells of; None: it is plain."""
    found = _VARIANT.search(name)
    return found[1] if found else None


def plain_name(name: str) -> str:
    """The name that the same file has where there are no variants."""
    return _VARIANT.sub("", name)


def is_weights(name: str) -> bool:
    """Whether a file holds safetensors, or says which file holds which."""
    return plain_name(name).endswith((".safetensors", ".safetensors.index.json"))


def variant_to_load(names: Iterable[str]) -> str | None:
    """`variant` for `from_pretrained` of a component with these files: fp16 where there are no plain weights."""
    found = {variant_of(name) for name in names if name.endswith(".safetensors")}
    return "fp16" if "fp16" in found and None not in found else None
