"""Writes the record of scripts/soak: what every test did in every round, on which machine and commit."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

BUT_RECORDS = ("--", ":/", ":(top,exclude)bench/records")  # the record of the rounds before is there already
PACKAGES = ("torch", "deepspeed", "diffusers", "transformers")


def main(record: Path, results: Path) -> None:
    """`results` holds one JUnit file per round, named by its number."""
    rounds = sorted(results.glob("*.xml"), key=lambda path: int(path.stem))
    tests: dict[str, list[dict[str, Any]]] = {}
    for path in rounds:
        for case in ElementTree.parse(path).getroot().iter("testcase"):
            outcome = {"round": int(path.stem), "outcome": outcome_of(case), "seconds": float(case.get("time", "nan"))}
            tests.setdefault(f"{case.get('classname')}.{case.get('name')}", []).append(outcome)
    outcomes = [each["outcome"] for runs in tests.values() for each in runs]
    content = {
        "commit": output_of("git", "rev-parse", "HEAD"),
        "uncommitted_changes": bool(output_of("git", "status", "--porcelain", "--untracked-files=no", *BUT_RECORDS)),
        "machine": {"cpu": cpu_name(), "cores": os.cpu_count(), "python": platform.python_version()},
        "versions": {name: version(name) for name in PACKAGES},
        "rounds": len(rounds),
        "totals": {outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))},
        "tests": tests,
    }
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(content, indent=2) + "\n")
    print(f"{record}: {content['totals']}")


def outcome_of(case: ElementTree.Element) -> str:
    kinds = {child.tag for child in case}
    if kinds & {"failure", "error"}:
        return "failed"
    return "skipped" if "skipped" in kinds else "passed"


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def output_of(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
