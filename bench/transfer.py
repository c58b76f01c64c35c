"""Up to S3 and down again, against a plain single-stream copy of the same file to the same server.

    python bench/transfer.py --record bench/records/transfer.json
    python bench/transfer.py --quick                     # a trial with a small file

A real S3 server on this machine (the tests'). Ours also takes and checks digests. Method: docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import boto3
from botocore.config import Config
from runs import ROOT, keep, record_of

from kubooth_trainer.config import StorageConfig
from kubooth_trainer.storage import Storage, Upload

sys.path.append(str(ROOT / "tests"))

from bed import s3 as bed

BUCKET = "bench"
MIB = 1 << 20


def main() -> None:
    options = _options()
    load = os.getloadavg()[0]
    os.environ |= {"AWS_ACCESS_KEY_ID": bed.ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": bed.SECRET_KEY}
    with TemporaryDirectory() as folder:
        scratch = Path(folder)
        (scratch / "server").mkdir()
        with bed.serving(scratch / "server") as endpoint:
            results = measure(options, endpoint, scratch)
    command = f"python bench/transfer.py --mib {options.mib} --rounds {options.rounds}"
    keep(record_of("S3 transfer against a single-stream copy", command, results, load=load), options.record)


def measure(options: argparse.Namespace, endpoint: str, scratch: Path) -> dict[str, Any]:
    """Both ways in turn, both directions; the file is checked after each download."""
    client: Any = boto3.Session().client(
        "s3", endpoint_url=endpoint, region_name=bed.REGION, config=Config(s3={"addressing_style": "path"})
    )
    client.create_bucket(Bucket=BUCKET)
    storage = Storage(StorageConfig(endpoint=endpoint, region=bed.REGION))
    source, target = scratch / "weights.bin", scratch / "fetched"
    source.write_bytes(os.urandom(options.mib * MIB))

    def plain_up() -> None:
        with source.open("rb") as file:
            client.put_object(Bucket=BUCKET, Key="plain/weights.bin", Body=file)

    def plain_down() -> None:
        target.mkdir(exist_ok=True)
        with (target / "weights.bin").open("wb") as file:
            shutil.copyfileobj(client.get_object(Bucket=BUCKET, Key="plain/weights.bin")["Body"], file, MIB)

    def our_up() -> None:
        storage.upload_all([Upload(path=source, uri=f"s3://{BUCKET}/ours/weights.bin")])

    def our_down() -> None:
        storage.fetch_tree(f"s3://{BUCKET}/ours/", target)

    ways: dict[str, Callable[[], None]] = {
        "plain up": plain_up, "ours up": our_up, "plain down": plain_down, "ours down": our_down
    }  # fmt: skip
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            shutil.rmtree(target, ignore_errors=True)
            began = time.monotonic()
            way()
            seconds[name].append(time.monotonic() - began)
            if name.endswith("down") and (target / "weights.bin").read_bytes() != source.read_bytes():
                raise RuntimeError(f"{name}: the file came back changed")
    rates = {name: round(options.mib / median(each), 1) for name, each in seconds.items()}
    return {
        "mib": options.mib,
        "mib_per_second": rates,
        "ratios": {
            way: round(median(a / b for a, b in zip(seconds[f"plain {way}"], seconds[f"ours {way}"], strict=True)), 3)
            for way in ("up", "down")
        },
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="S3 transfer against a single-stream copy.")
    parser.add_argument("--mib", type=int, default=512, help="size of the file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a trial with a small file")
    parser.add_argument("--record", type=Path, help="write all figures to this JSON file")
    options = parser.parse_args()
    if options.quick:
        options.mib, options.rounds = 24, 1
    return options


if __name__ == "__main__":
    main()
