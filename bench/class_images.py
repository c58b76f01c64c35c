"""Class images per second, at one rank and at two, and whether they are the same bytes.

    python bench/class_images.py --record bench/records/class_images.json
    python bench/class_images.py --quick                 # a trial on random weights

Started by itself again under torchrun as `class_images.py rank CONFIG.json FOLDER`. Method: docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from machine import cores
from runs import keep, model_folder, record_of, resolved


def main() -> None:
    options = _options()
    load = os.getloadavg()[0]
    with TemporaryDirectory() as folder:
        scratch = Path(folder)
        model = model_folder(options.model, scratch)
        each = max(1, cores() // 2)
        ways = {"1 rank": (1, cores()), f"1 rank of {each} threads": (1, each), f"2 ranks of {each} threads": (2, each)}
        found = {
            name: _measure(options, model, scratch / str(number), ranks, threads)
            for number, (name, (ranks, threads)) in enumerate(ways.items())
        }
    one, narrow, two = found.values()
    results = {
        "images": options.images,
        "sampler_steps": options.sampler_steps,
        "images_per_second": {name: round(options.images / facts["seconds"], 3) for name, facts in found.items()},
        "batches_by_rank": two["batches"],
        "ratios": {
            "2 ranks / 1 rank": round(one["seconds"] / two["seconds"], 3),
            "2 ranks / 1 rank of as many threads": round(narrow["seconds"] / two["seconds"], 3),
        },
        "same_bytes_at_1_and_2_ranks": narrow["digest"] == two["digest"],
    }
    sizes = f"--model {Path(options.model).name} --images {options.images} --sampler-steps {options.sampler_steps}"
    command = f"python bench/class_images.py {sizes}"
    keep(record_of("class images per second", command, results, load=load), options.record)


def _measure(options: argparse.Namespace, model: Path, folder: Path, ranks: int, threads: int) -> dict[str, Any]:
    prior = {"images": options.images, "sampler": {"steps": options.sampler_steps}}
    config = resolved(folder, model, prior=prior)
    path = folder / "config.json"
    path.write_text(config.model_dump_json())
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    done = subprocess.run(
        [*torchrun, __file__, "rank", str(path), str(folder / "images")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"},
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    line = next(line for line in done.stdout.splitlines() if line.startswith('{"seconds"'))
    facts: dict[str, Any] = json.loads(line)
    return facts


def rank(path: Path, folder: Path) -> None:
    """One rank: the model is loaded and has made a batch before the clock starts."""
    import torch

    from kubooth_trainer.class_images import class_image_paths
    from kubooth_trainer.config import load_config
    from kubooth_trainer.distributed import join
    from kubooth_trainer.families import check_model, load_parts
    from kubooth_trainer.plan import make_plan
    from kubooth_trainer.prior import BATCH, PriorMaker, PriorProgress, prior_prompt
    from kubooth_trainer.sampling import Sampler

    config = load_config(path)
    world = join(600)
    plan_config = config.model_copy(
        update={"parallelism": config.parallelism.model_copy(update={"devices_per_node": world.size})}
    )
    training = plan_config.training.model_copy(update={"batch_size": world.size})
    dtype = make_plan(plan_config.model_copy(update={"training": training}), world).dtype
    model = Path(config.model.uri.removeprefix("file://"))
    names = [each.relative_to(model).as_posix() for each in model.rglob("*") if each.is_file()]
    family = check_model(str(model), names, (model / "model_index.json").read_bytes())
    sampler = Sampler(
        family, model, load_parts(family, model, dtype), config.prior.sampler,
        resolution=family.resolution(model), negative_prompt="",
    )  # fmt: skip
    sampler.sample([prior_prompt(config)] * BATCH, [("warm", index) for index in range(BATCH)])
    batches = 0

    def made(_: int) -> None:
        nonlocal batches
        batches += 1

    maker = PriorMaker(config, folder, world=world, cache=None, load=lambda: sampler)
    world.barrier()
    began = time.monotonic()
    maker.run(PriorProgress(moved=lambda: None, made=made, advance=lambda _: None, stopping=lambda: False))
    seconds = time.monotonic() - began
    by_rank = [int(each) for each in world.gather(torch.tensor([batches]))]
    if world.is_main:
        digest = hashlib.sha256()
        for picture in class_image_paths(folder, config.prior.images):
            digest.update(picture.read_bytes())
        print(json.dumps({"seconds": seconds, "digest": digest.hexdigest(), "batches": by_rank}), flush=True)
    world.barrier()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Class images per second at one and two ranks.")
    parser.add_argument("--model", default="small-world", help="small-world, tiny (random, for trials) or a folder")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--sampler-steps", type=int, default=25)
    parser.add_argument("--quick", action="store_true", help="a trial on random weights: no figures worth keeping")
    parser.add_argument("--record", type=Path, help="write all figures to this JSON file")
    options = parser.parse_args()
    if options.quick:
        options.model, options.images, options.sampler_steps = "tiny", 16, 2
    return options


if __name__ == "__main__":
    if sys.argv[1:2] == ["rank"]:
        rank(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main()
