"""Write one self-contained HTML page: metrics beside controls, then every episode with player and curve in step.

The page makes no request: style, script, pictures and videos are inside, and its content security policy allows
nothing else. Names come from data sets that anyone may have made, so every string is escaped in HTML, and data reach
the script as JSON in which no tag can be closed.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from rich.progress import track

from vidreward.evaluate.outputs import ScoredEpisode
from vidreward.evaluate.report_data import episode_data, find_trouble
from vidreward.evaluate.report_tables import escaped, evaluation_section
from vidreward.evaluate.result import Evaluation
from vidreward.files import write_text_atomic

MAX_EPISODES = 200
"""Episodes shown at most, those with the most trouble first."""
MAX_BYTES = 24_000_000
"""Size of the embedded videos at most; episodes beyond it keep curve and film strip."""


def write_report(
    path: Path | str,
    evaluation: Evaluation | None,
    scored: Sequence[ScoredEpisode],
    *,
    title: str,
    description: str = "",
    max_videos: int = 48,
    show_progress: bool = True,
) -> Path:
    """Write the report.

    Args:
        path: Where to write, ending in .html.
        evaluation: What was measured; None for videos without any truth, which are then only shown.
        scored: Episodes to show, with their scores.
        title: Heading of the page.
        description: A paragraph under it: the model, the data.
        max_videos: Episodes that get a player, those with the most trouble first.
        show_progress: Whether to show a progress bar.

    Returns:
        The path written.

    Raises:
        ValueError: There is neither an evaluation nor an episode.
    """
    if evaluation is None and not scored:
        raise ValueError("there is nothing to report; give an evaluation, scored episodes or both")
    trouble = find_trouble(scored)
    order = sorted(range(len(scored)), key=lambda number: -trouble[number].size)[:MAX_EPISODES]
    episodes, num_bytes, num_videos = [], 0, 0
    for number in track(order, "report: episodes", disable=not show_progress):
        with_video = num_videos < max_videos and num_bytes < MAX_BYTES
        row = episode_data(scored[number], trouble[number], with_video=with_video)
        num_bytes += len(row["film"]) + len(row["video"] or "")
        num_videos += with_video
        episodes.append(row)
    left_out = []
    if len(order) < len(scored):
        left_out.append(f"The {len(order)} episodes with the most trouble of {len(scored)} are shown.")
    if num_videos < len(order):
        left_out.append(f"The first {num_videos} of these have a player; the others show their film strip.")
    page = _page(evaluation, title, description, " ".join(left_out), {"episodes": episodes})
    write_text_atomic(path, page)
    return Path(path)


def json_for_script(value: object) -> str:
    r"""Write JSON that is safe inside a script element: no `<`, `>` or `&` is left to open or close a tag.

    Example:
        >>> json_for_script({"task": "</script>"})
        '{"task":"\\u003c/script\\u003e"}'
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))  # ASCII: line separators are escaped too
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _page(evaluation: Evaluation | None, title: str, description: str, left_out: str, data: dict[str, object]) -> str:
    style, script = _read("report.css"), _read("report.js")
    policy = (
        f"default-src 'none'; img-src data:; media-src blob:; style-src '{_hash(style)}'; "
        f"script-src '{_hash(script)}'; base-uri 'none'; form-action 'none'"
    )
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<link rel="icon" href="data:,">',
        f"<title>{escaped(title)}</title>",
        f"<style>{style}</style></head><body><main>",
        f"<h1>{escaped(title)}</h1>",
        f'<p class="soft">{escaped(description)}</p>' if description else "",
        _NAVIGATION if evaluation is not None and data["episodes"] else "",
        "" if evaluation is None else evaluation_section(evaluation),
        _EPISODES.format(left_out=escaped(left_out)) if data["episodes"] else "",
        "<footer>Written by vidreward. This page is one file and makes no network request.</footer>",
        f'</main><script type="application/json" id="data">{json_for_script(data)}</script>',
        f"<script>{script}</script>" if data["episodes"] else "",
        "</body></html>\n",
    ]
    return "\n".join(part for part in parts if part)


_NAVIGATION = """<nav><a href="#metrics">Metrics and controls</a> <a href="#groups">Tasks and failures</a>
<a href="#watch">Watch the episodes</a></nav>"""
_EPISODES = """<h2 id="watch">Episodes</h2>
<p class="soft">Drag along a curve, or focus it and use the arrow keys (Shift: ten frames, Home, End, Space: play).
{left_out}</p>
<div class="tools">
<label>order<select id="order"><option value="worst">most trouble first</option>
<option value="best">least trouble first</option><option value="last">highest last score first</option>
<option value="longest">longest first</option><option value="name">name</option></select></label>
<label>task<select id="task"><option value="">all</option></select></label>
<label>outcome<select id="outcome"><option value="">all</option><option>success</option><option>failure</option>
<option>not known</option></select></label>
<label>name contains<input id="search" type="search"></label>
<span class="soft" id="count" role="status"></span></div>
<noscript><p class="card note">Players and curves need JavaScript; the tables above do not.</p></noscript>
<div id="episodes"></div>"""


def _read(name: str) -> str:
    return resources.files("vidreward.evaluate").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Hash by which the content security policy recognises an inline style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
