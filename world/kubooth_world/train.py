"""Train the small model from nothing: `python -m kubooth_world.train`.

Stages run in order, each in worker processes that end with it: data, oracle after vae (it learns from
round trips too), the metric encoders after the oracle (it teaches them), text, unet, export, evaluate.
Interrupt at any time; the same command goes on from the last checkpoint. Everything lies in one working
folder, by default under the user's cache.
"""

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from torch.multiprocessing.spawn import spawn

from kubooth_world import dataset, evaluate, oracle
from kubooth_world.training import encoders, export, text, unet, vae
from kubooth_world.training import oracle as oracle_stage
from kubooth_world.training.export_encoders import export_encoders
from kubooth_world.training.loop import Plan
from kubooth_world.training.start import begin_with

Stage = Callable[[int, int, Path, int, Plan], None]

SCENES: Final = 48_000
ENCODERS: Final = ("dino", "clip", "lpips")
STAGES: Final = ("data", "vae", "oracle", *ENCODERS, "export-encoders", "text", "unet", "export", "evaluate")
PLANS: Final[dict[str, Plan]] = {
    "vae": Plan(steps=6500, batch=4, learning_rate=1e-3),
    "oracle": Plan(steps=2500, batch=64, learning_rate=1e-3),
    "dino": Plan(steps=900, batch=128, learning_rate=2e-3, ema=0.99, save_every_s=45),
    "clip": Plan(steps=550, batch=96, learning_rate=2e-3, ema=0.99, save_every_s=45),
    "lpips": Plan(steps=400, batch=64, learning_rate=2e-3, ema=0.99, save_every_s=45),
    "text": Plan(steps=220, batch=96, learning_rate=1e-3, ema=0.98),
    "unet": Plan(steps=17_000, batch=16, learning_rate=9e-4, ema=0.998, sync_every=8),
}
_TRAINED: Final[dict[str, Stage]] = {
    "vae": vae.train,
    "oracle": oracle_stage.train,
    "dino": encoders.train_dino,
    "clip": encoders.train_clip,
    "lpips": encoders.train_lpips,
    "text": text.train,
    "unet": unet.train,
}


def main(arguments: list[str] | None = None) -> None:
    """Run the stages that are not finished."""
    options = _options(arguments)
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    model = folder / "small-world"
    if options.start_from is not None:
        begin_with(options.start_from, folder)
    given = {"vae", "text"} if options.start_from is not None else set()
    for stage in [stage for stage in options.stages if stage not in given]:
        print(f"== {stage}", flush=True)
        if stage == "data":
            dataset.make(folder / "data", options.scenes, options.workers)
        elif stage == "export-encoders":
            export_encoders(folder, folder / "encoders")
        elif stage == "export":
            export.export_model(folder, model)
            if (folder / "oracle.safetensors").exists():
                export.export_oracle(folder, folder / "oracle-weights.safetensors")
        elif stage == "evaluate":
            _evaluate(folder, model)
        else:
            plan = PLANS[stage]
            if stage == "unet" and options.unet_steps is not None:
                plan = replace(plan, steps=options.unet_steps)
            _spawn(_TRAINED[stage], options.workers, folder, options.scenes, plan)
    print(f"model: {model}")


def _spawn(stage: Stage, workers: int, folder: Path, scenes: int, plan: Plan) -> None:
    for left_over in folder.glob("*.rendezvous"):
        left_over.unlink()
    spawn(  # type: ignore[no-untyped-call]
        stage, args=(workers, folder, scenes, plan), nprocs=workers
    )


def _evaluate(folder: Path, model: Path) -> None:
    trained = folder / "oracle-weights.safetensors"
    judge = oracle.load(trained if trained.exists() else None)
    record, images = evaluate.evaluate(
        model,
        judge,
        prompts=300,
        guidance_scale=evaluate.GUIDANCE_SCALE,
        steps=evaluate.SAMPLING_STEPS,
    )
    evaluate.print_table(record)
    evaluate.grid(images[:96], 12).save(folder / "samples.png")
    (folder / "evaluation.json").write_text(json.dumps(record, indent=2) + "\n")


def _options(arguments: list[str] | None) -> Any:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=cache / "kubooth-world", help="working folder")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--scenes", type=int, default=SCENES, help="a multiple of 2000")
    parser.add_argument("--unet-steps", type=int, help="steps of the denoiser, in place of its plan's")
    parser.add_argument(
        "--start-from",
        type=Path,
        help="model folder whose weights the unet stage begins with; vae and text are skipped",
    )
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1), help="processes of each stage")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
