"""Pods that are played: trainers that tell what a real one tells. For recordings.

The scheduler is real and places them while devices are free. A part says how a job's training goes; its words are
made by the trainer's own reporter and status sink, at some seconds a stage, and reach the job's status as a pod's do.
"""

from __future__ import annotations

import math
import random
import threading
import time
import zlib
from dataclasses import dataclass
from typing import Any, Literal, cast

from bed import kubelet
from bed.controlplane import ControlPlane
from bed.jobs import PODS, SELECTOR
from bed.rest import JOBS, ApiError, Rest

from kubooth_trainer.config import StageName
from kubooth_trainer.delivery import Outlet
from kubooth_trainer.progress import PriorEvent, ProgressEvent, Reporter, ResultEvent
from kubooth_trainer.status import StatusSink

Manifest = dict[str, Any]
Part = Literal["succeeds", "bad photos", "loses a peer", "out of memory", "crashes"]
DEVICE = "nvidia.com/gpu"
STEPS = 400
_SECONDS_BETWEEN_WORDS = 4.0
_ENDS = {  # exit code, reason, sentence
    "bad photos": (2, "BadSubject", "subject.images: 03.jpg is no picture"),
    "loses a peer": (75, "PeerLost", "rank 1 does not answer"),
    "out of memory": (137, "OOMKilled", ""),
    "crashes": (70, "TrainerCrashed", "an error of the trainer itself"),
}


class _LeavesError(Exception):
    """The pod is to go."""


@dataclass
class Pods:
    """Plays every pod that is placed; `parts` has those of jobs that do not simply succeed, by name."""

    plane: ControlPlane
    namespaces: tuple[str, ...]
    parts: dict[str, Part]

    def __enter__(self) -> Pods:
        self._seen: dict[str, _Pod] = {}
        self._over: dict[str, threading.Event] = {}
        self._threads: list[threading.Thread] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        for pod in self._seen.values():
            pod.leaving.set()
        for thread in self._threads:
            thread.join()

    def _loop(self) -> None:
        rest = Rest(self.plane)
        while not self._stopping.wait(0.3):
            for namespace in self.namespaces:
                for pod in rest.items(PODS.format(namespace), SELECTOR):
                    self._look(pod)
        rest.close()

    def _look(self, pod: Manifest) -> None:
        uid = pod["metadata"]["uid"]
        if uid not in self._seen and pod["spec"].get("nodeName"):
            labels = pod["metadata"]["labels"]
            over = self._over.setdefault(f"{pod['metadata']['namespace']}/{labels['job-name']}", threading.Event())
            part = self.parts.get(labels["kubooth.io/job"], "succeeds")
            self._seen[uid] = _Pod(Rest(self.plane), pod, part, over)
            self._threads.append(threading.Thread(target=self._seen[uid].play, daemon=True))
            self._threads[-1].start()
        if uid in self._seen and pod["metadata"].get("deletionTimestamp"):
            self._seen[uid].leaving.set()


