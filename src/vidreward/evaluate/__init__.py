"""Measure reward models on held-out videos, honestly, and show what they say."""

from vidreward.evaluate.combine import combine
from vidreward.evaluate.config import EvaluateConfig
from vidreward.evaluate.controls import Scorer
from vidreward.evaluate.outputs import ScoredEpisode, write_scores
from vidreward.evaluate.overlay import overlay_video
from vidreward.evaluate.plots import plot_episode, plot_overview
from vidreward.evaluate.protocol import evaluate
from vidreward.evaluate.report import write_report
from vidreward.evaluate.result import Evaluation, read_evaluation

__all__ = [
    "EvaluateConfig",
    "Evaluation",
    "ScoredEpisode",
    "Scorer",
    "combine",
    "evaluate",
    "overlay_video",
    "plot_episode",
    "plot_overview",
    "read_evaluation",
    "write_report",
    "write_scores",
]
