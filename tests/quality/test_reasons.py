"""Where there are no figures, the page says why; and a gate that cannot be judged says so too."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from trainer.tiny_job import config_dict

from kubooth_trainer.acquire import Acquired
from kubooth_trainer.config import TrainConfig
from kubooth_trainer.distributed import World
from kubooth_trainer.measure import appraise
from kubooth_trainer.progress import Reporter
from kubooth_trainer.quality import Quality

ALONE = World(rank=0, size=1, local_rank=0, local_size=1, device=torch.device("cpu"))
GATE = {"action": "Warn", "identity_gain": 0.1, "max_class_drift": None, "min_prompt_fidelity": None}
OTHER = "the encoders of this runtime know drawn scenes alone, and the photos show something else"


def appraised(*, unmeasurable: str | None = None, folders: dict[str, Path] | None = None, **evaluation: Any) -> Quality:
    fields = {f"evaluation__{name}": value for name, value in evaluation.items()}
    config = TrainConfig.model_validate(config_dict(Path("/m"), Path("/p"), Path("/f"), **fields))
    acquired = SimpleNamespace(
        encoders=folders or {}, unmeasurable=unmeasurable, subject=SimpleNamespace(photos=())
    )  # what is left of it where nothing is measured
    return appraise(config, cast(Acquired, acquired), [], world=ALONE, reporter=Reporter())


REASONS = [
    ("no-encoders", {}, "Nothing was measured: the runtime names no encoders (spec.encoders)"),
    ("not-wanted", {"encoders": {"dino": "s3://m/dino/"}}, "Nothing was measured: evaluation.metrics is empty."),
    (
        "other-photos",
        {"encoders": {"dino": "s3://m/dino/"}, "metrics": ["Dino"], "unmeasurable": OTHER},
        f"Nothing was measured: {OTHER}.",
    ),
]


@pytest.mark.parametrize(("case", "reason"), [c[1:] for c in REASONS], ids=[c[0] for c in REASONS])
def test_why_there_are_no_figures(case: dict[str, Any], reason: str) -> None:
    quality = appraised(**case)
    assert quality.figures == ()
    assert quality.absent[0].startswith(reason)
    assert quality.judgement is None


def test_encoders_that_are_not_there_are_named() -> None:
    quality = appraised(encoders={"dino": "s3://m/dino/"}, metrics=["Dino"])
    assert quality.absent == (
        "CLIP-I and CLIP-T were not measured: the runtime names no spec.encoders.clip.",
        "DIV was not measured: the runtime names no spec.encoders.lpips.",
    )


def test_a_gate_over_photos_of_another_kind_is_not_judged() -> None:
    quality = appraised(encoders={"dino": "s3://m/dino/"}, metrics=["Dino"], unmeasurable=OTHER, gate=GATE)
    assert quality.judgement is not None and quality.judgement.verdict == "NotMeasured"
    assert OTHER in quality.judgement.message
