"""Shards on disk: scenes, and triples that differ in nothing but the pattern."""

from pathlib import Path

import numpy as np
import pytest

from kubooth_world import dataset, oracle
from kubooth_world.pixels import to_tensor


@pytest.fixture
def shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A set of two small shards; one process, since others would not see the sizes set here."""
    monkeypatch.setattr(dataset, "SHARD", 8)
    monkeypatch.setattr(dataset, "TRIPLES", 12)
    for path in dataset.scene_shards(tmp_path, 16) + dataset.triple_shards(tmp_path, 16):
        dataset._make_shard(path)
    return tmp_path


def test_a_set_is_loaded_as_it_was_made(shards: Path) -> None:
    data = dataset.load(shards, 16)
    assert data.images.shape == (16, 64, 64, 3)
    assert data.captions.shape == (16, dataset.CAPTIONS)
    assert {len(labels) for labels in data.labels.values()} == {16}
    assert not list(shards.glob("*.part"))


def test_triples_are_one_scene_in_three_patterns(shards: Path) -> None:
    for shard in dataset.triple_shards(shards, 16):
        images, captions = dataset.load_array(shard, "images"), dataset.load_array(shard, "captions")
        assert images.shape == (12, 3, 64, 64, 3)
        assert captions.shape == (12, dataset.CAPTIONS, 3)
        judge = oracle.load()
        readings = [judge(to_tensor(images[:, n])) for n in range(3)]
        for n, pattern in enumerate(dataset.RIVALS):
            assert np.mean([word == pattern for word in readings[n].words("pattern")]) > 0.8
        # What the pattern does not touch is the same to the pixel.
        for name in ("kind", "context"):
            assert readings[0].words(name) == readings[1].words(name) == readings[2].words(name)
        assert np.mean(images[:, 0] == images[:, 1]) > 0.5
