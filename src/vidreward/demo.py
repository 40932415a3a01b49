"""`vidreward demo`: from nothing to a reward you can see, in a few minutes on two cores.

A hand demonstrates four tasks in the bundled world; a reward is learned from these videos alone, and measured on a
robot gripper that does the same tasks, and one more, well and badly.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from vidreward.data.episodes import open_episodes
from vidreward.envs.record import RecordConfig, record_episodes
from vidreward.evaluate import EvaluateConfig
from vidreward.evaluate.overlay import overlay_video
from vidreward.evaluate.plots import plot_episode
from vidreward.evaluate.report import write_report
from vidreward.jobs import evaluate_model, train
from vidreward.rewards.hold_r import recipe

SEEN = ("reach", "push", "slide-drawer", "sweep")
UNSEEN = "pick-place"
METHOD = "hold_r"
STEPS = 1100
"""Training steps that leave room for the rest within five minutes."""


def run_demo(out: Path, *, seed: int = 0) -> Path:
    """Record, train, evaluate and report; what was done before is not done again.

    Args:
        out: Folder of videos, run and report.
        seed: Of recordings and training.

    Returns:
        The report's path.
    """
    console = Console(stderr=True)
    console.rule("1. A hand demonstrates " + ", ".join(SEEN))
    hand = RecordConfig(tasks=SEEN, embodiment="hand", num_episodes=60, seed=seed)
    record_episodes(out / "hand", hand)
    console.rule("2. A gripper does the same, and " + UNSEEN + ", well and badly: for measuring only")
    gripper = RecordConfig(
        tasks=(*SEEN, UNSEEN), embodiment="gripper", num_episodes=20, failures=0.5, seed=seed + 1_000_000
    )
    record_episodes(out / "gripper", gripper)

    console.rule(f"3. {METHOD} learns from the hand's videos")
    config = recipe("topdown")
    data = replace(config.data, path=str(out / "hand"), cache_dir=out / "cache")
    fit = replace(config.fit, steps=STEPS, seed=seed, val_every=STEPS // 2)
    model = train(replace(config, data=data, fit=fit, out=out / "run"), reward=METHOD)

    console.rule("4. How good is it on the gripper?")
    episodes = open_episodes(out / "gripper", size=data.size)
    settings = EvaluateConfig(unseen_tasks=(UNSEEN,), max_control_episodes=25, seed=seed)
    evaluation, scored = evaluate_model(model, episodes, settings, name=METHOD)
    evaluation.write(out / "evaluation.json")
    by_outcome = {one.episode.success: one for one in scored}
    for success, one in by_outcome.items():
        name = "success" if success else "failure"
        plot_episode(one, out / f"{name}.png")
        overlay_video(one, out / f"{name}.mp4")
    description = (
        "Learned from videos of a hand; shown here on a gripper, with the goal picture of each scene. "
        f"The task {UNSEEN} was not in the training videos."
    )
    report = write_report(out / "report.html", evaluation, scored, title="vidreward demo", description=description)
    evaluation.print(Console())
    Console().print(f"\nopen {report.resolve()}", markup=False, highlight=False, soft_wrap=True)
    return report
