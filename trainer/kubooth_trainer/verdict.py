"""What ended a node's ranks, judged from all that the launcher saw. Pure.

Failures come in chains: one rank runs out of memory, its peers lose their connection, torchrun ends the rest. The
verdict names the first cause: what a rank said of itself, then a rank that died without a word, then a crash, and
only where there is nothing else that a peer was lost.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from kubooth_trainer.errors import (
    ExitCode,
    HostOutOfMemoryError,
    KuboothError,
    PeerLostError,
    RendezvousTimeoutError,
    StoppedError,
)
from kubooth_trainer.outcome import Outcome, tells_of_a_lost_peer
from kubooth_trainer.progress import FailedEvent


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the launcher saw. Times are Unix seconds."""

    torchrun_code: int
    outcomes: Sequence[Outcome]  # of this node's ranks, by time
    died: dict[int, float]  # rank -> when it was found gone without a word, before the launcher ended anything
    stopped_at: float | None = None  # when SIGTERM or Ctrl-C came
    grace_seconds: float | None = None  # set where the ranks had to be ended because it was over
    rendezvous_seconds: int | None = None  # set where they had to be ended because no rank had started by then
    oom_kills: int = 0  # by the kernel, in this container, since the launcher started
    log: Sequence[str] = ()


def judge(seen: Seen) -> FailedEvent | None:
    """How the run ended; None: well."""
    if seen.torchrun_code == 0:
        return None
    for verdict in (_said(seen), _died(seen), _crashed(seen), _stopped(seen), _lost_peer(seen)):
        if verdict is not None:
            return verdict
    if seen.rendezvous_seconds is not None:
        return _event(
            RendezvousTimeoutError(
                f"the nodes did not find each other within {seen.rendezvous_seconds} seconds "
                "(runPolicy.startupDeadlineSeconds): see that all pods run and may reach each other"
            )
        )
    if any(tells_of_a_lost_peer("", line) for line in seen.log):
        return _event(PeerLostError("another node was lost before the training processes had started"))
    return FailedEvent(
        reason="TrainerCrashed",
        message=f"the training processes did not start (torchrun exit code {seen.torchrun_code}); the log says why",
        exit_code=ExitCode.CRASHED,
    )


def _said(seen: Seen) -> FailedEvent | None:
    """A failure that a rank knew by name and that is its own."""
    weak = (PeerLostError.reason, StoppedError.reason)
    own = [o for o in seen.outcomes if o.exit_code not in (None, 0, ExitCode.CRASHED) and o.reason not in weak]
    return _failed(own[0]) if own else None


def _died(seen: Seen) -> FailedEvent | None:
    ranks = sorted(rank for rank, time in seen.died.items() if seen.stopped_at is None or time < seen.stopped_at)
    if not ranks:
        return None
    names = ", ".join(map(str, ranks))
    if seen.oom_kills:
        return _event(
            HostOutOfMemoryError(
                f"the kernel ended the process of rank {names} for want of memory: raise resources.limits.memory in "
                "the runtime, or lower training.batchSize"
            )
        )
    if set(ranks) <= _ended_by_nccl(seen.log):
        return _event(PeerLostError(f"rank {names} lost the connection to its peers"))
    return FailedEvent(
        reason="TrainerCrashed",
        message=f"the process of rank {names} was killed (by hand, or by the kernel for want of memory); "
        "training goes on from the last checkpoint when started again",
        exit_code=ExitCode.CRASHED,
    )


def _ended_by_nccl(log: Sequence[str]) -> set[int]:
    """NCCL's own watchdog aborts the process of a rank that lost its peers."""
    lines = [line for line in log if "ProcessGroupNCCL" in line]
    return {int(number) for line in lines for number in re.findall(r"Rank (\d+)\]", line)}


def _crashed(seen: Seen) -> FailedEvent | None:
    crashed = [o for o in seen.outcomes if o.exit_code == ExitCode.CRASHED and _is_cause(o, seen)]
    return _failed(crashed[0]) if crashed else None


def _stopped(seen: Seen) -> FailedEvent | None:
    told = [o for o in seen.outcomes if o.reason == StoppedError.reason]
    lost = [o for o in seen.outcomes if o.reason == PeerLostError.reason]
    if told and not (seen.stopped_at is None and lost and lost[0].time < told[0].time):
        return _failed(told[0])  # else it was torchrun that stopped it, for the peer that was lost before
    if seen.stopped_at is None or _lost_peer(seen) is not None:
        return None
    if seen.grace_seconds is not None:
        ranks = ", ".join(str(o.rank) for o in sorted(seen.outcomes, key=lambda o: o.rank) if o.exit_code is None)
        return _event(
            StoppedError(
                f"stopped on request, but after the grace period of {seen.grace_seconds:.0f} seconds rank {ranks} had "
                "not left; the next start goes on from the last checkpoint"
            )
        )
    return _event(StoppedError("stopped before the ranks could save"))


def _lost_peer(seen: Seen) -> FailedEvent | None:
    lost = [o for o in seen.outcomes if o.reason == PeerLostError.reason and _is_cause(o, seen)]
    return _failed(lost[0]) if lost else None


def _is_cause(outcome: Outcome, seen: Seen) -> bool:
    """What happens to ranks after they were told to stop follows from that."""
    return seen.stopped_at is None or outcome.time < seen.stopped_at


def _failed(outcome: Outcome) -> FailedEvent:
    return FailedEvent(reason=outcome.reason, message=outcome.message, exit_code=outcome.exit_code or ExitCode.CRASHED)


def _event(error: KuboothError) -> FailedEvent:
    return FailedEvent(reason=error.reason, message=str(error), exit_code=error.exit_code)
