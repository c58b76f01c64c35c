"""Run by torchrun: the prior stage on the tiny model, at any number of ranks. Rank 0 prints what was made, as JSON.

Arguments: the model's folder, the config (JSON), the URI of a cache or "none", and where it is wanted "slow": then
rank 1 is not done with its first batch before rank 0 is done with two.
"""

from __future__ import annotations

import hashlib
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from kubooth_trainer.class_images import class_image_paths
from kubooth_trainer.company import without_company
from kubooth_trainer.config import load_config
from kubooth_trainer.distributed import _store, join
from kubooth_trainer.families import FAMILIES, load_parts
from kubooth_trainer.prior import PriorMaker, PriorProgress
from kubooth_trainer.prior_cache import PriorCache, open_storage
from kubooth_trainer.sampling import Sampler

RESOLUTION = 32


def main() -> None:
    warnings.simplefilter("ignore")
    model, config, uri = Path(sys.argv[1]), load_config(Path(sys.argv[2])), sys.argv[3]
    world = join(600)
    said: list[str] = []
    cache = None
    if uri != "none" and world.is_main:
        cache = PriorCache(open_storage(config.storage), uri, key="ab" * 32, resolution=RESOLUTION, warn=said.append)

    def load() -> Sampler:
        family = FAMILIES[0]
        return Counting(
            family, model, load_parts(family, model, torch.float32), config.prior.sampler,
            resolution=RESOLUTION, negative_prompt="",
        )  # fmt: skip

    batches = 0
    meeting = _store() if sys.argv[4:] == ["slow"] else None

    class Counting(Sampler):
        def sample_latents(self, *arguments: Any) -> torch.Tensor:
            nonlocal batches
            batches += 1
            latents = super().sample_latents(*arguments)
            if meeting is not None and world.rank == 1:
                meeting.wait(["two are done"])
            elif meeting is not None and batches == 2:
                meeting.set("two are done", "")
            return latents

    folder = Path(config.workdir) / "prior"
    maker = PriorMaker(config, folder, world=world, cache=cache, load=load)
    count = maker.run(
        PriorProgress(moved=lambda: None, made=lambda _: None, advance=lambda _: None, stopping=lambda: False)
    )
    if cache is not None:
        cache.close(about={})
    by_rank = [int(each) for each in world.gather(torch.tensor([batches]))]
    if world.is_main:
        in_threes = load().sample(
            ["a photo of a dog"] * 3, [(config.training.seed, "prior", index) for index in range(3)]
        )
        paths = class_image_paths(folder, config.prior.images)
        in_eights = torch.stack([torch.from_numpy(np.array(Image.open(path))) for path in paths[:3]])
        facts: dict[str, Any] = {
            "digests": [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths],
            "batch_difference": int((in_threes.int() - in_eights.int()).abs().max()),
            "batches": by_rank,
            "taken": count.taken, "made": count.made, "saved": count.seconds_saved, "warnings": said,
        }  # fmt: skip
        print(json.dumps(facts), flush=True)
    world.barrier()


if __name__ == "__main__":
    with without_company():  # as the trainer's own `main` does
        main()
