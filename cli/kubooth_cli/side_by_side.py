"""Results of finished jobs, read back from where they were published, and laid side by side for people and programs.

Called by `compare`, `sweep` and `report`. Everything comes from `manifest.json` and `report.json` of each result.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from kubooth_cli.plan import output_uri
from kubooth_trainer.config import StorageConfig
from kubooth_trainer.errors import ConfigError
from kubooth_trainer.publish import Manifest, read_manifest
from kubooth_trainer.report import ReportData
from kubooth_trainer.report_compare import Column, differing_settings
from kubooth_trainer.report_data import REPORT_DATA, report_from_json
from kubooth_trainer.report_quality import shown
from kubooth_trainer.storage import Storage


def store(given: str, endpoint: str | None = None) -> tuple[Storage, str]:
    """The store that holds a folder or URI, and the URI. Without an endpoint, AWS_ENDPOINT_URL counts for s3."""
    return Storage(StorageConfig(endpoint=endpoint, region=None)), output_uri(given)


def published(given: str, *, name: str | None = None, endpoint: str | None = None) -> Column:
    """The result in a folder or at a URI. Raises KuboothError; ConfigError where there is no whole result."""
    storage, uri = store(given, endpoint)
    manifest = read_manifest(storage, uri)
    if manifest is None:
        raise ConfigError(f"{given}: there is no manifest.json: name the output of a finished job")
    return Column(name=name or given.rstrip("/"), uri=uri, report=_report(storage, uri, manifest))


def _report(storage: Storage, uri: str, manifest: Manifest) -> ReportData:
    where = storage.join(uri, REPORT_DATA)
    if REPORT_DATA not in {file.name for file in manifest.files}:
        raise ConfigError(
            f"{where}: is not there, as an older release made this result: remove it, then run the job again"
        )
    return report_from_json(storage.read_bytes(where), where=where)


def figure_names(columns: Sequence[Column]) -> list[str]:
    """Those that at least one result has, in the order of the reports."""
    return list(dict.fromkeys(figure.name for column in columns for figure in column.report.quality.figures))


def table(columns: Sequence[Column]) -> str:
    """One line for each result: figures after training, with their intervals."""
    names = figure_names(columns)
    rows = [["", *names]]
    for column in columns:
        found: dict[str, str] = {figure.name: shown(figure.after) for figure in column.report.quality.figures}
        rows.append([column.name, *(found.get(name, "-") for name in names)])
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def as_records(columns: Sequence[Column]) -> list[dict[str, Any]]:
    """For programs: each result with its settings that differ, and its figures with intervals."""
    settings = differing_settings(columns)
    return [
        {
            "name": column.name,
            "uri": column.uri,
            "seed": column.report.config.training.seed,
            "settings": {path: values[number] for path, values in settings},
            "seconds": round(column.report.seconds, 3),
            "figures": [
                {
                    "name": figure.name,
                    "side": side,
                    "value": estimate.value,
                    "low": estimate.low,
                    "high": estimate.high,
                    "count": estimate.count,
                }
                for figure in column.report.quality.figures
                for side, estimate in (("before", figure.before), ("after", figure.after), ("change", figure.change))
            ],
        }
        for number, column in enumerate(columns)
    ]


def as_json(columns: Sequence[Column]) -> str:
    return json.dumps({"results": as_records(columns)}, indent=2, allow_nan=False) + "\n"


def as_csv(columns: Sequence[Column]) -> str:
    """One line for each result, figure and side."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["result", "seed", "figure", "side", "value", "low", "high", "count"])
    for record in as_records(columns):
        for figure in record["figures"]:
            writer.writerow([record["name"], record["seed"], *figure.values()])
    return text.getvalue()
