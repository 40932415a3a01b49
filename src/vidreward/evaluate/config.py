"""Say how to evaluate."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """How to evaluate."""

    seed: int = 0
    """Seed of resamples, shuffles, wrong goals and the random control."""
    num_resamples: int = 1000
    """Bootstrap resamples."""
    confidence: float = 0.95
    """Coverage of the intervals."""
    margin: float = 0.05
    """By how much a metric must beat every control; a share of the control's value for metrics with a unit."""
    num_permutations: int = 3
    """Shuffles of each episode's frames."""
    max_control_episodes: int | None = None
    """Episodes shown reversed, shuffled, frozen and with wrong goals, evenly over tasks; None: all but failures."""
    camera: str | None = None
    """Camera to score; None is the episode's first."""
    predicts_time: bool = False
    """Whether minus the score is a time to the goal, in frames at `mean_fps`."""
    mean_fps: float | None = None
    """Rate in which a model that predicts time counts frames."""
    unseen_tasks: tuple[str, ...] = ()
    """Tasks that were not trained on; adds the grouping "split" (seen, unseen)."""
    group_by: tuple[str, ...] = ()
    """Metadata columns to group episodes by."""
    progress_column: str = "progress"
    """Per-frame column with the true progress in [0, 1]."""
    failure_column: str = "failure"
    """Metadata column that names the kind of failure."""
    layout_column: str = "layout"
    """Metadata column that tells layouts of one task apart, for wrong goals."""

    def __post_init__(self) -> None:
        if self.num_resamples < 2 or not 0 < self.confidence < 1 or self.num_permutations < 0:
            raise ValueError(
                f"num_resamples ({self.num_resamples}) must be at least 2, confidence ({self.confidence}) between "
                f"0 and 1, num_permutations ({self.num_permutations}) at least 0"
            )
        if self.predicts_time and not (self.mean_fps and self.mean_fps > 0):
            raise ValueError(f"a model that predicts time needs mean_fps > 0; got {self.mean_fps}")
