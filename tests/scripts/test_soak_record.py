"""The record of scripts/soak says what happened, whatever happened."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

ROUND = """<testsuites><testsuite>
<testcase classname="tests.x" name="test_kill[1]" time="2.5">{}</testcase>
<testcase classname="tests.x" name="test_gpu" time="0.1"><skipped message="no GPU"/></testcase>
</testsuite></testsuites>"""


def test_every_round_of_every_test_is_recorded(tmp_path: Path) -> None:
    (tmp_path / "1.xml").write_text(ROUND.format(""))
    (tmp_path / "2.xml").write_text(ROUND.format('<failure message="no"/>'))
    record = tmp_path / "records" / "soak.json"
    subprocess.run([sys.executable, ROOT / "scripts" / "_soak_record.py", record, tmp_path], cwd=ROOT, check=True)
    content = json.loads(record.read_text())
    assert content["rounds"] == 2
    assert content["totals"] == {"failed": 1, "passed": 1, "skipped": 2}
    assert [run["outcome"] for run in content["tests"]["tests.x.test_kill[1]"]] == ["passed", "failed"]
    assert content["tests"]["tests.x.test_kill[1]"][0]["seconds"] == 2.5
    assert content["commit"]
