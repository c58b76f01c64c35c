"""Whole runs of the real launcher, torchrun and DeepSpeed on a tiny model: results, kills, stops, resumes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors import safe_open
from trainer.tiny_job import RUN_SECONDS, STEPS, Launch, MakeConfig, Run, config_dict, start_launcher

from kubooth_operator.api.status import JobStatus
from kubooth_trainer.class_images import class_image_paths
from kubooth_trainer.config import STAGES
from kubooth_trainer.progress import (
    CheckpointEvent,
    Event,
    InfoEvent,
    ProgressEvent,
    QualityEvent,
    ResumedEvent,
    StageEvent,
    WarningEvent,
)
from kubooth_trainer.termination import read_termination

WEIGHTS = ("unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors")


def trainer_pids(run: Run) -> list[int]:
    """The training processes of a launcher, by its config file on their command line."""
    config = str(run.process.args[run.process.args.index("--config") + 1])  # type: ignore[union-attr,index]
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words = (folder / "cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            if "kubooth_trainer.main" in words and "torch.distributed.run" not in words and config in words:
                found.append(int(folder.name))
    return found


def output_of(config: dict[str, Any]) -> Path:
    return Path(config["output"]["uri"].removeprefix("file://"))


def weights_of(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in WEIGHTS}


def measured(encoders: dict[str, Path], *, action: str) -> dict[str, Any]:
    """All figures, and a gate that no model passes: of a gain of 1.9 cosines."""
    return {
        "evaluation__metrics": ["Dino", "ClipI", "ClipT", "Pres", "Div"],
        "evaluation__encoders": {role: folder.as_uri() for role, folder in encoders.items()},
        "evaluation__gate": {
            "action": action, "identity_gain": 1.9, "max_class_drift": None, "min_prompt_fidelity": None
        },
    }  # fmt: skip


def is_checkpoint(event: Event) -> bool:
    return isinstance(event, CheckpointEvent)


class Reference:
    """One undisturbed run with one rank, that the others are compared with."""

    def __init__(self, config: dict[str, Any], events: list[Event]) -> None:
        self.output = output_of(config)
        self.work = Path(config["workdir"])
        self.events = events
        self.weights = weights_of(self.output)
        self.last_word = (self.work.parent / "termination-log").read_text()


@pytest.fixture(scope="module")
def reference(
    tiny_model: Path, photos: Path, encoder_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Reference:
    folder = tmp_path_factory.mktemp("reference")
    config = config_dict(tiny_model, photos, folder, **measured(encoder_folders, action="Warn"))
    run = start_launcher(config, folder, "reference", "--termination-log", str(folder / "termination-log"))
    with run.process:
        run.finish()
    assert run.result.model == config["output"]["uri"]
    return Reference(config, run.events)


def test_all_stages_are_told_in_order(reference: Reference) -> None:
    finished = [e.stage for e in reference.events if isinstance(e, StageEvent) and e.state == "Succeeded"]
    assert finished == ["Download", "Prior", "Prepare", "Train", "Evaluate", "Upload"]


def test_the_output_is_whole(reference: Reference) -> None:
    manifest = json.loads((reference.output / "manifest.json").read_text())
    assert {file["name"] for file in manifest["files"]} >= {*WEIGHTS, "model_index.json", "report.html", "README.md"}
    assert manifest["identifier"] == next(
        e.value for e in reference.events if isinstance(e, InfoEvent) and e.key == "identifier"
    )
    assert set(manifest["timings"]) >= {"Download", "Prior", "Prepare", "Train", "Evaluate"}
    assert not list(reference.output.rglob("*.bin"))


def test_the_last_word_is_the_trainers_whole_status(reference: Reference) -> None:
    word = read_termination(reference.last_word)
    assert word is not None and word.summary is not None
    assert (word.reason, word.exit_code) == ("Completed", 0)
    status = JobStatus.model_validate_json(json.dumps(word.summary), by_alias=True, by_name=False)
    assert status.stages is not None and status.progress is not None
    assert [(stage.name, stage.state) for stage in status.stages] == [(name, "Succeeded") for name in STAGES]
    assert status.progress.summary == f"{STEPS}/{STEPS} 100%"
    assert status.checkpoint is not None and status.checkpoint.step == STEPS
    assert status.prior is not None and (status.prior.source, status.prior.images) == ("Generated", 6)
    assert status.output is not None and status.report is not None
    manifest = (reference.output / "manifest.json").read_bytes()
    assert status.output.manifest_digest == hashlib.sha256(manifest).hexdigest()
    assert status.output.uri == reference.output.as_uri()


def test_the_figures_stand_in_events_status_and_output(reference: Reference) -> None:
    told = next(event for event in reference.events if isinstance(event, QualityEvent))
    names = ["Dino", "Pres", "ClipI", "ClipT", "Div", "ClassDiv"]
    assert [figure.name for figure in told.figures] == names
    assert (told.verdict, told.message[:12]) == ("Rejected", "identityGain")
    word = read_termination(reference.last_word)
    assert word is not None and word.summary is not None
    status = JobStatus.model_validate_json(json.dumps(word.summary), by_alias=True, by_name=False)
    assert status.quality is not None and status.quality.verdict == "Rejected"
    written = json.loads((reference.output / "evaluation.json").read_text())
    assert [each["role"] for each in written["encoders"]] == ["dino", "clip", "lpips"]
    manifest = json.loads((reference.output / "manifest.json").read_text())
    for figure in told.figures:
        assert manifest["metrics"][f"{figure.name}.after"] == pytest.approx(figure.after, abs=1e-4)
    assert "Quality gate: missed." in (reference.output / "report.html").read_text()


def test_a_gate_that_fails_publishes_the_report_alone_and_a_mended_job_goes_on(
    launch: Launch, make_config: MakeConfig, encoder_folders: dict[str, Path]
) -> None:
    config = make_config(**measured(encoder_folders, action="Fail"))
    run = launch(config).finish()
    assert (run.code, run.failure.reason) == (2, "QualityRejected")
    assert "must be at least 1.9, got" in run.failure.message
    assert [path.name for path in output_of(config).rglob("*") if path.is_file()] == ["report.html"]
    again = launch(make_config(**{**measured(encoder_folders, action="Fail"), "evaluation__gate": None})).finish()
    assert again.result.report.endswith("output/report.html")
    assert not [event for event in again.events if isinstance(event, ProgressEvent)]
    assert "No losses were recorded" not in Path(again.result.report.removeprefix("file://")).read_text()


def test_checkpoints_are_gone_once_the_manifest_stands(reference: Reference) -> None:
    assert not list((reference.output.parent / "checkpoints").rglob("*.safetensors"))


@pytest.mark.parametrize("name", WEIGHTS)
def test_unet_and_text_encoder_both_differ_from_the_base(reference: Reference, tiny_model: Path, name: str) -> None:
    with safe_open(reference.output / name, "pt") as after, safe_open(tiny_model / name, "pt") as before:
        names = sorted(after.keys())
        assert names == sorted(before.keys())
        changed = [name for name in names if not after.get_tensor(name).equal(before.get_tensor(name))]
    assert len(changed) > 0.9 * len(names)


def test_plain_diffusers_loads_and_samples_it(reference: Reference) -> None:
    code = (
        "from diffusers import StableDiffusionPipeline as P; import sys; p = P.from_pretrained(sys.argv[1]); "
        "print(p('a photo of a dog', num_inference_steps=1, height=32, width=32).images[0].size)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(reference.output)],
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=True,
    )
    assert done.stdout.strip() == "(32, 32)"


def test_a_second_start_of_a_finished_job_does_nothing(
    reference: Reference, launch: Launch, tiny_model: Path, photos: Path
) -> None:
    before = (reference.output / "manifest.json").read_bytes()
    run = launch(config_dict(tiny_model, photos, reference.output.parent)).finish()
    assert run.result.model == reference.output.as_uri()
    assert {e.state for e in run.events if isinstance(e, StageEvent)} == {"Skipped"}
    assert (reference.output / "manifest.json").read_bytes() == before


def test_two_ranks_make_the_same_class_images_and_losses(
    reference: Reference, launch: Launch, make_config: MakeConfig
) -> None:
    config = make_config(parallelism__devices_per_node=2, parallelism__zero_stage=2)
    run = launch(config).finish()
    assert run.result
    (mine,) = (Path(config["workdir"]) / "prior").iterdir()
    (theirs,) = (reference.work / "prior").iterdir()
    for ours, other in zip(class_image_paths(mine, 6), class_image_paths(theirs, 6), strict=True):
        assert ours.read_bytes() == other.read_bytes()
    assert losses(run.events) == pytest.approx(losses(reference.events), abs=1e-4)


def losses(events: list[Event]) -> dict[int, float]:
    return {event.step: event.loss for event in events if isinstance(event, ProgressEvent)}


@pytest.mark.parametrize("ranks", [1, 2])
def test_killed_in_training_the_same_command_ends_with_the_same_weights(
    reference: Reference, launch: Launch, make_config: MakeConfig, ranks: int
) -> None:
    config = make_config(parallelism__devices_per_node=ranks, checkpoints__every_steps=5)
    run = launch(config)
    run.until(is_checkpoint)
    os.kill(trainer_pids(run)[-1], signal.SIGKILL)
    killed = run.finish()
    assert killed.code == 70
    assert killed.failure.reason == "TrainerCrashed"
    assert not trainer_pids(run)
    resumed = launch(config).finish()
    assert resumed.result
    train = [e for e in resumed.events if isinstance(e, StageEvent) and e.stage == "Train"]
    assert re.fullmatch("resumed at step (5|10|15)", train[-1].note)
    expected = losses(reference.events)
    found = losses(resumed.events)
    assert STEPS in found and found == pytest.approx({step: expected[step] for step in found}, abs=1e-4)
    if ranks == 1:
        assert weights_of(output_of(config)) == reference.weights


def test_changed_captions_begin_anew(launch: Launch, make_config: MakeConfig, photos: Path, tmp_path: Path) -> None:
    captioned = tmp_path / "captioned"
    shutil.copytree(photos, captioned)
    first, *others = sorted(path for path in captioned.iterdir() if path.suffix != ".txt")
    for photo in (first, *others):
        photo.with_suffix(".txt").write_text("a photo of a {identifier} {class} on grass\n")
    config = make_config(subject__images=captioned.as_uri(), training__captions=True, checkpoints__every_steps=5)
    run = launch(config)
    run.until(is_checkpoint)
    run.process.send_signal(signal.SIGTERM)
    assert run.finish().code == 143
    first.with_suffix(".txt").write_text("a photo of a {identifier} {class} on sand\n")
    anew = launch(config).finish()
    assert anew.result
    assert not any(isinstance(event, ResumedEvent) for event in anew.events)
    told = [event.message for event in anew.events if isinstance(event, WarningEvent)]
    assert any("other photos or captions; training starts anew" in message for message in told)


def test_sigterm_saves_and_the_same_command_goes_on(
    reference: Reference, launch: Launch, make_config: MakeConfig
) -> None:
    config = make_config(checkpoints__every_steps=1000)
    run = launch(config)
    run.until(lambda event: isinstance(event, StageEvent) and event.stage == "Train" and event.state == "Running")
    run.process.send_signal(signal.SIGTERM)
    stopped = run.finish()
    assert (stopped.code, stopped.failure.reason) == (143, "Stopped")
    saved = [event.step for event in stopped.events if isinstance(event, CheckpointEvent)]
    assert saved == [5]
    assert launch(config).finish().result
    assert weights_of(output_of(config)) == reference.weights


def test_the_launcher_killed_leaves_no_process(launch: Launch, make_config: MakeConfig) -> None:
    run = launch(make_config())
    run.until(is_checkpoint)
    pids = trainer_pids(run)
    assert pids
    watched = [os.pidfd_open(pid) for pid in pids]
    run.process.kill()
    for descriptor in watched:
        assert select.select([descriptor], [], [], RUN_SECONDS)[0]
        os.close(descriptor)


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint(
    launch: Launch, make_config: MakeConfig, tmp_path: Path
) -> None:
    first = launch(make_config(checkpoints__every_steps=5))
    first.until(is_checkpoint)
    first.process.send_signal(signal.SIGTERM)
    first.finish()
    run = launch(make_config(training__learning_rate=1e30, training__max_grad_norm=0.0)).finish()
    assert (run.code, run.failure.reason) == (2, "NumericalError")
    assert "step" in run.failure.message
    assert not (tmp_path / "output").exists()
    assert list((tmp_path / "checkpoints").rglob("checkpoint.json"))


def test_damaged_class_images_are_made_again(launch: Launch, make_config: MakeConfig, reference: Reference) -> None:
    config = make_config()
    run = launch(config)
    run.until(lambda event: isinstance(event, StageEvent) and event.stage == "Train" and event.state == "Running")
    run.process.send_signal(signal.SIGTERM)
    run.finish()
    (folder,) = (Path(config["workdir"]) / "prior").iterdir()
    victim = class_image_paths(folder, 6)[3]
    victim.write_bytes(victim.read_bytes()[:-20])
    again = launch(config).finish()
    assert any("damaged" in getattr(event, "message", "") for event in again.events)
    with Image.open(victim) as image:
        assert image.size == (32, 32)
    assert weights_of(output_of(config)) == reference.weights
