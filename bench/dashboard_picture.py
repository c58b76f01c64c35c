"""Draws the chart's Grafana dashboard with the answers of a recorded run: docs/images/dashboard.png.

    python bench/dashboard_picture.py

Grafana has no part in it: panels, places, units and legends are those of dashboard.json, the answers those of a real
Prometheus over the recording that tests/chart keeps. A browser (Debian's chromium) takes the photograph. The picture
holds a digest of dashboard and recording, so that a test sees when it is old.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jinja2 import Environment
from PIL import Image
from PIL.PngImagePlugin import PngInfo

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

from bed.prometheus import PICTURE, RECORDED, Panel, Prometheus, panels, picture_digest, prometheus
from dashboard_chart import COLOURS, Line, chart, number

COLUMN, UNIT, GAP = 50, 25, 8  # pixels; a dashboard has 24 columns
STEP_SECONDS = 10
PALETTE = 64
MOST_LEGENDS = 9
PAGE = """<!doctype html><meta charset="utf-8"><title>{{ title }}</title><style>
body { margin: 0; background: #f4f5f5; font: 11px "DejaVu Sans", Arial, sans-serif; color: #24292e; position: relative }
div { position: absolute; box-sizing: border-box; background: #fff; border: 1px solid #e0e1e4; border-radius: 3px }
h2 { font-size: 12px; font-weight: 600; margin: 6px 8px 2px } text { font-size: 10px; fill: #6e7079 }
div.row { background: none; border: 0 } div.row h2 { font-size: 13px }
p { margin: 0 8px; color: #44474d; white-space: nowrap; overflow: hidden }
p.number { font-size: 34px; text-align: center; margin-top: 2px }
i { display: inline-block; width: 12px; height: 3px; margin: 0 4px 2px 0 } span { margin-right: 10px }
</style>{% for panel in panels %}
<div class="{{ panel.type }}"
style="left:{{ panel.x }}px;top:{{ panel.y }}px;width:{{ panel.w }}px;height:{{ panel.h }}px">
<h2>{{ panel.title }}</h2>
{% if panel.type == "stat" %}<p class="number" style="color:{{ panel.colour }}">{{ panel.text }}</p>
{% elif panel.type == "timeseries" %}{{ panel.svg | safe }}
<p>{% for line in panel.legend %}<span><i style="background:{{ line.colour }}"></i>{{ line.name }}</span>{% endfor %}
{{ panel.more }}</p>{% endif %}</div>{% endfor %}"""


def main() -> None:
    with TemporaryDirectory() as folder:
        recorded = prometheus(RECORDED, Path(folder))
        drawn = [_drawn(panel, recorded) for panel in panels()]
        page = Path(folder, "dashboard.html")
        page.write_text(Environment(autoescape=True).from_string(PAGE).render(panels=drawn, title="Kubooth"))
        size = (24 * COLUMN + GAP, max(each["y"] + each["h"] for each in drawn) + GAP)
        photograph = Path(folder, "dashboard.png")
        _photograph(page, photograph, size)
        _save(photograph)
    print(f"{PICTURE}: {PICTURE.stat().st_size} bytes")


def _drawn(panel: Panel, recorded: Prometheus) -> dict[str, Any]:
    place = panel.raw["gridPos"]
    width, height = place["w"] * COLUMN - GAP, place["h"] * (UNIT + GAP) - GAP
    common = {
        "type": panel.raw["type"], "title": panel.title, "w": width, "h": height,
        "x": GAP + place["x"] * COLUMN, "y": GAP + place["y"] * (UNIT + GAP),
    }  # fmt: skip
    expressions = [query.expression(recorded.seconds) for query in panel.queries]
    if panel.raw["type"] == "stat":
        ((answer,),) = recorded.at_end(expressions)
        text, colour = number(panel.raw, answer.points[-1][1])
        return {**common, "text": text, "colour": colour}
    if panel.raw["type"] == "timeseries":
        answers = recorded.over_time(expressions, step=STEP_SECONDS)
        found = [
            (query.legend_of(series.labels), series.points)
            for query, answer in zip(panel.queries, answers, strict=True)
            for series in answer
        ]
        lines = [Line(name, COLOURS[at % len(COLOURS)], points) for at, (name, points) in enumerate(found)]
        svg = chart(panel.raw, lines, start=recorded.start, end=recorded.end, size=(width - 4, height - 48))
        more = f"and {len(lines) - MOST_LEGENDS} more" if len(lines) > MOST_LEGENDS else ""
        return {**common, "svg": svg, "legend": lines[:MOST_LEGENDS], "more": more}
    return common


def _photograph(page: Path, target: Path, size: tuple[int, int]) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        raise SystemExit("no browser is here: install chromium, which takes the photograph")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--force-device-scale-factor=1"]
    where = [f"--screenshot={target}", f"--window-size={size[0]},{size[1]}", f"--user-data-dir={target.parent}/browser"]
    subprocess.run([browser, *options, *where, page.as_uri()], check=True, capture_output=True, timeout=300)


def _save(photograph: Path) -> None:
    about = PngInfo()
    about.add_text("Comment", picture_digest())
    with Image.open(photograph) as image:
        image.convert("RGB").quantize(PALETTE).save(PICTURE, optimize=True, pnginfo=about)


if __name__ == "__main__":
    main()
