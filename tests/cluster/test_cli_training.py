"""From photos on this machine to a model on this machine, by the command line alone, through pods that train."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import yaml
from bed.commands import Kubooth
from bed.s3 import ACCESS_KEY, SECRET_KEY
from bed.trainings import Trainings

STEPS = 12


def test_submit_logs_report_download(trainings: Trainings, photos: Path, tmp_path: Path) -> None:
    storage = trainings.cluster.plane.get("prt", trainings.runtime)["spec"]["storage"]
    inbox = trainings.s3.uri("inbox/{namespace}/")
    trainings.change_runtime(storage={**storage, "inbox": inbox}, price={"perDeviceHour": 3600})
    credentials = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    no_proxy = {"NO_PROXY": "*", "no_proxy": "*"}
    kubooth = Kubooth(tmp_path, trainings.cluster.plane.admin, trainings.bench.namespace, credentials | no_proxy)
    shutil.copytree(photos, tmp_path / "photos")
    manifest = trainings.manifest(steps=STEPS)
    manifest["spec"]["subject"]["images"] = "file:photos/"
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(manifest))

    with kubooth.start("submit", "job.yaml") as submitted:
        assert submitted.stdout
        lines = iter(submitted.stdout)
        next(line for line in lines if line == "personalizationjob.kubooth.io/rex created\n")
        logs = kubooth.start("logs", "-f", "rex")
        said = "".join(lines)
        assert submitted.wait() == 0, said + trainings.story()
    assert "Train: done in" in said and f"({STEPS} steps)" in said
    assert f"model:  {trainings.output()}" in said and "report.html" in said
    with logs:
        assert logs.stdout
        logged = logs.stdout.read()
        assert logs.wait() == 0
    prefixes = {line.partition(" | ")[0] for line in logged.splitlines()}
    assert prefixes == {"1-0", "1-1"}, logged
    assert "1-0 | Train: done" in logged

    images = trainings.bench.job()["spec"]["subject"]["images"]
    assert images.startswith(inbox.replace("{namespace}", trainings.bench.namespace))
    assert kubooth("report", "rex") == "rex-report.html\n" and (tmp_path / "rex-report.html").stat().st_size > 1000
    assert kubooth("report", "rex", "--uri").strip() == f"{trainings.output()}report.html"
    assert "digests are right" in kubooth("download", "rex")
    result = json.loads((tmp_path / "rex" / "manifest.json").read_text())
    assert all((tmp_path / "rex" / file["name"]).stat().st_size == file["size"] for file in result["files"])
    damaged = tmp_path / "rex" / "model_index.json"
    damaged.write_bytes(damaged.read_bytes() + b" ")
    assert "digests are right" in kubooth("download", "rex")  # another size: fetched anew
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine").touch()
    done = kubooth.try_("download", "rex", "--to", "other")
    assert done.returncode == 2 and "is not empty" in done.stderr and (tmp_path / "other" / "mine").exists()
    (cost,) = json.loads(kubooth("cost", "rex", "-o", "json"))
    assert cost["cost"] == round(cost["device_seconds"], 4) and cost["currency"] == "USD"
