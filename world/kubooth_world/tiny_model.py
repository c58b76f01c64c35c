"""A complete text-to-image model with random weights and tiny shapes, for tests.

It has the layout, tokenizer and classes of the bundled model, but a training step takes milliseconds.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from kubooth_world import architecture


def write(
    path: str | Path,
    *,
    seed: int = 0,
    prediction_type: str = "v_prediction",
    shape: architecture.Shape = architecture.TINY,
) -> Path:
    """Write a random model to `path` (a folder, made when missing) and return it.

    The same seed gives the same weights. Resolution is 32 pixels, latents are 4 x 8 x 8, prompts have
    32 tokens; `prediction_type` is `v_prediction` or `epsilon`. The global random state is untouched.
    """
    folder = Path(path)
    with torch.random.fork_rng(devices=[]), TemporaryDirectory() as scratch:
        torch.manual_seed(seed)
        clip_tokenizer = architecture.load_tokenizer(Path(scratch))
        pipeline = architecture.assemble(
            vae=architecture.build_vae(shape),
            text_encoder=architecture.build_text_encoder(shape, len(clip_tokenizer)),
            unet=architecture.build_unet(shape),
            clip_tokenizer=clip_tokenizer,
            prediction_type=prediction_type,
        )
        architecture.save(pipeline, folder, torch.float32)
    return folder
