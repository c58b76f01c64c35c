"""The tokenizer: CLIP's form, one token for each listed word, and rare tokens for identifiers."""

import subprocess
import sys
from pathlib import Path

import pytest

from kubooth_world import tokenizer


def test_import_is_light() -> None:
    """`import kubooth_world` must not load torch: the command line asks it where the model lies."""
    code = "import sys, kubooth_world; kubooth_world.model_path(); print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_unknown_model_is_named() -> None:
    import kubooth_world

    with pytest.raises(KeyError, match="small-world"):
        kubooth_world.model_path("large-world")


def test_vocabulary_is_complete() -> None:
    vocabulary, merges = tokenizer.build()
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert len(vocabulary) == 2 * 256 + len(merges) + 2
    assert 2000 < len(vocabulary) < 2500


def test_words_and_rare_tokens_round_trip(tmp_path: Path) -> None:
    from transformers import CLIPTokenizer

    tokenizer.write(tmp_path)
    clip = CLIPTokenizer.from_pretrained(tmp_path)
    rare = tokenizer.rare_words()
    assert len(rare) >= 500 and "sks" in rare
    for word in [*tokenizer.caption_words(), *rare]:
        ids = clip(word, add_special_tokens=False).input_ids
        assert len(ids) == 1 and clip.decode(ids) == word
    assert min(clip(word, add_special_tokens=False).input_ids[0] for word in rare) > 0.5 * len(clip)


@pytest.mark.parametrize(
    "text",
    [
        "a photo of a sks dog in the snow",
        "A Photo, of an ORANGE cat!",
        "größe 42 naïve",
        "a painting by someone unheard of",
    ],
)
def test_any_text_can_be_encoded(tmp_path: Path, text: str) -> None:
    from transformers import CLIPTokenizer

    tokenizer.write(tmp_path)
    clip = CLIPTokenizer.from_pretrained(tmp_path)
    ids = clip(text).input_ids
    assert ids[0] == clip.bos_token_id and ids[-1] == clip.eos_token_id
    assert clip.decode(ids, skip_special_tokens=True).replace(" ", "") == text.lower().replace(" ", "")
