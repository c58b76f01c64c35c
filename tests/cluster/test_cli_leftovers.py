"""`kubooth leftovers`: against a real API server and a real bucket, what is a job's and what is nobody's any more."""

from __future__ import annotations

import json

import pytest
from bed.commands import Kubooth
from bed.jobs import Bench, job, runtime
from bed.s3 import REGION, S3

from kubooth_trainer.claim import CLAIM, Identity


@pytest.fixture
def bucket(bench: Bench, s3: S3) -> S3:
    """The store of a runtime `work`; in it, what two jobs of the namespace were at, one of which is deleted."""
    storage = {"endpoint": "http://s3.invalid", "externalEndpoint": s3.endpoint, "region": REGION}
    bench.create_runtime(runtime("work", storage=storage))
    uids = {name: bench.create(job(name))["metadata"]["uid"] for name in ("rex", "tom")}
    for name, uid in uids.items():
        who = Identity(name=name, namespace=bench.namespace, uid=uid, attempt=1, digest="d")
        s3.put(f"out/{name}/.kubooth/checkpoints/{CLAIM}", who.to_json())
        s3.put(f"out/{name}/.kubooth/checkpoints/attempt-1/step-000100/weights.safetensors", b"w" * 1000)
    s3.put("out/old/manifest.json", b"{}")
    bench.rest.delete(bench.job_path("tom"))
    return s3


def test_shown_then_cleared_away(kubooth: Kubooth, bucket: S3) -> None:
    where = bucket.uri("out/")
    everything = set(bucket.keys())
    assert kubooth("leftovers", where, "--runtime", "work") == ""  # written just now
    now = (where, "--runtime", "work", "--max-age", "0s")
    header, line = kubooth("leftovers", *now).splitlines()
    assert header.split() == ["NAMESPACE", "JOB", "WHAT", "SIZE", "OUTPUT"]
    assert line.split() == [kubooth.namespace, "tom", "checkpoints", "1.0", "kB", bucket.uri("out/tom")]
    (told,) = json.loads(kubooth("leftovers", *now, "-A", "-o", "json"))
    assert told["job"]["name"] == "tom" and told["bytes"] == 1000
    assert set(bucket.keys()) == everything
    assert "1.0 kB cleared away" in kubooth.try_("leftovers", *now, "--delete").stderr
    assert set(bucket.keys()) == {key for key in everything if not key.startswith("out/tom/")}
    assert kubooth("leftovers", *now, "--delete") == ""


def test_of_other_namespaces_only_where_asked(kubooth: Kubooth, bench: Bench, bucket: S3) -> None:
    who = Identity(name="sam", namespace="elsewhere", uid="gone", attempt=1, digest="d")
    bucket.put(f"out/sam/.kubooth/checkpoints/{CLAIM}", who.to_json())
    now = ("leftovers", bucket.uri("out/"), "--runtime", "work", "--max-age", "0s", "-o", "json")
    assert {each["job"]["name"] for each in json.loads(kubooth(*now))} == {"tom"}
    assert {each["job"]["name"] for each in json.loads(kubooth(*now, "-A"))} == {"tom", "sam"}


def test_places_that_are_none(kubooth: Kubooth, bucket: S3) -> None:
    code, line = kubooth.refuses("leftovers", "file:///tmp")
    assert code == 2 and "s3:// only" in line
    code, line = kubooth.refuses("leftovers", "s3://not-there/", "--runtime", "work")
    assert code == 2 and "s3://not-there" in line
