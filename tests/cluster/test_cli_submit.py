"""`kubooth submit` against a real API server and real S3: what is uploaded, what is made, what is refused before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from bed.commands import Kubooth
from bed.jobs import Bench, job, runtime
from bed.s3 import REGION, S3


@pytest.fixture
def inbox(bench: Bench, s3: S3) -> str:
    """The inbox of a runtime `inbox` that allows eight steps."""
    uri = s3.uri("inbox/{namespace}/")
    storage = {"endpoint": "http://s3.invalid", "externalEndpoint": s3.endpoint, "region": REGION, "inbox": uri}
    bench.create_runtime(runtime("inbox", storage=storage, limits={"steps": 1000}))
    return uri.replace("{namespace}", bench.namespace)


@pytest.fixture
def rex(tmp_path: Path) -> Path:
    """A folder with two photos, as far as uploading goes."""
    folder = tmp_path / "My Rex"
    folder.mkdir()
    for name in ("one.jpg", "two.jpg", ".hidden"):
        (folder / name).write_bytes(name.encode() * 100)
    return folder


def submit(photos: Path, *more: str | Path) -> list[str | Path]:
    required = ["--class", "dog", "--model", "s3://models/sd15/", "--result", "s3://models/rex/", "--no-watch"]
    return ["submit", "--photos", photos, "--runtime", "inbox", *required, *more]


def test_submit_uploads_and_creates(kubooth: Kubooth, bench: Bench, s3: S3, inbox: str, rex: Path) -> None:
    assert kubooth(*submit(rex)) == "personalizationjob.kubooth.io/my-rex created\n"
    spec = bench.job("my-rex")["spec"]
    images = spec["subject"]["images"]
    assert images.startswith(f"{inbox}my-rex-") and images.endswith("/")
    prefix = images.removeprefix(s3.uri())
    assert s3.keys() == [f"{prefix}one.jpg", f"{prefix}two.jpg"]
    assert s3.get(f"{prefix}one.jpg") == (rex / "one.jpg").read_bytes()
    assert (spec["model"], spec["output"]["uri"]) == ({"uri": "s3://models/sd15/"}, "s3://models/rex/")
    code, line = kubooth.refuses(*submit(rex))
    assert code == 2 and "there is a job my-rex" in line


def test_submit_of_a_manifest_with_photos_beside_it(kubooth: Kubooth, bench: Bench, inbox: str, rex: Path) -> None:
    manifest = job("tom", runtime="inbox")
    manifest["spec"]["subject"]["images"] = "file:My Rex/"
    (kubooth.folder / "job.yaml").write_text(yaml.safe_dump(manifest))
    name = kubooth("submit", "job.yaml", "--set", "training.steps=7", "-o", "name")
    assert name == "personalizationjob.kubooth.io/tom\n"
    spec = bench.job("tom")["spec"]
    assert spec["subject"]["images"].startswith(f"{inbox}tom-") and spec["training"]["steps"] == 7


def test_a_dry_run_makes_nothing(kubooth: Kubooth, bench: Bench, s3: S3, inbox: str, rex: Path) -> None:
    assert "dry run" in kubooth(*submit(rex, "--dry-run"))
    assert s3.keys() == [] and bench.rest.find(bench.job_path("my-rex")) is None


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--set", "training.steps=2000"), "spec.training.steps"),
        (("--set", "training.stepz=5"), "spec.training.stepz"),
        (("--name", "Rex"), "metadata.name"),
        (("--runtime", "other"), "there is no runtime other"),
        (("--runtime", "default"), "no storage.inbox"),
        (("--to", "file:///tmp/"), "s3:// only"),
    ],
)
def test_what_is_refused_is_not_uploaded(
    kubooth: Kubooth, s3: S3, inbox: str, rex: Path, more: tuple[str, ...], words: str
) -> None:
    code, line = kubooth.refuses(*submit(rex, *more))
    assert code == 2 and words in line
    assert s3.keys() == []


def test_submit_of_no_photos(kubooth: Kubooth, inbox: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for photos, words in ((tmp_path / "empty", "no files"), (tmp_path / "none", "cannot be read")):
        code, line = kubooth.refuses(*submit(photos))
        assert code == 2 and words in line
    code, line = kubooth.refuses("submit")
    assert code == 2 and "give a manifest" in line


def test_storage_that_does_not_let_in(kubooth: Kubooth, s3: S3, inbox: str, rex: Path) -> None:
    kubooth.extra = {"AWS_SECRET_ACCESS_KEY": "not-it"}
    code, line = kubooth.refuses(*submit(rex))
    assert code == 2 and "not-it" not in line and inbox in line


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"spec": []}, "spec"),
        ({"spec": None}, "spec"),
        ({"metadata": "rex"}, "metadata"),
        ({"spec": {**job()["spec"], "subject": "dog"}}, "spec.subject"),
        ({"spec": {**job()["spec"], "runtimeRef": "default"}}, "spec.runtimeRef"),
        ({"kind": "Pod"}, "kind: must be PersonalizationJob"),
    ],
)
def test_a_manifest_in_disorder(kubooth: Kubooth, changes: dict[str, Any], words: str) -> None:
    (kubooth.folder / "job.yaml").write_text(yaml.safe_dump({**job(), **changes}))
    code, line = kubooth.refuses("submit", "job.yaml", "--class", "cat")
    assert code == 2 and words in line
