"""Evidence on the bundled world, where the truth is known: does the method do what its paper says?

    python bench/evidence.py --work FOLDER --record bench/records/evidence.json --document docs/evidence.md
    python bench/evidence.py --work FOLDER --subjects 1 --seeds 1      # a trial

For each subject one sweep: DreamBooth and what is left of it without one of its parts. FOLDER keeps what is finished,
so that the same command goes on after a stop. `--parallel N` runs N sweeps at once, each on its share of the cores.
Method: the document itself.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from evidence_page import write_page
from machine import machine, sources, versions
from PIL import Image

from kubooth_world.render import render
from kubooth_world.scene import sample_instance, sample_scene

ROOT = Path(__file__).resolve().parent.parent
SUBJECTS = (  # class, colours, pattern; their shapes come from seeds that the world's training never used
    ("dog", "orange", "white", "dotted"),
    ("mug", "blue", "yellow", "striped"),
    ("cat", "purple", "white", "plain"),
    ("car", "green", "yellow", "dotted"),
    ("backpack", "red", "white", "striped"),
    ("robot", "pink", "blue", "plain"),
)
PHOTO_PLACES = ("grass", "snow", "room", "beach")
PHOTO_PIXELS = 256
PLACES = ("", " in the snow", " in the jungle", " on the beach", " at night")
DRAWS = 10_000  # of the bootstrap


@dataclass(frozen=True)
class Sign:
    """Something the paper found: how a figure of one variant stands to that of another."""

    claim: str
    figure: str
    variant: str
    than: str  # a variant, or `base`: the model before training
    higher: bool
    paper: str


SIGNS = (
    Sign("identity is far above the base model's", "Dino", "dreambooth", "base", True, ".696 against none (table 1)"),
    Sign(
        "without the prior loss the class drifts", "Pres", "without-prior", "dreambooth", True, ".664, .493 (table 3)"
    ),
    Sign("and pictures lose diversity", "Div", "without-prior", "dreambooth", False, ".371, .391 (table 3)"),
    Sign("the class itself loses variety", "ClassDiv", "without-prior", "dreambooth", False, "told, not in a table"),
    Sign("while identity gains a little", "Dino", "without-prior", "dreambooth", True, ".712, .684 (table 3)"),
    Sign("no class noun costs identity", "Dino", "no-class", "dreambooth", False, ".303, .744 (table 4)"),
    Sign("a wrong class noun costs identity", "Dino", "wrong-class", "dreambooth", False, ".454, .744 (table 4)"),
    Sign("no noun costs more than a wrong one", "Dino", "no-class", "wrong-class", False, ".303, .454 (table 4)"),
)


def main() -> None:
    options = _options()
    with ThreadPoolExecutor(options.parallel) as pool:
        results = list(pool.map(lambda number: run(number, options), range(options.subjects)))
    found = [row for number, result in enumerate(results) for row in rows(result, subject=number)]
    record = {
        "what": "figures of DreamBooth and its ablations on the bundled world",
        "command": f"python bench/evidence.py --subjects {options.subjects} --seeds {options.seeds} "
        f"--steps {options.steps} --class-images {options.images} --parallel {options.parallel}",
        "machine": machine(),
        "versions": versions(),
        "sources": sources(ROOT),
        "results": {
            "subjects": [" ".join(each) for each in SUBJECTS[: options.subjects]],
            "seeds": options.seeds,
            "table": table(found),
            "signs": [judge(sign, found) for sign in SIGNS],
            "rows": found,
        },
    }
    if options.record:
        options.record.write_text(json.dumps(record, indent=1) + "\n")
    if options.document:
        write_page(record, options.work, options.document)
    print(json.dumps(record["results"]["signs"], indent=1))


def run(number: int, options: argparse.Namespace) -> dict[str, Any]:
    """The results of one subject's sweep, as `kubooth sweep` writes them."""
    folder = options.work / f"subject-{number}"
    sweep = prepare(number, folder, options)
    threads = max(1, (os.cpu_count() or 1) // options.parallel)
    subprocess.run(
        [sys.executable, "-m", "kubooth_cli.main", "sweep", str(sweep), "--output", str(folder / "results")],
        check=True,
        env={**os.environ, "XDG_CACHE_HOME": str(options.work / "cache"), "OMP_NUM_THREADS": str(threads)},
    )
    found: dict[str, Any] = json.loads((folder / "results" / "results.json").read_text())
    return found


def prepare(number: int, folder: Path, options: argparse.Namespace) -> Path:
    """Photos of a subject and the sweep over its variants; returns the sweep file."""
    kind, colour, second, pattern = SUBJECTS[number]
    rng = np.random.default_rng(1000 + number)
    instance = sample_instance(rng, kind=kind, colour=colour, second=second, pattern=pattern)
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    for index, place in enumerate(PHOTO_PLACES):
        scene = sample_scene(rng, instance, context=place, hat="none")
        Image.fromarray(render(scene, PHOTO_PIXELS)).save(folder / "photos" / f"{index}.png")
    wrong = SUBJECTS[(number + 1) % len(SUBJECTS)][0]
    sampler = {"steps": 16, "guidanceScale": 3}
    of_class = "a photo of a {class}"  # wrong-class is asked for its own noun here
    job = {
        "apiVersion": "kubooth.io/v1alpha1",
        "kind": "PersonalizationJob",
        "metadata": {"name": f"evidence-{number}"},
        "spec": {
            "model": {"name": "small-world"},
            "subject": {
                "className": kind,
                "images": "file:photos/",
                "promptTemplate": "a photo of a {identifier} {class}",
            },
            "prior": {"images": options.images, "sampler": sampler},
            "training": {"steps": options.steps, "batchSize": 4, "learningRate": 2e-4},
            "evaluation": {
                "prompts": [*(f"a photo of a {{identifier}} {{class}}{place}" for place in PLACES), of_class],
                "imagesPerPrompt": 4,
                "sampler": sampler,
            },
            "output": {"uri": "file:unused/"},
        },
    }
    without_noun = [*(f"a photo of a {{identifier}}{place}" for place in PLACES), of_class]
    variants: list[dict[str, Any]] = [
        {"name": "dreambooth"},
        {"name": "without-prior", "set": {"prior.enabled": False}},
        {
            "name": "no-class",
            "set": {"subject.promptTemplate": "a photo of a {identifier}", "evaluation.prompts": without_noun},
        },
        {"name": "wrong-class", "set": {"subject.className": wrong}},
        {"name": "frozen-text", "set": {"training.trainTextEncoder": False}},
    ]
    sweep = folder / "sweep.yaml"  # JSON is YAML
    sweep.write_text(json.dumps({"base": job, "variants": variants, "seeds": list(range(options.seeds))}, indent=1))
    return sweep


def rows(results: dict[str, Any], *, subject: int) -> list[dict[str, Any]]:
    """One for each run: the figures after training; and, as the variant `base`, DreamBooth's before it."""
    found = []
    for result in results["results"]:
        variant = result["name"].rpartition("-seed-")[0]
        figures: dict[str, dict[str, float]] = {"before": {}, "after": {}, "change": {}}
        for each in result["figures"]:
            if each["value"] is not None:
                figures[each["side"]][each["name"]] = each["value"]
        place = {"subject": subject, "seed": result["seed"]}
        if variant == "dreambooth":
            found.append({**place, "variant": "base", "figures": figures["before"]})
        found.append({**place, "variant": variant, "figures": figures["after"]})
    return found


def table(found: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Mean and 95% interval of each figure by variant, over subjects and seeds."""
    variants = dict.fromkeys(row["variant"] for row in found)
    names = dict.fromkeys(name for row in found for name in row["figures"])
    return {
        variant: {
            name: interval(
                [row["figures"][name] for row in found if row["variant"] == variant and name in row["figures"]]
            )
            for name in names
        }
        for variant in variants
    }


def judge(sign: Sign, found: list[dict[str, Any]]) -> dict[str, Any]:
    """The paired difference over subjects and seeds, and whether it has the sign that the paper found."""
    values = {
        (row["variant"], row["subject"], row["seed"]): row["figures"][sign.figure]
        for row in found
        if sign.figure in row["figures"]
    }
    pairs = [
        (value, values[sign.than, subject, seed])
        for (variant, subject, seed), value in values.items()
        if variant == sign.variant and (sign.than, subject, seed) in values
    ]
    difference = interval([first - second for first, second in pairs])
    mean, low, high = difference["mean"], difference["low"], difference["high"]
    if mean is None:
        verdict = "not measured"
    elif (mean > 0) is not sign.higher:
        verdict = "opposite" if low is not None and high is not None and low * high > 0 else "opposite, not settled"
    else:
        verdict = "as in the paper" if low is not None and high is not None and low * high > 0 else "same, not settled"
    return {
        "claim": sign.claim,
        "figure": sign.figure,
        "variant": sign.variant,
        "than": sign.than,
        "expected": "higher" if sign.higher else "lower",
        "paper": sign.paper,
        "difference": difference,
        "pairs": len(pairs),
        "verdict": verdict,
    }


def interval(values: list[float]) -> dict[str, float | None]:
    """Mean with a percentile bootstrap interval of 95%; no interval of fewer than three values."""
    if not values:
        return {"mean": None, "low": None, "high": None}
    numbers = np.asarray(values)
    if len(values) < 3:
        return {"mean": round(float(numbers.mean()), 4), "low": None, "high": None}
    draws = np.random.default_rng(0).integers(len(values), size=(DRAWS, len(values)))
    low, high = np.percentile(numbers[draws].mean(axis=1), [2.5, 97.5])
    return {name: round(float(value), 4) for name, value in (("mean", numbers.mean()), ("low", low), ("high", high))}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for all trainings; what is there is kept")
    parser.add_argument("--subjects", type=int, default=len(SUBJECTS), choices=range(1, len(SUBJECTS) + 1))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100, help="of each training")
    parser.add_argument("--parallel", type=int, default=1, help="sweeps at once")
    parser.add_argument("--class-images", dest="images", type=int, default=64)
    parser.add_argument("--record", type=Path, help="write the figures to this JSON file")
    parser.add_argument("--document", type=Path, help="write the page to this Markdown file, its sheet beside it")
    options = parser.parse_args()
    options.work = options.work.absolute()
    return options


if __name__ == "__main__":
    main()
