"""The first cause of a chain of failures, from what the launcher saw. More cases run for real in test_launcher."""

from __future__ import annotations

from typing import Any

import pytest

from kubooth_trainer.outcome import Outcome
from kubooth_trainer.verdict import Seen, judge

T = 1_790_000_000.0
LOST = "the connection to a peer is gone"


def rank(number: int, reason: str = "", code: int | None = None, at: float = T) -> Outcome:
    return Outcome(rank=number, pid=number + 100, exit_code=code, reason=reason, message=f"{reason} {number}", time=at)


def nccl(number: int) -> str:
    return (
        f"[rank{number}]:[E1122 ProcessGroupNCCL.cpp:670] [Rank {number}] Watchdog caught collective operation timeout"
    )


CASES: list[tuple[str, dict[str, Any], int, str, str]] = [
    ("out of memory in the pod", {"outcomes": [rank(0)], "died": {0: T}, "oom_kills": 1}, 75, "OutOfMemory", "rank 0"),
    ("NCCL gave up", {"outcomes": [rank(0)], "died": {0: T}, "log": ["x", nccl(0)]}, 75, "PeerLost", "rank 0"),
    ("another rank's NCCL gave up", {"outcomes": [rank(0), rank(1)], "died": {1: T}, "log": [nccl(0)]},
     70, "TrainerCrashed", "rank 1"),
    ("killed, then stopped", {"outcomes": [rank(0)], "died": {0: T}, "stopped_at": T + 1}, 70, "TrainerCrashed", "0"),
    ("stopped, then killed", {"outcomes": [rank(0)], "died": {0: T + 1}, "stopped_at": T}, 143, "Stopped", "save"),
    ("peer lost, then stopped", {"outcomes": [rank(0, "PeerLost", 75)], "stopped_at": T + 1}, 75, "PeerLost", "0"),
    ("stopped, then peer lost", {"outcomes": [rank(0, "PeerLost", 75, T + 1)], "stopped_at": T}, 143, "Stopped", ""),
    ("torchrun stops the peer of one that lost its own",
     {"outcomes": [rank(1, "PeerLost", 75), rank(0, "Stopped", 143, T + 1)]}, 75, "PeerLost", "PeerLost 1"),
    ("stopped elsewhere, then a peer is lost",
     {"outcomes": [rank(0, "Stopped", 143), rank(1, "PeerLost", 75, T + 1)]}, 143, "Stopped", "Stopped 0"),
    ("stopped, and no grace left", {"outcomes": [rank(1), rank(0, "Stopped", 143), rank(2)], "stopped_at": T,
     "grace_seconds": 300.0}, 143, "Stopped", "Stopped 0"),
    ("no grace left for anybody", {"outcomes": [rank(1), rank(0)], "stopped_at": T, "grace_seconds": 300.0},
     143, "Stopped", "grace period of 300 seconds rank 0, 1 had not left"),
    ("stalled", {"outcomes": [rank(1, "Stalled", 75), rank(0, "PeerLost", 75, T + 1)]}, 75, "Stalled", "Stalled 1"),
    ("peer lost before the start", {"log": ["torch.distributed.DistNetworkError: failed to recv, got 0 bytes"]},
     75, "PeerLost", "before the training processes had started"),
    ("never met", {"rendezvous_seconds": 60}, 75, "RendezvousTimeout", "within 60 seconds"),
    ("nothing known", {}, 70, "TrainerCrashed", "did not start"),
]  # fmt: skip


@pytest.mark.parametrize(("seen", "code", "reason", "words"), [case[1:] for case in CASES], ids=[c[0] for c in CASES])
def test_verdict(seen: dict[str, Any], code: int, reason: str, words: str) -> None:
    verdict = judge(Seen(**{"torchrun_code": 1, "outcomes": [], "died": {}} | seen))
    assert verdict is not None
    assert (verdict.exit_code, verdict.reason) == (code, reason)
    assert words in verdict.message


def test_done_is_done_also_after_sigterm() -> None:
    assert judge(Seen(torchrun_code=0, outcomes=[rank(0, code=0)], died={}, stopped_at=T)) is None
