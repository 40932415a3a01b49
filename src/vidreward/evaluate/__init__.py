"""Measure reward models on held-out videos, honestly, and show what they say."""

from vidreward.evaluate.combine import combine
from vidreward.evaluate.config import EvaluateConfig
from vidreward.evaluate.protocol import evaluate
from vidreward.evaluate.result import Evaluation, read_evaluation

__all__ = ["EvaluateConfig", "Evaluation", "combine", "evaluate", "read_evaluation"]
