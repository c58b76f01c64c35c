"""The bundled procedural world: scenes with exact ground truth and a small text-to-image model.

Importing this package loads neither torch nor any weights, so that a command line can ask where the
model lies without paying for it.
"""

from pathlib import Path

__version__ = "0.1.0"

MODELS: tuple[str, ...] = ("small-world",)
"""Names of the models that ship in this package."""


ENCODERS: tuple[str, ...] = ("dino", "clip", "lpips")
"""Metric encoders that ship in this package: they measure scenes of this world, and nothing else."""


def model_path(name: str = "small-world") -> Path:
    """Return the folder of a bundled model, in the diffusers `StableDiffusionPipeline` layout.

    Raises:
        KeyError: no model of that name ships in this package.
    """
    if name not in MODELS:
        raise KeyError(f"unknown model {name!r}; this package ships: {', '.join(MODELS)}")
    return Path(__file__).parent / "models" / name


def encoder_path(role: str) -> Path:
    """Return the folder of a bundled metric encoder (Hugging Face layout): one of `ENCODERS`.

    Raises:
        KeyError: no such encoder ships in this package.
    """
    if role not in ENCODERS:
        raise KeyError(f"unknown encoder {role!r}; this package ships: {', '.join(ENCODERS)}")
    return Path(__file__).parent / "encoders" / role


def oracle_path() -> Path:
    """Return the weights (safetensors) of the encoder that judges renders and samples."""
    return Path(__file__).parent / "models" / "oracle.safetensors"
