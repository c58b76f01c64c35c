"""One training step of ours against a straightforward loop: time and memory, as ratios within one run.

    python bench/step.py --record bench/records/step.json
    python bench/step.py --frozen --record bench/records/step_frozen.json
    python bench/step.py --model tiny --rounds 2 --steps 5      # a trial, in a minute

Four trainings of the same model on the same photos take turns; with `--frozen` of its UNet alone. Method and results:
docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory
from typing import Any

from machine import cores, machine, sources, versions
from PIL import Image, ImageOps
from turns import Training, Turn

from kubooth_cli.plan import Request, bundled_models, make_plan
from kubooth_trainer.config import TrainConfig, fill_prompt

ROOT = Path(__file__).resolve().parent.parent
PHOTOS = ROOT / "examples" / "quickstart" / "photos"
OURS = {"ours, Auto": "Auto", "ours, fp32": "FP32"}
PLAIN = {"plain, fp32": False, "plain, bf16": True}
Targets = dict[tuple[str, str], float | None]  # (slower, faster) -> wanted ratio on a CPU with AMX
TARGETS: Targets = {
    ("plain, fp32", "ours, Auto"): 3.0,
    ("plain, bf16", "ours, Auto"): 1.3,
    ("plain, fp32", "ours, fp32"): None,
}
FROZEN_TARGETS: Targets = {
    ("plain, fp32", "ours, Auto"): None,
    ("plain, bf16", "ours, Auto"): 2.0,
    ("plain, fp32", "ours, fp32"): None,
}
SYNC_STEPS = 5  # ours reads its losses every so many steps: a turn holds whole periods
TRAINING_STEPS = 10_000  # more than any run of this takes
IDENTIFIER, CLASS_NAME = "zqx", "dog"


def main() -> None:
    options = _options()
    with TemporaryDirectory() as folder:
        scratch = Path(folder)
        record = measure(options, _model(options.model, scratch), scratch)
    print(table(record))
    if options.record:
        options.record.parent.mkdir(parents=True, exist_ok=True)
        options.record.write_text(json.dumps(record, indent=1) + "\n")


def measure(options: argparse.Namespace, model: Path, scratch: Path) -> dict[str, Any]:
    """Runs all rounds and returns the record."""
    load = os.getloadavg()[0]
    targets = FROZEN_TARGETS if options.frozen else TARGETS
    trainings, resolution = start(options, model, scratch)
    try:
        for training in trainings.values():
            training.wait_until_ready()
        for training in trainings.values():
            training.take(SYNC_STEPS)
        rounds = [one_round(trainings, options.steps, reverse=bool(number % 2)) for number in range(options.rounds)]
        costs = {name: training.take(SYNC_STEPS, profiled=True).costs for name, training in trainings.items()}
    finally:
        for training in trainings.values():
            training.end()
    return {
        "what": "seconds and memory of one training step",
        "command": _command(options),
        "model": {
            "name": model.name,
            "resolution": resolution,
            "trained_parameters": _parameters(model, options.frozen),
        },
        "text_encoder": "frozen" if options.frozen else "trained",
        "batch": {"instance": options.batch, "class": options.batch},
        "threads": _threads(),
        "machine": machine(),
        "versions": versions(),
        "sources": sources(ROOT),
        "load_before": round(load, 2),
        "auto_precision": trainings["ours, Auto"].facts["precision"],
        "steps_per_turn": options.steps,
        "clock": options.clock,
        "seconds_per_step": {name: figures(rounds, name, "wall") for name in trainings},
        "cpu_seconds_per_step": {name: figures(rounds, name, "cpu") for name in trainings},
        "peak_mib": {name: round(rounds[-1][name].peak_mib) for name in trainings},
        "mean_loss": {name: mean_loss(rounds, name) for name in trainings},
        "ratios": {
            " / ".join(pair): ratio(rounds, pair, options.clock) | {"target_with_amx": target}
            for pair, target in targets.items()
        },
        "costs": costs,
    }


def start(options: argparse.Namespace, model: Path, scratch: Path) -> tuple[dict[str, Training], int]:
    """Starts the four trainings; returns them by name, and the resolution in pixels."""
    class_images = scratch / "class"
    class_images.mkdir()
    for path in sorted(PHOTOS.iterdir()):  # what is in a picture does not change what a step costs
        ImageOps.mirror(Image.open(path).convert("RGB")).save(class_images / path.name)
    resolution = _resolution(model)
    trainings = {}
    for number, (name, precision) in enumerate(OURS.items()):
        config = our_config(options, precision, model, scratch / f"ours-{number}")
        trainings[name] = _start("ours", config.model_dump(mode="json"), scratch / f"ours-{number}.json")
    for number, (name, bf16) in enumerate(PLAIN.items()):
        setting = {**plain_setting(config), "model": str(model), "resolution": resolution, "bf16": bf16}
        trainings[name] = _start("plain", setting, scratch / f"plain-{number}.json")
    return {name: trainings[name] for name in (*PLAIN, *OURS)}, resolution


def our_config(options: argparse.Namespace, precision: str, model: Path, workdir: Path) -> TrainConfig:
    """A job as a user would write it, resolved as `kubooth run` resolves it: all else has its built-in value."""
    job = {
        "apiVersion": "kubooth.io/v1alpha1",
        "kind": "PersonalizationJob",
        "metadata": {"name": "bench"},
        "spec": {
            "model": {"uri": model.as_uri()},
            "subject": {"className": CLASS_NAME, "identifier": IDENTIFIER, "images": PHOTOS.as_uri()},
            "prior": {"uri": (workdir.parent / "class").as_uri(), "images": len(list(PHOTOS.iterdir()))},
            "training": {
                "steps": TRAINING_STEPS,
                "batchSize": options.batch,
                "precision": precision,
                "trainTextEncoder": not options.frozen,
            },
            "checkpoints": {"everySteps": TRAINING_STEPS},
            "output": {"uri": (workdir / "output").as_uri()},
        },
    }
    path = workdir.with_suffix(".yaml")
    path.write_text(json.dumps(job))  # JSON is YAML
    return make_plan(Request(job=path, devices=1, workdir=workdir), {"CUDA_VISIBLE_DEVICES": ""}).config


def plain_setting(config: TrainConfig) -> dict[str, Any]:
    """The same hyper-parameters for the plain loop, which knows one learning rate."""
    words = {"identifier": IDENTIFIER, "class_name": CLASS_NAME}
    assert config.prior.uri
    return {
        "photos": str(PHOTOS),
        "class_images": config.prior.uri.removeprefix("file://"),
        "prompt": fill_prompt(config.subject.prompt_template, **words),
        "class_prompt": fill_prompt(config.prior.prompt, **words),
        "batch": config.training.batch_size,
        "learning_rate": config.training.learning_rate,
        "prior_weight": config.prior.weight,
        "max_grad_norm": config.training.max_grad_norm,
        "text_encoder_trained": config.training.train_text_encoder,
        "seed": config.training.seed,
    }


def one_round(trainings: Mapping[str, Training], steps: int, *, reverse: bool) -> dict[str, Turn]:
    """A turn of each. The order alternates, so that what drifts within a round cancels too."""
    names = list(trainings)[::-1] if reverse else list(trainings)
    return {name: trainings[name].take(1 + steps) for name in names}


def seconds_per_step(turn: Turn, clock: str) -> float:
    """The mean of a turn: it holds what happens every few steps only. The first step, with cold caches, is left out."""
    return fmean((turn.seconds if clock == "wall" else turn.cpu_seconds)[1:])


def figures(rounds: Sequence[Mapping[str, Turn]], name: str, clock: str) -> dict[str, Any]:
    values = [round(seconds_per_step(each[name], clock), 5) for each in rounds]
    return {"median": median(values), "rounds": values}


def ratio(rounds: Sequence[Mapping[str, Turn]], pair: tuple[str, str], clock: str) -> dict[str, Any]:
    """The ratio of each round by itself, and their median."""
    slow, fast = pair
    values = [round(seconds_per_step(each[slow], clock) / seconds_per_step(each[fast], clock), 3) for each in rounds]
    return {"median": round(median(values), 3), "rounds": values}


def mean_loss(rounds: Sequence[Mapping[str, Turn]], name: str) -> float:
    """Of the same work the losses are of one scale. Raises RuntimeError where one is not finite."""
    losses = [loss for each in rounds for loss in each[name].losses]
    if not losses or not all(math.isfinite(loss) for loss in losses):
        raise RuntimeError(f"{name}: the losses are {losses}")
    return round(fmean(losses), 4)


def table(record: Mapping[str, Any]) -> str:
    """What docs/benchmarks.md shows of a record."""
    clock = "seconds" if record["clock"] == "wall" else "CPU seconds"
    lines = [f"| training | {clock} per step | peak memory, MiB | mean loss |", "|---|---|---|---|"]
    for name, seconds in record[f"{clock.replace(' ', '_').lower()}_per_step"].items():
        lines.append(f"| {name} | {seconds['median']:.4f} | {record['peak_mib'][name]} | {record['mean_loss'][name]} |")
    lines += ["", "| ratio | median | rounds | target with AMX |", "|---|---|---|---|"]
    for name, each in record["ratios"].items():
        span = f"{min(each['rounds']):.2f} to {max(each['rounds']):.2f}"
        lines.append(f"| {name} | {each['median']:.2f} | {span} | {each['target_with_amx'] or 'none set'} |")
    lines += ["", "| training | most of the time goes to |", "|---|---|"]
    for name, costs in record["costs"].items():
        top = ", ".join(f"{operation} {share:.0%}" for operation, share in list(costs.items())[:3])
        lines.append(f"| {name} | {top} |")
    return "\n".join(lines)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="One training step of ours against a straightforward loop.")
    parser.add_argument("--model", default="small-world", help="small-world, tiny (random, for trials) or a folder")
    parser.add_argument("--steps", type=int, default=10, help=f"timed steps per turn, a multiple of {SYNC_STEPS}")
    parser.add_argument("--rounds", type=int, default=8, help="turns of each training")
    parser.add_argument("--batch", type=int, default=4, help="instance images per step; as many class images join them")
    parser.add_argument("--frozen", action="store_true", help="train the UNet alone")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall",
        help="cpu: for a machine that is not free; with OMP_NUM_THREADS=1 the CPU time is that of a free machine",
    )  # fmt: skip
    parser.add_argument("--record", type=Path, help="write all figures to this JSON file")
    options = parser.parse_args()
    if options.steps < 1 or options.steps % SYNC_STEPS or options.rounds < 1 or options.batch < 1:
        parser.error(f"--steps must be a multiple of {SYNC_STEPS}; --rounds and --batch at least 1")
    return options


def _model(given: str, scratch: Path) -> Path:
    if given == "tiny":
        folder = scratch / "tiny"
        code = f"from kubooth_world import tiny_model; tiny_model.write({str(folder)!r})"
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        return folder
    folder = Path(bundled_models().get(given, given).removeprefix("file://")).resolve()
    if not (folder / "model_index.json").is_file():
        sys.exit(f"{given}: no model in diffusers layout there")
    return folder


def _start(kind: str, setting: Mapping[str, Any], path: Path) -> Training:
    path.write_text(json.dumps(setting))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}
    rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    environment = {**os.environ, "OMP_NUM_THREADS": str(_threads()), **ranks, **rendezvous, **quiet}
    return Training([kind, str(path)], environment=environment, log=path.with_suffix(".log"))


def _threads() -> int:
    """As the product's launcher sets it for one rank."""
    return int(os.environ.get("OMP_NUM_THREADS", cores()))


def _command(options: argparse.Namespace) -> str:
    model = options.model if "/" not in options.model else Path(options.model).name
    sizes = f"--steps {options.steps} --rounds {options.rounds} --batch {options.batch} --clock {options.clock}"
    frozen = " --frozen" if options.frozen else ""
    return f"OMP_NUM_THREADS={_threads()} python bench/step.py --model {model} {sizes}{frozen}"


def _resolution(model: Path) -> int:
    unet, vae = (json.loads((model / part / "config.json").read_text()) for part in ("unet", "vae"))
    return int(unet["sample_size"] * 2 ** (len(vae["block_out_channels"]) - 1))


def _parameters(model: Path, frozen: bool) -> int:
    """Numbers in the UNet and, where it is trained, the text encoder, from the headers of their files."""
    total = 0
    trained = ["unet"] if frozen else ["unet", "text_encoder"]
    for path in [path for part in trained for path in (model / part).glob("*.safetensors")]:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        total += sum(math.prod(each["shape"]) for key, each in header.items() if key != "__metadata__")
    return total


if __name__ == "__main__":
    main()
