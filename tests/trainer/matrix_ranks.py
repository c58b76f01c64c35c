"""Run by torchrun: trains the tiny model at several ZeRO stages in one process group; rank 0 prints losses as JSON.

Usage: torchrun … matrix_ranks.py CONFIG.json CASES.json; a case is {"zero_stage": 2, "checkpoints": {…}} by name; with
"most_numbers" AdamW8bit cuts its groups there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from kubooth_trainer import adamw8bit
from kubooth_trainer.batches import TrainInputs
from kubooth_trainer.checkpoint import Checkpoints
from kubooth_trainer.checkpoint_claim import claim_checkpoints
from kubooth_trainer.claim import Claim, Identity
from kubooth_trainer.company import without_company
from kubooth_trainer.config import TrainConfig, load_config
from kubooth_trainer.distributed import World, join
from kubooth_trainer.families import FAMILIES
from kubooth_trainer.fit import MemoryNote
from kubooth_trainer.latents import Latents
from kubooth_trainer.plan import make_plan
from kubooth_trainer.progress import Reporter
from kubooth_trainer.stopping import StopFlag, Watchdog
from kubooth_trainer.storage import Storage

with without_company():  # as `main` does
    from kubooth_trainer import loop


def latents(items: int, seed: int, model: Path) -> Latents:
    vae = json.loads((model / "vae" / "config.json").read_text())
    unet = json.loads((model / "unet" / "config.json").read_text())
    generator = torch.Generator().manual_seed(seed)
    shape = (items, 1, vae["latent_channels"], unet["sample_size"], unet["sample_size"])
    return Latents(torch.randn(shape, generator=generator), torch.full(shape, 0.1))


def run(config: TrainConfig, world: World, identity: str) -> dict[str, object]:
    model = Path(config.model.uri.removeprefix("file://"))
    pipeline = json.loads((model / "model_index.json").read_text())["_class_name"]
    family = next(known for known in FAMILIES if known.pipeline == pipeline)
    prompts = ["a photo of a zqx dog", "a photo of a dog"]
    reporter = Reporter()
    claim = Claim(storage=Storage(config.storage), uri=config.checkpoints.uri, identity=Identity.of(config))
    if world.is_main:
        claim_checkpoints(claim)
    checkpoints = Checkpoints(
        claim, config.checkpoints, identity=identity, precision="FP32", scratch=Path(config.workdir) / "scratch",
        world=world, moved=reporter.moved,
    )  # fmt: skip
    inputs = TrainInputs(
        family=family, model_folder=model, instance_latents=latents(4, 1, model), class_latents=latents(6, 2, model),
        token_ids=family.tokenize(family.load_tokenizers(model), prompts), instance_prompts=[0] * 4, class_prompt=1,
    )  # fmt: skip
    around = loop.Surroundings(
        world=world, checkpoints=checkpoints, reporter=reporter, stop=StopFlag(),
        watchdog=Watchdog(600, lambda _: None),
        note=MemoryNote(claim=claim, identity=identity),
    )  # fmt: skip
    loop.train(config, make_plan(config, world), inputs, around)
    return {"losses": [(event.step, event.loss) for event in reporter.history], "warnings": reporter.warnings}


def main() -> None:
    loop.SYNC_STEPS = 1  # every loss, not means of five
    base = load_config(Path(sys.argv[1])).model_dump()
    world = join(base["deadlines"]["stall_seconds"])
    for name, case in json.loads(Path(sys.argv[2]).read_text()).items():
        changed = json.loads(json.dumps(base))
        changed["parallelism"] |= {"zero_stage": case["zero_stage"], "devices_per_node": world.size}
        changed["parallelism"] |= case.get("parallelism", {})
        changed["training"] |= case.get("training", {})
        changed["checkpoints"] |= case.get("checkpoints", {})
        adamw8bit.MOST_NUMBERS = case.get("most_numbers", 1 << 30)
        result = run(TrainConfig.model_validate(changed), world, case.get("identity", "matrix"))
        if world.is_main:
            print("RESULT " + json.dumps({"case": name, **result}), flush=True)
        world.barrier()


if __name__ == "__main__":
    main()
