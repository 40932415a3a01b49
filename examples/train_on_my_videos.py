"""Train HOLD-R on a folder of videos, then measure it on videos that were kept out.

python examples/train_on_my_videos.py videos/ heldout/ runs/mine
"""

import sys
from dataclasses import replace
from pathlib import Path

from vidreward.evaluate import EvaluateConfig
from vidreward.jobs import evaluate_run, train
from vidreward.rewards.hold_r import recipe


def main(videos: str, held_out: str, run: str, preset: str = "default") -> None:
    """Print the metrics beside those of the controls; run it again to go on where it was interrupted."""
    config = recipe(preset)
    config = replace(config, data=replace(config.data, path=videos), out=Path(run))
    train(config, reward="hold_r")
    evaluation, report = evaluate_run(run, Path(held_out), EvaluateConfig())
    evaluation.print()
    print(f"report: {report}")


if __name__ == "__main__":
    main(*sys.argv[1:])
