"""HOLD-C on a few real robot videos: every number and curve of docs/results/real_clips.md.

    python benchmarks/real_clips.py CLIPS      # CLIPS holds robot_fruit/ and robot_fries/

The clips come from the public project pages of LIV (penn-pal-lab/LIV) and UVD (zcczhang/UVD), both MIT. They are copied
to runs/real/ and never into the repository; only numbers and curves are kept.
"""

from __future__ import annotations

import csv
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import tyro

from vidreward.data.episodes import open_episodes
from vidreward.evaluate import EvaluateConfig, Evaluation, combine, evaluate
from vidreward.evaluate.outputs import ScoredEpisode
from vidreward.files import atomic_path, write_text_atomic
from vidreward.jobs import evaluate_model, make_scorer, open_like_training, train
from vidreward.rewards.hold_c import recipe
from vidreward.types import Episode

matplotlib.use("Agg")
from matplotlib import pyplot as plt

WORK = Path("runs/real")
RESULTS = Path("docs/results")
SEEDS = (0, 1, 2)
METRICS = ("spearman", "reversed_spearman", "shuffled_spearman", "success_auroc", "success_auroc_gain")


@dataclass(frozen=True)
class Split:
    """Which clips are learned from and which are measured."""

    name: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    crop: tuple[float, float, float, float] | None = None
    """Part of the picture to use; drops the goal picture in the corner of the fries clips."""
    goal_of: str | None = None
    """Training clip whose last frame is the goal of every test clip; None: each clip's own last frame."""


FRUIT = Split(
    "robot_fruit",
    train=tuple(f"apple_in_black_pot/{i}_converted.mp4" for i in (1, 2, 3))
    + tuple(f"pineapple_in_green_pot/{i}_converted.mp4" for i in (1, 2, 3, 4)),
    test=("apple_in_black_pot/4_converted.mp4",)
    + tuple(f"pineapple_in_green_pot/{i}_converted.mp4" for i in (5, 6))
    + tuple(f"pear_in_tray/{i}_converted.mp4" for i in (1, 2, 3)),
)
FRIES = Split(
    "robot_fries",
    train=tuple(f"web_UVD_full_success_{i}.mp4" for i in (1, 2)),
    test=tuple(f"web_UVD_full_success_{i}.mp4" for i in (3, 4))
    + tuple(f"web_UVD_full_failure_{i}.mp4" for i in (1, 2, 3)),
    crop=(0.0, 0.0, 0.72, 1.0),
    goal_of="web_UVD_full_success_1.mp4",
)


def copy(clips: Path, split: Split, part: str, files: Sequence[str]) -> Path:
    """Copy clips to a folder of their own, with their outcomes."""
    folder = WORK / split.name / part
    for name in files:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            shutil.copyfile(clips / split.name / name, target)
    goal = ""
    if part == "test" and split.goal_of is not None:
        goal = "goal.png"
        picture = open_episodes(clips / split.name / split.goal_of)[0].goal()[0]
        cv2.imwrite(str(folder / goal), picture.transpose(1, 2, 0)[..., ::-1])
    with atomic_path(folder / "metadata.csv") as temporary, temporary.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file_name", "task", "success", "goal"])
        for name in files:
            task = Path(name).parent.name or split.name
            rows.writerow([name, task, str("failure" not in name).lower(), goal])
    return folder


def run(split: Split, seed: int, train_folder: Path, test_folder: Path) -> tuple[Evaluation, list[ScoredEpisode]]:
    """Train on one part, measure on the other."""
    default = recipe()
    config = replace(
        default,
        data=replace(default.data, path=str(train_folder), size=96, crop=split.crop, validation=0.15),
        fit=replace(default.fit, steps=300, val_every=150, seed=seed),
        out=WORK / split.name / f"hold_c-{seed}",
    )
    model = train(config, reward="hold_c")
    episodes = open_like_training(config.out, test_folder)
    return evaluate_model(model, episodes, EvaluateConfig(), name=f"HOLD-C, seed {seed}")


def pixel_distance(frames: np.ndarray, episode: Episode, goal: np.ndarray) -> np.ndarray:
    """Minus the root mean square difference of pixels: what needs no learning."""
    return -np.sqrt(((frames.astype(np.float32) - goal[-1:]) ** 2).mean((1, 2, 3)))


def draw(scored: Sequence[ScoredEpisode], path: Path) -> None:
    """Plot the curves of all test clips, scaled by each clip's own range of scores."""
    figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
    for one in scored:
        success = one.episode.success
        share = np.linspace(0, 100, len(one.scores))
        label = f"{one.episode.id.removesuffix('.mp4').removesuffix('_converted')}"
        axes.plot(share, one.scores, "-" if success else "--", label=label, linewidth=1.6)
    axes.set(xlabel="share of the clip (%)", ylabel="score: minus distance to the goal")
    axes.legend(fontsize=7, title="solid: success, dashed: failure", title_fontsize=7)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
    plt.close(figure)


def rows(name: str, found: Evaluation) -> str:
    cells = []
    for metric in METRICS:
        value = found.overall.macro.get(metric)
        if value is None or value.value is None:
            cells.append("-")
        elif value.low is None or value.high is None:
            cells.append(f"{value.value:.2f}")
        else:
            cells.append(f"{value.value:.2f} ({value.low:.2f} to {value.high:.2f})")
    return f"| {name} | {' | '.join(cells)} |"


def main(clips: Path, /) -> None:
    """Train on some of the clips, measure on the others, write the page."""
    parts = [(RESULTS / "real_clips" / "head.md").read_text()]
    for split in (FRUIT, FRIES):
        train_folder = copy(clips, split, "train", split.train)
        test_folder = copy(clips, split, "test", split.test)
        runs = [run(split, seed, train_folder, test_folder) for seed in SEEDS]
        together = combine([evaluation for evaluation, _ in runs], name="HOLD-C")
        episodes = open_like_training(WORK / split.name / "hold_c-0", test_folder)
        untrained = evaluate(pixel_distance, episodes, EvaluateConfig(), name="pixels")
        default = recipe().reward.build(episodes.data_spec())
        random_network = evaluate(make_scorer(default), episodes, EvaluateConfig(), name="untrained")
        parts += [
            f"## {split.name}: trained on {len(split.train)} clips, measured on {len(split.test)}\n",
            "| | " + " | ".join(METRICS) + " |",
            "|---" * (len(METRICS) + 1) + "|",
            rows(f"HOLD-C, {len(SEEDS)} seeds", together),
            rows("pixel distance", untrained),
            rows("HOLD-C, not trained", random_network),
            "",
            f"![curves](real_clips/{split.name}.png)\n",
        ]
        draw(runs[0][1], RESULTS / "real_clips" / f"{split.name}.png")
    write_text_atomic(RESULTS / "real_clips.md", "\n".join(parts))


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
