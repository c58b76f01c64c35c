"""One contract, two kinds of storage: `place` is an empty folder in a real bucket and on the local disk in turn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from kubooth_trainer.config import StorageConfig
from kubooth_trainer.storage import Storage


@dataclass(frozen=True)
class Place:
    """An empty folder that a storage can write to."""

    storage: Storage
    uri: str

    def at(self, name: str) -> str:
        return self.storage.join(self.uri, name)

    def put(self, name: str, data: bytes) -> str:
        self.storage.write_bytes(self.at(name), data)
        return self.at(name)

    def names(self) -> list[str]:
        return [entry.name for entry in self.storage.list(self.uri)]


@pytest.fixture(params=["file", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "s3":
        s3 = request.getfixturevalue("s3")
        return Place(Storage(s3.config), s3.uri("place"))
    config = StorageConfig(endpoint=None, region=None)
    return Place(Storage(config), (tmp_path / "place % é").as_uri())
