"""Hold HOLD's table of test metrics for one checkpoint: write it as strict JSON, print it.

Columns are definitions: as the released code computes a metric, as the paper writes it, and corrected, once as a mean
over videos and once pooled over frames. Rows are metrics, each with the controls that see no content beneath.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from vidreward.evaluate.result import to_plain
from vidreward.evaluate.summary import Estimate
from vidreward.files import write_json_atomic

FORMAT = "vidreward-hold-1"
DEFINITIONS = {
    "as_coded": "as coded",
    "paper": "paper's Eq. 5, 6",
    "corrected_by_video": "corrected, by video",
    "corrected_by_frame": "corrected, by frame",
}
"""Column -> heading."""
METRICS = {
    "spearman": "Spearman ^",
    "misclassification_adjacent": "misclassification, neighbours v",
    "misclassification_all_pairs": "misclassification, all pairs v",
    "mse_raw": "MSE, raw v",
    "mse_steps": "MSE, steps v",
    "mse_seconds": "MSE, seconds v",
    "mae_raw": "mean error, raw v",
    "mae_steps": "mean error, steps v",
    "mae_seconds": "mean error, seconds v",
    "hinge_steps": "hinge, steps v",
    "hinge_seconds": "hinge, seconds v",
}
"""Row -> heading; the arrow says which way is better."""
LEGEND = """\
as coded: the released code. It compares times with the time passed instead of the time left, and ranks ties by their
place, so that a constant gets a Spearman of -1 and a misclassification of 0.
paper's Eq. 6 divides the wrong pairs by frames, not by pairs: it may exceed 1. corrected: a tie is half an error.
by video: every video counts alike; by frame: sums over all videos (of frames or pairs) are divided.
raw: frames at the model's mean rate minus frames of the video."""
MAX_NAMED = 20
"""Videos left out that a terminal names."""


@dataclass(frozen=True, kw_only=True)
class HoldEvaluation:
    """HOLD's test metrics of one checkpoint on one set of videos, beside controls that see no content."""

    name: str
    """What was evaluated."""
    checkpoint: str | None
    """Key of its content; None for a model that comes from no checkpoint."""
    num_videos: int
    left_out: Mapping[str, str]
    """File or episode -> why it was not measured."""
    fps: Mapping[str, float]
    """Mean, least and greatest rate of the videos."""
    num_frames: Mapping[str, float]
    """Mean, standard deviation, least and greatest length; MSE grows with its square."""
    counts_frames_at: float | None
    """Rate in which the model counts frames; None: its distance is no time, and only order is measured."""
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    bootstrap: str
    """What was resampled, in words."""
    table: Mapping[str, Mapping[str, Mapping[str, Estimate]]]
    """Predictor ("model", "clock", "constant", "random") -> definition -> metric -> estimate."""

    def value(self, metric: str, definition: str, predictor: str = "model") -> float | None:
        """Return one number; None when it is undefined.

        Raises:
            ValueError: There is no such metric, definition or predictor; names those there are.
        """
        level: Any = self.table
        for key in (predictor, definition, metric):
            if key not in level:
                raise ValueError(f"there is no {key!r} here; choose one of {', '.join(level)}")
            level = level[key]
        return level.value

    def write(self, path: Path) -> Path:
        """Write strict JSON (undefined is null); the file appears whole or not at all."""
        write_json_atomic(path, {"format": FORMAT, **to_plain(self)})
        return path

    def print(self, console: Console | None = None) -> None:
        """Print the table, at least as wide as it is readable."""
        console = console or Console()
        table = self._table()
        needed = Measurement.get(console, console.options.update(width=1000), table).maximum
        console.width = max(console.width, needed)
        console.print(Group(table, *map(Text, self._notes())))

    def _table(self) -> Table:
        table = Table(title=Text(f"{self.name}: HOLD's test metrics on {self.num_videos} videos"), title_justify="left")
        for heading in ("metric", *DEFINITIONS.values()):
            table.add_column(heading, no_wrap=True)
        for metric, heading in METRICS.items():
            if not any(metric in estimates for estimates in self.table["model"].values()):
                continue
            for predictor, columns in self.table.items():
                is_model = predictor == "model"
                cells = [_cell(columns[name].get(metric), with_interval=is_model) for name in DEFINITIONS]
                label = heading if is_model else f"  {predictor}"
                table.add_row(label, *cells, style="bold" if is_model else "dim")
            table.add_section()
        return table

    def _notes(self) -> list[str]:
        notes = [LEGEND, f"splits of the data that were measured: {', '.join(self.settings['splits'])}"]
        if self.counts_frames_at is None:
            notes.append("the model counts no time: errors and hinge do not exist")
        for predictor, columns in self.table.items():
            num = columns["corrected_by_video"]["spearman"].num_undefined
            if num:
                notes.append(f"{predictor}: Spearman is undefined in {num} video(s), whose predictions are all equal")
        shown = list(self.left_out.items())[:MAX_NAMED]
        if shown:
            notes.append(f"{len(self.left_out)} left out:")
            notes += [f"  {name}: {reason}" for name, reason in shown]
        if len(self.left_out) > len(shown):
            notes.append(f"  and {len(self.left_out) - len(shown)} more, in hold.json")
        notes.append(f"intervals: {self.settings['confidence']:.0%}, {self.bootstrap}")
        return notes


def _cell(estimate: Estimate | None, *, with_interval: bool) -> str:
    """Write a value with four significant digits, and its interval."""
    if estimate is None:
        return "-"
    if estimate.value is None:
        return "undefined"
    text = f"{estimate.value:#.4g}"
    if with_interval and estimate.low is not None and estimate.high is not None:
        text += f" [{estimate.low:#.4g}, {estimate.high:#.4g}]"
    return text
