"""The Dockerfile keeps its promises: checked as text here, by a real build of the operator's image in the soak run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kubooth_operator import __version__
from kubooth_operator.podspec import USER_ID

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ("operator", "trainer")


@dataclass
class Stage:
    """`FROM base AS name` and the instructions below it."""

    name: str
    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, word: str) -> list[str]:
        return [rest for each, rest in self.instructions if each == word]


def read() -> tuple[dict[str, Stage], dict[str, str]]:
    """Stages by name, and the arguments above the first one."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    stages: dict[str, Stage] = {}
    arguments: dict[str, str] = {}
    for line in filter(str.strip, text.splitlines()):
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            base, name = rest.split(" AS ")
            current = stages[name] = Stage(name, base)
        elif not stages:
            assert word == "ARG"
            arguments |= [rest.split("=", 1)]  # type: ignore[arg-type]
        else:
            current.instructions.append((word, " ".join(rest.split())))
    return stages, arguments


STAGES, ARGUMENTS = read()


def lineage(name: str) -> list[Stage]:
    """A stage and those it is made from, the first one first."""
    stage = STAGES[name]
    return [*(lineage(stage.base) if stage.base in STAGES else []), stage]


def needed_for(name: str) -> set[str]:
    """All stages that building one takes."""
    found = {stage.name for stage in lineage(name)}
    for stage in lineage(name):
        for copy in stage.all("COPY"):
            source = re.match(r"--from=(\S+)", copy)
            found |= needed_for(source[1]) if source else set()
    return found


def test_every_stage_stands_on_one_pinned_base() -> None:
    assert set(ARGUMENTS) == {"BASE"} and re.search(r"@sha256:[0-9a-f]{64}$", ARGUMENTS["BASE"])
    assert {lineage(name)[0].base for name in STAGES} == {"${BASE}"}


@pytest.mark.parametrize("name", IMAGES)
def test_processes(name: str) -> None:
    """Not root, by number; process 1 is ours, with no shell before it."""
    stage = STAGES[name]
    assert stage.all("USER") == [f"{USER_ID}:{USER_ID}"]
    (entry,) = stage.all("ENTRYPOINT")
    module = {"operator": "kubooth_operator.main", "trainer": "kubooth_trainer.launcher"}[name]
    assert json.loads(entry) == ["python", "-m", module]
    assert not stage.all("CMD") and not stage.all("HEALTHCHECK") and not stage.all("VOLUME")


@pytest.mark.parametrize("name", IMAGES)
def test_labels(name: str) -> None:
    (labels,) = STAGES[name].all("LABEL")
    keys = set(re.findall(r"org\.opencontainers\.image\.(\w+)=", labels))
    assert keys == {"title", "description", "licenses", "version", "revision"}


def test_the_operator_s_image_has_nothing_of_the_trainer_s() -> None:
    assert not {"trainer-packages", "trainer"} & needed_for("operator")
    pinned = set(re.findall(r"^([a-z0-9._-]+)==", (ROOT / "requirements" / "operator.txt").read_text(), re.MULTILINE))
    assert "kubernetes" in pinned
    assert not pinned & {"torch", "numpy", "diffusers", "transformers", "deepspeed", "pillow", "kubooth-world"}
    assert not [copy for stage in STAGES.values() for copy in stage.all("COPY") if "world" in copy]


def test_what_is_installed_is_checked_by_hash() -> None:
    installs = [
        command
        for stage in STAGES.values()
        for run in stage.all("RUN")
        for command in run.split(" && ")
        if "pip install" in command
    ]
    assert len(installs) == 5
    for command in installs:
        assert "--no-deps" in command
        assert ("--require-hashes" in command) != ("--no-index" in command), command
    everything = (ROOT / "Dockerfile").read_text()
    assert not re.search(r"\b(curl|wget|git clone)\b|^ADD ", everything, re.MULTILINE)


@pytest.mark.parametrize("name", IMAGES)
def test_a_change_of_code_makes_one_small_layer_anew(name: str) -> None:
    """Packages are installed before, and copied before, anything that changes with the code."""
    for stage in (*lineage(f"{name}-packages"),):
        assert all(copy.startswith("requirements/") for copy in stage.all("COPY"))
    words = [(word, rest) for word, rest in STAGES[name].instructions if word in ("COPY", "RUN", "ARG", "LABEL")]
    last_copy = max(i for i, (word, _) in enumerate(words) if word == "COPY")
    assert words[last_copy][1] == "--from=code /opt/code /opt/code"
    assert not [rest for word, rest in words[last_copy:] if word == "RUN"]
    assert all(rest.startswith("COMPILER") for word, rest in words[:last_copy] if word == "ARG")


def test_secrets_stay_out_of_the_layers() -> None:
    for stage in STAGES.values():
        assert not [each for each in (*stage.all("ARG"), *stage.all("ENV")) if re.search(r"TOKEN|PASSWORD|INDEX", each)]


def test_the_builder_is_sent_what_is_copied_and_nothing_else() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    sent = {line[1:].removesuffix("/*.txt") for line in lines if line[0] == "!"}
    copied = {
        source.split("/")[0]
        for stage in STAGES.values()
        for copy in stage.all("COPY")
        if not copy.startswith("--from")
        for source in copy.split()[:-1]
    }
    assert lines[0] == "*" and sent == copied
    assert {"**/__pycache__", "**/*.pyc"} <= set(lines)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--engine", "rocket"), "--engine must be docker, podman or buildah"),
        (("--engine",), "--engine needs a value"),
        (("world",), "world is not known"),
    ],
)
def test_the_script_says_what_is_wrong(arguments: tuple[str, ...], words: str) -> None:
    done = subprocess.run([ROOT / "scripts" / "image", *arguments], capture_output=True, text=True)
    assert done.returncode == 2 and words in done.stderr


@pytest.mark.parametrize("engine", ["docker", "podman", "buildah"])
def test_the_script_asks_the_engine_for_the_right_thing(engine: str, tmp_path: Path) -> None:
    program = tmp_path / engine
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    program.chmod(0o755)
    command = [
        ROOT / "scripts" / "image",
        "--engine",
        engine,
        "--prefix",
        "here/",
        "--tag",
        "t",
        "--base",
        "b",
        "--push",
    ]
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run([*command, "operator"], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "here/kubooth/operator:t\n"
    built, pushed = (tmp_path / "asked").read_text().splitlines()
    assert built.startswith("build ") and "--target operator --tag here/kubooth/operator:t" in built
    assert "--build-arg BASE=b" in built and pushed == "push here/kubooth/operator:t"


@pytest.mark.parametrize("name", IMAGES)
def test_entry_points_say_their_version(name: str) -> None:
    (entry,) = STAGES[name].all("ENTRYPOINT")
    command = [sys.executable, *json.loads(entry)[1:], "--version"]
    assert __version__ in subprocess.run(command, capture_output=True, text=True, check=True).stdout
