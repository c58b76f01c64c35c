"""Stage `text`: teach the text encoder what captions say, before the denoiser listens to it.

Trained jointly from scratch, the denoiser learns to hear the place only. Some hundred steps of
predicting each attribute (or "not said") from the states after the caption make all of them audible.
"""

from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTokenizer

from kubooth_world import architecture, dataset, tokenizer
from kubooth_world.everyday import EVERYDAY_WORDS
from kubooth_world.training.loop import Fit, Plan, Worker
from kubooth_world.vocabulary import CLASSES, COLOURS, CONTEXTS, PATTERNS

FOREIGN_SHARE: Final = 0.08
"""Share of captions that get a word which means nothing here, so that unknown words do no harm."""

_SPOKEN: Final[dict[str, tuple[str, ...]]] = {
    "kind": CLASSES,
    "colour": tuple(COLOURS),
    "second": tuple(COLOURS),
    "pattern": PATTERNS,
    "context": tuple(phrase.split()[-1] for phrase in CONTEXTS.values()),
    "hat": ("none", "top", "santa"),
}
_PATTERN_WORDS: Final = {"stripes": "striped", "dots": "dotted", "checks": "checked"}


def said(caption: str) -> dict[str, int]:
    """Return what a caption says: attribute to index, or the number of values when not said."""
    words = [_PATTERN_WORDS.get(word, word) for word in caption.split()]
    found: dict[str, int] = {}
    for name, values in _SPOKEN.items():
        hits = [values.index(word) for word in words if word in values]
        if name == "second":
            hits = hits[1:]
        found[name] = hits[0] if hits else len(values)
    return found


def with_foreign_words(captions: list[str], rng: np.random.Generator) -> list[str]:
    """Put a rare token or an everyday word before the class of a few captions."""
    rare = tokenizer.rare_words()
    result = []
    for caption in captions:
        if rng.random() < FOREIGN_SHARE:
            pool = rare if rng.random() < 0.7 else EVERYDAY_WORDS
            word = str(pool[int(rng.integers(len(pool)))])
            caption = " ".join(f"{word} {w}" if w in CLASSES else w for w in caption.split())
        result.append(caption)
    return result


def tokenize(clip_tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Return (n, MAX_LENGTH) token ids, padded as the pipeline pads them."""
    encoded = clip_tokenizer(
        captions,
        padding="max_length",
        max_length=tokenizer.MAX_LENGTH,
        truncation=True,
        return_tensors="pt",
    )
    ids: Tensor = encoded.input_ids
    return ids


class Listener(nn.Module):
    """Reads from the states after a caption what it says: one linear head an attribute."""

    def __init__(self) -> None:
        """Build the heads for the small world's text encoder."""
        super().__init__()
        width = architecture.SMALL_WORLD.text_hidden
        self.heads = nn.ModuleDict({name: nn.Linear(width, len(values) + 1) for name, values in _SPOKEN.items()})

    def forward(self, texts: list[str], ids: Tensor, states: Tensor, end: int) -> tuple[Tensor, float]:
        """Return the mean cross-entropy, and the share of the attribute that is read worst.

        `ids` (n, MAX_LENGTH) are the tokens of `texts`, `states` (n, MAX_LENGTH, text_hidden) what the encoder makes of
        them, `end` is the token that ends a caption. Both the first end and the last place are read.
        """
        spoken = [said(text) for text in texts]
        first_end = (ids == end).int().argmax(1)
        after = torch.stack([states[torch.arange(len(ids)), first_end], states[:, -1]]).float()
        losses, right = [], []
        for name, head in self.heads.items():
            target = torch.tensor([words[name] for words in spoken])
            logits = head(after)
            losses += [F.cross_entropy(logits[0], target), F.cross_entropy(logits[1], target)]
            right.append(float((logits[0].argmax(1) == target).float().mean()))
        return torch.stack(losses).mean(), min(right)


def train(rank: int, count: int, folder: Path, scenes: int, plan: Plan) -> None:
    """Pretrain the text encoder in `folder`; one of `count` workers."""
    worker = Worker(rank=rank, count=count)
    worker.join(folder, "text")
    torch.manual_seed(plan.seed)
    clip_tokenizer = architecture.load_tokenizer(folder / f"tokenizer-{rank}")
    encoder = architecture.build_text_encoder(architecture.SMALL_WORLD, len(clip_tokenizer)).train()
    listener = Listener()
    captions = dataset.load_captions(folder / "data", scenes)

    def loss(rng: np.random.Generator, step: int) -> tuple[Tensor, dict[str, float]]:
        picks = rng.integers(captions.size, size=plan.batch)
        texts = with_foreign_words([str(captions.flat[i]) for i in picks], rng)
        ids = tokenize(clip_tokenizer, texts)
        with torch.autocast("cpu", torch.bfloat16):
            states = encoder(ids).last_hidden_state
        unheard, right = listener(texts, ids, states, clip_tokenizer.eos_token_id)
        return unheard, {"right": right}

    Fit(plan, worker, folder / "text.safetensors", {"text": encoder, "listener": listener}).run(loss)
