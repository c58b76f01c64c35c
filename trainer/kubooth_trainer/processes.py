"""What the launcher asks of the system about processes: who lives, who is to end, and how they end.

Called by `launcher`, and by `main` for the tie to its parent. Linux; where a facility is missing, nothing happens.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

DUMP_SIGNAL = signal.SIGUSR1  # a rank answers with the stacks of its threads
MEMORY_EVENTS = Path("/sys/fs/cgroup/memory.events")
PORTS = range(20_000, 32_000)  # Linux hands out those from 32768 on by itself
_PR_SET_PDEATHSIG = 1


def die_with_parent(number: signal.Signals) -> None:
    """Asks the kernel to send this process `number` when its parent ends (Linux; elsewhere nothing happens)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)


def is_alive(pid: int) -> bool:
    """Whether there is such a process, also one that has ended and was not waited for."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def send(pid: int, number: signal.Signals) -> None:
    """Sends a signal; a process that is gone needs none."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Ends torchrun at once; the ranks, in sessions of their own, have asked the kernel to end with it."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def reap_orphans(but: int) -> None:
    """Buries the dead that PID 1 inherits; the child `but` is left to those who wait for it."""
    while True:
        try:
            dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if dead is None or dead.si_pid == but:
            return
        os.waitpid(dead.si_pid, 0)


def oom_kills() -> int:
    """How many processes of this container the kernel has ended for want of memory (cgroup v2; elsewhere 0)."""
    try:
        fields = dict(line.split() for line in MEMORY_EVENTS.read_text().splitlines())
        return int(fields.get("oom_kill", 0))
    except (OSError, ValueError):
        return 0


def free_port() -> int:
    """One that nothing listens on, out of the range that systems hand out by themselves.

    A port of that range may be given to another process before torchrun, some seconds later, listens on it.
    """
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", port))
            return port
    raise OSError(f"no port from {PORTS.start} to {PORTS.stop - 1} is free on this machine")
