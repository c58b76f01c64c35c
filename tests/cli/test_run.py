"""`kubooth run` to its end, with pipes: what it prints, where, and the code it exits with."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from kubooth_cli.plan import Request, make_plan


def test_success_ends_with_paths_and_a_line_to_go_on_with(kubooth: Any) -> None:
    done = kubooth.run("success")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert done.stderr == ""
    output = kubooth.folder / "out"
    assert "rex is ready in " in done.stdout
    assert f"model       {output}  (25.3 MB)\n" in done.stdout
    assert f"report      {output}/report.html\n" in done.stdout
    assert "identifier  sks dog\n" in done.stdout
    assert "figures     Dino 0.15 > 0.84\n" in done.stdout
    assert f"kubooth sample '{output}' 'a photo of {{identifier}} {{class}}" in done.stdout
    assert "library: a line on standard error" in kubooth.log
    assert "library" not in done.stdout


def test_plain_output_has_one_line_per_change_of_a_stage(kubooth: Any) -> None:
    lines = kubooth.run("success").stdout.splitlines()
    for name in ("Download", "Prior", "Prepare", "Train", "Evaluate", "Upload"):
        assert sum(line.startswith(f"{name}: started") for line in lines) == 1
        assert sum(line.startswith(f"{name}: done") for line in lines) == 1
    assert "Prior: done in 8s (20 images)" in lines
    assert sum(line.startswith("Train: ") for line in lines) == 2  # ten steps at once: too soon for more


def test_resumed_stages_are_shown_as_such(kubooth: Any) -> None:
    lines = kubooth.run("resumed").stdout.splitlines()
    assert "Download: skipped, 5 files are there" in lines
    assert "Prepare: skipped" in lines
    assert "Train: started (30/50 steps), resumed at step 30" in lines


@pytest.mark.parametrize(
    ("scenario", "code", "sentence", "advice"),
    [
        ("failure:2", 2, "BadSubject: photos/3.jpg: cannot be decoded", "fix the job or its inputs"),
        ("failure:75", 75, "StorageUnavailable: photos/3.jpg", "try again later, and training resumes"),
        ("failure:70", 70, "TrainerCrashed: photos/3.jpg", "Try again, and training resumes"),
        ("crash:70", 70, "ended with code 70 and did not say why", "Try again"),
        ("crash:1", 70, "ended with code 1 and did not say why", "Try again"),
        ("crash:0", 70, "ended without a result", "Try again"),
        ("crash:killed", 70, "ended by SIGKILL (often the system, short of memory)", "Try again"),
    ],
)
def test_failure(kubooth: Any, scenario: str, code: int, sentence: str, advice: str) -> None:
    done = kubooth.run(scenario)
    assert done.returncode == code
    assert done.stderr.startswith("error: ")
    assert sentence in done.stderr.splitlines()[0]
    assert advice in done.stderr.splitlines()[-1]
    assert f"{kubooth.workdir}/trainer.log" in done.stderr
    assert "error" not in done.stdout
    crashed = code == 70
    assert ("library: a line" in done.stderr) == crashed  # the log's last lines are for crashes only
    assert "\x1b" not in done.stderr


def test_warnings_are_shown(kubooth: Any) -> None:
    done = kubooth.run("warnings")
    assert "warning: the identifier 'dog' is a common word" in done.stdout
    assert "warnings    1, see above" in done.stdout


def test_what_is_no_event_goes_to_the_log(kubooth: Any) -> None:
    done = kubooth.run("garbage", "--json")
    assert done.returncode == 0
    for line in done.stdout.splitlines():
        assert json.loads(line)["type"] in ("info", "stage", "progress", "quality", "result")
    assert "a last line without an end" in kubooth.log
    assert '"future"' in kubooth.log
    assert "xxxx" in kubooth.log


def test_json_is_the_trainers_events_and_nothing_else(kubooth: Any) -> None:
    done = kubooth.run("warnings", "--json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[0] == {"type": "info", "key": "workdir", "value": str(kubooth.workdir)}
    assert events[1] == {"type": "info", "key": "config", "value": str(kubooth.workdir / "config.json")}
    assert events[2]["type"] == "stage"
    assert events[-1]["type"] == "result"
    assert "rex is ready in" in done.stderr


def test_json_keeps_errors_out_of_standard_output(kubooth: Any) -> None:
    done = kubooth.run("failure:2", "--json")
    assert [json.loads(line)["type"] for line in done.stdout.splitlines()][-1] == "failed"
    assert done.stderr.startswith("error: BadSubject")


def test_verbose_shows_the_log_too(kubooth: Any) -> None:
    assert "| library: a line on standard error\n" in kubooth.run("success", "--verbose").stdout


def test_what_the_launcher_is_given(kubooth: Any) -> None:
    kubooth.environment.pop("OMP_NUM_THREADS", None)
    lines = kubooth.run("environment", "--devices", "2", "--set", "training.batchSize=2").stdout.splitlines()
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    assert f"OMP_NUM_THREADS: {threads}" in lines
    assert "PYTHONUNBUFFERED: 1" in lines
    assert "PYTHONSAFEPATH: 1" in lines  # a torch.py beside the job is not the trainer's
    assert "arguments: --die-with-parent" in lines
    assert "leads its session: True" in lines
    config = json.loads((kubooth.workdir / "config.json").read_text())
    assert config["parallelism"]["devices_per_node"] == 2
    assert config["workdir"] == str(kubooth.workdir)


def test_threads_that_were_set_are_kept(kubooth: Any) -> None:
    kubooth.environment["OMP_NUM_THREADS"] = "3"
    assert "OMP_NUM_THREADS: 3" in kubooth.run("environment").stdout.splitlines()


def test_a_second_run_is_refused_while_one_is_at_work(kubooth: Any) -> None:
    terminal = kubooth.on_terminal("training")
    terminal.wait_for("Train")
    refused = kubooth.run("success")
    assert refused.returncode == 75
    assert f"process {terminal.process.pid} is running this job already" in refused.stderr
    terminal.signal(2)
    assert terminal.finish() == 130
    assert kubooth.run("success").returncode == 0


def test_a_trainer_that_outlives_its_command_keeps_the_next_one_out(kubooth: Any) -> None:
    kubooth.workdir.mkdir()
    gone = subprocess.Popen(["true"])
    gone.wait()
    with (kubooth.workdir / "run.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(f"{gone.pid}\n")
        lock.flush()
        refused = kubooth.run("success")
    assert refused.returncode == 75
    assert f"an earlier run (process {gone.pid}) has ended, but its trainer is still stopping" in refused.stderr


def test_training_goes_on_when_nobody_reads(kubooth: Any) -> None:
    process = kubooth.start("success", "--json")
    assert process.stdout is not None
    process.stdout.close()
    _, words = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "nobody reads the progress any more" in words
    assert "rex is ready" in words


def test_errors_before_the_launch_are_all_listed(kubooth: Any) -> None:
    job = kubooth.folder / "job.yaml"
    job.write_text(job.read_text() + "  trainig: {steps: 5}\n  prior: {images: many}\n")
    done = kubooth.run("success")
    assert done.returncode == 2
    assert len([line for line in done.stderr.splitlines() if line.startswith("error: ")]) >= 2
    assert "trainig" in done.stderr
    assert "prior.images" in done.stderr
    assert not kubooth.workdir.exists()


def test_a_working_folder_that_cannot_be_made_is_named(kubooth: Any) -> None:
    (kubooth.folder / "file").write_text("")
    done = kubooth.run("success", "--workdir", "file/work")
    assert done.returncode == 2  # a retry cannot mend it
    assert done.stderr.startswith(f"error: {kubooth.folder}/file")
    assert "Not a directory" in done.stderr


def test_dry_run_prints_the_resolved_config_and_writes_nothing(kubooth: Any) -> None:
    done = kubooth.run("success", "--dry-run", "--set", "training.steps=50", "--output", "else where")
    assert done.returncode == 0, done.stderr
    import yaml

    config = yaml.safe_load(done.stdout)
    assert config["training"]["steps"] == 50
    assert config["output"]["uri"].rstrip("/") == (kubooth.folder / "else where").as_uri()
    assert config["subject"]["images"].rstrip("/") == (kubooth.folder / "photos").as_uri()
    assert not kubooth.workdir.exists()


def test_a_manifest_that_was_taken_from_a_cluster_is_another_job_here(kubooth: Any, tmp_path: Path) -> None:
    manifest = kubooth.folder / "job.yaml"
    manifest.write_text(manifest.read_text().replace("{name: rex}", "{name: rex, namespace: default, uid: 1-2-3}"))
    config = make_plan(Request(job=manifest, devices=1, workdir=tmp_path / "work")).config
    assert (config.job.name, config.job.uid) == ("rex", None)


def test_the_default_folder_is_one_per_settings(kubooth: Any, tmp_path: Path) -> None:
    kubooth.environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")

    def folder(*arguments: str) -> str:
        command = kubooth.command("success", *arguments, "--json")
        at = command.index("--workdir")
        done = subprocess.run(
            command[:at] + command[at + 2 :],
            cwd=kubooth.folder, env=kubooth.environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return str(json.loads(done.stdout.splitlines()[0])["value"])

    first = folder()
    assert first.startswith(str(tmp_path / "cache" / "kubooth" / "runs" / "rex-"))
    assert folder("--output", "elsewhere") == first
    assert folder("--set", "training.steps=50") != first


def test_class_images_are_shared_in_ones_own_cache_unless_told_not_to(kubooth: Any, tmp_path: Path) -> None:
    import yaml

    kubooth.environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")

    def cache(*arguments: str) -> str | None:
        done = kubooth.run("success", "--dry-run", *arguments)
        assert done.returncode == 0, done.stderr
        found: str | None = yaml.safe_load(done.stdout)["prior"]["cache"]
        return found

    assert cache() == (tmp_path / "cache" / "kubooth" / "prior").as_uri()
    assert cache("--no-prior-cache") is None
    runtime = {"apiVersion": "kubooth.io/v1alpha1", "kind": "PersonalizationRuntime", "metadata": {"name": "default"}}
    limits = {"readPrefixes": ["file:///"], "writePrefixes": ["file:///"]}
    spec = {"priorCache": {"uri": "s3://cache/priors", "trusted": True}, "limits": limits}
    (kubooth.folder / "runtime.yaml").write_text(yaml.safe_dump({**runtime, "spec": spec}))
    assert cache("--runtime", "runtime.yaml") == "s3://cache/priors/shared/"
    assert cache("--runtime", "runtime.yaml", "--no-prior-cache") is None


def test_the_home_of_nobody_is_a_name_like_any_other(kubooth: Any) -> None:
    done = kubooth.run("success", "--dry-run", "--output", "~no-such-user/out")
    assert done.returncode == 0, done.stderr
    assert (kubooth.folder / "~no-such-user" / "out").as_uri() in done.stdout
