"""The command line of policies: `vidreward rl ENV ...` and `vidreward rl-report RUN ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console
from tyro.conf import Positional

_HELP = """Train a policy on video rewards, and measure it.

vidreward rl tabletop/push --reward runs/mine --out runs/push

vidreward rl hold/pushing --reward runs/mine --normalizer initial --agent drqv2 --out runs/pushing

vidreward rl tabletop/push --reward runs/mine --out runs/push --eval-only

The same command goes on where it was interrupted. Besides the options below: --agent NAME (sac, drqv2 or random),
--preset NAME (default, ...: the agent's recipes, which give the defaults below), and --eval-only, which measures the
newest checkpoint and trains nothing."""


def run_rl(words: list[str]) -> int:
    """Parse `ENV [--agent A] [--preset P] [--eval-only] ...`: the agent's recipe gives every default."""
    from vidreward.rl.rl_config import EnvConfig, RlConfig, load_agent
    from vidreward.rl.run import evaluate_rl, train_rl
    from vidreward.train import TrainingDivergedError

    name, rest = (words[0], words[1:]) if words and not words[0].startswith("-") else ("", words or ["--help"])
    agent, rest = take_option(rest, "--agent")
    preset, rest = take_option(rest, "--preset")
    only_evaluates = "--eval-only" in rest
    agent = agent or "sac"
    config = tyro.cli(
        RlConfig,
        default=RlConfig(env=EnvConfig(name=name), agent=load_agent(agent, preset)),
        prog=f"vidreward rl {name or 'ENV'}",
        description=_HELP,
        args=[word for word in rest if word != "--eval-only"],
    )
    if not name:
        raise ValueError("name an environment first, as in: vidreward rl tabletop/push")
    console = Console()
    if only_evaluates:
        score, written = evaluate_rl(config, agent=agent)
        console.print(f"step {score.step}: {score}\nwritten: {written}", markup=False, highlight=False, soft_wrap=True)
        return 0
    try:
        result = train_rl(config, agent=agent)
    except TrainingDivergedError as error:
        console = Console(stderr=True)
        console.print(f"error: {error}", markup=False, highlight=False, soft_wrap=True, style="red")
        return 1
    console.print(
        f"trained: {config.out}\nnext:    vidreward rl-report {config.out} (and the runs of other seeds)\n"
        f"result:  {result}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return 0


def rl_help() -> int:
    """Train a policy: `vidreward rl ENV --reward RUN --out RUN`; ENV is as in tabletop/push."""
    return run_rl([])


def rl_report(
    runs: Positional[tuple[Path, ...]],
    *,
    out: Path = Path("report.html"),
    metric: Literal["success_any", "success_last", "env_return"] = "success_any",
    threshold: float = 0.8,
    seed: int = 0,
) -> int:
    """Draw learning curves over seeds, and count the steps that each method needs: an HTML page and a picture.

    Args:
        runs: Folders that `vidreward rl` wrote; runs that differ in nothing but the seed are drawn together.
        out: The page; the picture goes beside it.
        metric: What the steps are counted for.
        threshold: Of that metric.
        seed: Of the resamples.
    """
    from vidreward.rl.report import write_rl_report

    page, picture = write_rl_report(out, runs, metric=metric, threshold=threshold, seed=seed)
    Console().print(f"report:  {page}\npicture: {picture}", markup=False, highlight=False, soft_wrap=True)
    return 0


def take_option(words: list[str], option: str) -> tuple[str | None, list[str]]:
    """Take an option with its value out of the words: it decides the defaults of all the others."""
    for i, word in enumerate(words):
        if word == option and i + 1 < len(words):
            return words[i + 1], words[:i] + words[i + 2 :]
        if word.startswith(f"{option}="):
            return word.split("=", 1)[1], words[:i] + words[i + 1 :]
    return None, words
