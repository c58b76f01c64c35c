"""The encoders of the bundled world: small networks in public layouts, which measure pictures of this world.

They have the architectures that the papers measure with, so that whoever loads DINO, CLIP and LPIPS from a folder
loads these too: a `ViTModel` whose class token tells instances apart, a `CLIPModel` for pictures and captions, and
the AlexNet stack of LPIPS. Each folder names its domain in `domain.json`: they say nothing about real photos, and
statistics beside it tell pictures of another kind.
"""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTModel

DOMAIN: Final = "small-world"
DOMAIN_TEXT: Final = "drawn scenes of the bundled world"
VIT_SIDE: Final = 56
"""The middle of a picture of 64 pixels: DINO's transform keeps 7/8 of each side."""
CLIP_SIDE: Final = 64
MEAN: Final = {"vit": (0.485, 0.456, 0.406), "clip": (0.48145466, 0.4578275, 0.40821073)}
STD: Final = {"vit": (0.229, 0.224, 0.225), "clip": (0.26862954, 0.26130258, 0.27577711)}
LPIPS_SHIFT: Final = (-0.030, -0.088, -0.188)
LPIPS_SCALE: Final = (0.458, 0.448, 0.450)
_WIDTH: Final = 96
_LPIPS_WIDTHS: Final = (16, 48, 96, 64, 64)


def build_vit() -> ViTModel:
    """Return the instance encoder: 0.3 million parameters, (n, 3, 56, 56) to a class token of 96."""
    return ViTModel(
        ViTConfig(
            hidden_size=_WIDTH, num_hidden_layers=4, num_attention_heads=4, intermediate_size=2 * _WIDTH,
            image_size=VIT_SIDE, patch_size=14, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        ),
        add_pooling_layer=False,
    )  # fmt: skip


def build_clip(vocabulary: int, *, start: int, end: int, length: int) -> CLIPModel:
    """Return the encoder of pictures and captions: 0.8 million parameters, embeddings of 64."""
    tower = {"hidden_size": _WIDTH, "intermediate_size": 2 * _WIDTH, "num_attention_heads": 4, "projection_dim": 64}
    return CLIPModel(
        CLIPConfig(
            projection_dim=64,
            vision_config={**tower, "num_hidden_layers": 4, "image_size": CLIP_SIDE, "patch_size": 16},
            text_config={
                **tower, "num_hidden_layers": 2, "vocab_size": vocabulary, "max_position_embeddings": length,
                "bos_token_id": start, "eos_token_id": end, "pad_token_id": end,
            },
        )
    )  # fmt: skip


def texture(pixels: Tensor) -> Tensor:
    """Return what tells drawn scenes from photos, (n, 18), of pictures (n, 3, h, w) in [0, 1].

    Quantiles of the steps between neighbours, of curvature (as logarithms) and of saturation. Whoever loads an
    encoder with a `domain.json` computes the same.
    """
    steps = torch.cat([(pixels.diff(dim=dim).abs().mean(1)).flatten(1) for dim in (3, 2)], dim=1)
    inner = 4 * pixels[..., 1:-1, 1:-1]
    around = pixels[..., :-2, 1:-1] + pixels[..., 2:, 1:-1] + pixels[..., 1:-1, :-2] + pixels[..., 1:-1, 2:]
    curvature = (inner - around).abs().mean(1).flatten(1)
    saturation = (pixels.amax(1) - pixels.amin(1)).flatten(1)
    at = torch.tensor((0.1, 0.25, 0.5, 0.75, 0.9, 0.97))
    logarithms = [torch.quantile(values + 3e-3, at, dim=1).log().T for values in (steps, curvature)]
    return torch.cat([*logarithms, torch.quantile(saturation, at, dim=1).T], dim=1)


class AlexFeatures(nn.Module):
    """The five feature maps of AlexNet (arXiv 1404.5997), narrow; names as in the `lpips` package."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, *_LPIPS_WIDTHS)
        geometry = {0: (11, 4, 2), 3: (5, 1, 2), 6: (3, 1, 1), 8: (3, 1, 1), 10: (3, 1, 1)}
        for slice_, (index, (kernel, stride, padding)) in enumerate(geometry.items()):
            convolution = nn.Conv2d(widths[slice_], widths[slice_ + 1], kernel, stride=stride, padding=padding)
            self.add_module(f"slice{slice_ + 1}", nn.ModuleDict({str(index): convolution}))

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Turn (n, 3, h, w) in [-1, 1] into five feature maps."""
        shift, scale = (pixels.new_tensor(values)[:, None, None] for values in (LPIPS_SHIFT, LPIPS_SCALE))
        states, maps = (pixels - shift) / scale, []
        for slice_ in range(1, 6):
            if slice_ in (2, 3):
                states = F.max_pool2d(states, 3, stride=2)
            (convolution,) = self.get_submodule(f"slice{slice_}").children()
            states = F.relu(convolution(states))
            maps.append(states)
        return maps
