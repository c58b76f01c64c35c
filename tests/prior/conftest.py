"""An empty place for a prior cache: on disk and in a bucket of a real S3 server."""

from __future__ import annotations

from pathlib import Path

import pytest
from prior.shelf import Shelf

from kubooth_trainer.config import StorageConfig


@pytest.fixture(params=["file", "s3"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Shelf:
    if request.param == "s3":
        s3 = request.getfixturevalue("s3")
        return Shelf(s3.config, s3.uri("priors/"), tmp_path)
    return Shelf(StorageConfig(endpoint=None, region=None), (tmp_path / "priors").as_uri(), tmp_path)
