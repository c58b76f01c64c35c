"""The process tree below a process, read from /proc: what a second Ctrl-C has to end."""

from __future__ import annotations

from pathlib import Path


def descendants(pid: int, proc: Path = Path("/proc")) -> list[int]:
    """All processes below `pid`, parents before children. Empty where there is no /proc (macOS)."""
    children: dict[int, list[int]] = {}
    for folder in proc.glob("[0-9]*"):
        parent = _parent(folder)
        if parent is not None:
            children.setdefault(parent, []).append(int(folder.name))
    found: list[int] = []
    waiting = [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def _parent(folder: Path) -> int | None:
    try:
        stat = (folder / "stat").read_text(errors="replace")
    except OSError:
        return None
    # "pid (name) state ppid ...": the name may hold spaces and brackets, so count from its last bracket
    fields = stat.rpartition(")")[2].split()
    return int(fields[1]) if len(fields) > 1 else None