class _Pod:
    """One pod from its node's first look at it to its end."""

    def __init__(self, rest: Rest, pod: Manifest, part: Part, over: threading.Event) -> None:
        self.leaving = threading.Event()
        self._rest, self._pod, self._part, self._over = rest, pod, part, over
        labels = pod["metadata"]["labels"]
        self._job, self._namespace = labels["kubooth.io/job"], pod["metadata"]["namespace"]
        self._is_main = labels["batch.kubernetes.io/job-completion-index"] == "0"
        self._attempt = int(labels["job-name"].rpartition("-")[2])
        self._random = random.Random(zlib.crc32(self._job.encode()))
        self._words: Manifest = {}

    def play(self) -> None:
        try:
            self._pause(self._random.uniform(1, 4))  # its image
            kubelet.run(self._rest, self._pod)
            if not self._is_main:
                while not self._over.wait(0.3):
                    self._pause(0)
                kubelet.end(self._rest, self._pod, message=kubelet.termination())
                return
            code, reason, text = self._live()
            message = kubelet.termination(code, reason, text, **self._words) if text or code == 0 else ""
            kubelet.end(self._rest, self._pod, exit_code=code, reason="OOMKilled" if code == 137 else "",
                        message=message)  # fmt: skip
            if code == 0:  # else its peers are ended with it
                self._over.set()
        except _LeavesError:
            path = f"{PODS.format(self._namespace)}/{self._pod['metadata']['name']}"
            self._rest.delete(path, gracePeriodSeconds=0)
        except ApiError:
            pass  # it is gone
        finally:
            self._rest.close()

    def _live(self) -> tuple[int, str, str]:
        """A trainer's life: its exit code, reason and last sentence."""
        outlet = Outlet("the status", self._write, seconds_between=_SECONDS_BETWEEN_WORDS)
        sink = StatusSink([outlet], total_steps=STEPS)
        reporter = Reporter(sinks=[sink], on_move=[sink.moved])
        try:
            return self._stages(reporter)
        except _LeavesError:
            reporter.fail()
            raise
        finally:
            sink.close()

    def _stages(self, reporter: Reporter) -> tuple[int, str, str]:
        pace, first = self._random.uniform(0.7, 1.6), self._attempt == 1
        reporter.plan()
        self._stage(reporter, "Download", 3 * pace, 24, "files")
        if self._part == "bad photos":
            reporter.fail()
            return _ENDS[self._part]
        source = self._random.choice(["Generated", "Hit", "Hit", "Partial"]) if first else "Hit"
        self._stage(reporter, "Prior", (1 if source == "Hit" else 14) * pace, 200, "images")
        made = PriorEvent(source=cast(Any, source), images=200, cache_key="c" * 64)
        reporter.emit(made)
        self._stage(reporter, "Prepare", 2 * pace, 204, "images")
        if self._train(reporter, 30 * pace, until=0.6 if first and self._part in _ENDS else 1.0):
            reporter.fail()
            return _ENDS[self._part]
        self._stage(reporter, "Evaluate", 6 * pace, 16, "images")
        self._stage(reporter, "Upload", 4 * pace, 9, "files")
        where = f"s3://models/personalized/{self._job}/"
        reporter.emit(
            ResultEvent(model=where, report=f"{where}report.html", manifest=f"{where}manifest.json", identifier="sks",
                        seconds=60 * pace, bytes=4_000_000_000, output=where, manifest_digest="a" * 64)
        )  # fmt: skip
        return 0, "Completed", "done"

    def _train(self, reporter: Reporter, seconds: float, *, until: float) -> bool:
        """True where it is cut short: at that share of the steps."""
        reporter.begin("Train", total=STEPS, unit="steps")
        start = time.monotonic()
        while (share := (time.monotonic() - start) / seconds) < until:
            step = max(1, int(STEPS * share))
            reporter.advance("Train", step)
            noise = self._random.uniform(0.9, 1.1)
            reporter.emit(
                ProgressEvent(step=step, total=STEPS, loss=noise * (0.08 + 0.15 * math.exp(-4 * share)),
                              instance_loss=0.1, prior_loss=0.1, grad_norm=1.0, learning_rate=5e-6,
                              samples_per_second=noise * 8 * STEPS / seconds, eta_seconds=seconds * (1 - share),
                              time=time.time())
            )  # fmt: skip
            self._pause(1)
        if until < 1:
            return True
        reporter.end("Train")
        return False

    def _stage(self, reporter: Reporter, stage: StageName, seconds: float, total: int, unit: str) -> None:
        reporter.begin(stage, total=total, unit=unit)
        self._pause(seconds)
        reporter.end(stage)

    def _pause(self, seconds: float) -> None:
        if self.leaving.wait(seconds):
            raise _LeavesError

    def _write(self, status: Manifest) -> None:
        self._words = status
        self._rest.merge(f"{JOBS.format(self._namespace)}/{self._job}/status", {"status": status})
