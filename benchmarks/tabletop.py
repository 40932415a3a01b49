"""Learn from hand videos of the tabletop world, measure on gripper videos: every cell of docs/results/tabletop.md.

    python benchmarks/tabletop.py record               # a hand to learn from, a gripper to measure on
    python benchmarks/tabletop.py run hold_r fixed 0   # train and measure one method, variant and seed: one JSON file
    python benchmarks/tabletop.py table                # docs/results/tabletop.md from these files

A cell that was interrupted goes on where it was; one that is done is not run again. Settings were chosen on
`gripper-dev`, whose layouts and looks are others than those of `gripper-test`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console

from vidreward.data.cache import build_cache
from vidreward.envs.record import RecordConfig, record_episodes
from vidreward.evaluate import EvaluateConfig, Evaluation, combine, read_evaluation
from vidreward.evaluate.definitions import BY_NAME
from vidreward.evaluate.report import write_report
from vidreward.evaluate.summary import Estimate
from vidreward.files import write_text_atomic
from vidreward.jobs import evaluate_model, open_like_training, train
from vidreward.rewards import load_module

SEEN = ("reach", "push", "slide-drawer", "sweep")
UNSEEN = "pick-place"
WORK = Path("runs/tabletop")
RESULTS = Path("docs/results/tabletop")
SEEN_COLUMNS = {
    "spearman": "Spearman",
    "reversed_spearman": "reversed",
    "shuffled_spearman": "shuffled",
    "success_auroc": "AUROC last",
    "success_auroc_gain": "AUROC gain",
    "success_gap": "gap",
    "progress_spearman_pooled": "progress (Spearman)",
    "progress_pearson_pooled": "progress (Pearson)",
}
FAILURE_COLUMNS = {"success_auroc": "AUROC last", "success_auroc_gain": "AUROC gain", "spearman_failures": "Spearman"}


def record(num_episodes: int = 150, num_test: int = 40) -> None:
    """Record the videos: the hand's successes, and the gripper's successes and failures, half and half."""
    record_episodes(WORK / "hand", RecordConfig(tasks=SEEN, embodiment="hand", num_episodes=num_episodes, seed=0))
    for name, seed, num in (("gripper-dev", 1, num_test // 2), ("gripper-test", 2, num_test)):
        both = RecordConfig(tasks=(*SEEN, UNSEEN), embodiment="gripper", num_episodes=num, failures=0.5, seed=seed)
        record_episodes(WORK / name, both)


def run(
    method: Literal["hold_r", "hold_c"],
    variant: Literal["fixed", "as_coded"],
    seed: int,
    /,
    *,
    split: Literal["gripper-test", "gripper-dev"] = "gripper-test",
    out: Path = RESULTS,
) -> None:
    """Train one cell and measure it."""
    target = out / f"{method}-{variant}-{seed}.json"
    if target.exists():
        print(f"{target} is there already")
        return
    recipe = load_module(method).recipe("topdown")
    config = replace(
        recipe,
        reward=replace(recipe.reward, variant=variant),  # type: ignore[call-arg]
        data=replace(recipe.data, path=str(WORK / "hand")),
        fit=replace(recipe.fit, seed=seed),
        out=WORK / f"{method}-{variant}-{seed}",
    )
    model = train(config, reward=method)
    episodes = build_cache(open_like_training(config.out, WORK / split))
    settings = EvaluateConfig(unseen_tasks=(UNSEEN,))
    evaluation, scored = evaluate_model(model, episodes, settings, name=f"{method} {variant}, seed {seed}")
    evaluation.print(Console())
    write_report(config.out / "report.html", evaluation, scored, title=evaluation.name)
    evaluation.write(target)


def table() -> None:
    """Write docs/results/tabletop.md."""
    runs = {}
    for path in sorted(RESULTS.glob("*-0.json")):
        name = path.stem.removesuffix("-0")
        cells = [read_evaluation(cell) for cell in sorted(RESULTS.glob(f"{name}-*.json"))]
        runs[f"{name} ({len(cells)} seeds)"] = combine(cells, name=name)
    parts = [(RESULTS / "head.md").read_text()]
    for group in ("seen", "unseen"):
        rows = {name: found.groups["split"][group].macro for name, found in runs.items()}
        parts += [f"## Tasks {group} in training\n", markdown(rows, SEEN_COLUMNS)]
    anyone = next(iter(runs.values()))
    controls = {name: summary.macro for name, summary in anyone.controls.items()}
    parts += ["## Controls that see no content, all five tasks\n", markdown(controls, SEEN_COLUMNS)]
    everything = {name: found.overall.macro for name, found in runs.items()}
    parts += ["## The rewards on the same five tasks\n", markdown(everything, SEEN_COLUMNS)]
    for name, found in runs.items():
        rows = {kind: summary.macro for kind, summary in found.failures.items()}
        parts += [f"## By kind of failure: {name}\n", markdown(rows, FAILURE_COLUMNS), *flags(found)]
    write_text_atomic(RESULTS.with_suffix(".md"), "\n".join(parts))


def markdown(rows: Mapping[str, Mapping[str, Estimate]], columns: Mapping[str, str]) -> str:
    """Lay estimates out as a table: value, then the interval."""
    lines = ["| | " + " | ".join(columns.values()) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, estimates in rows.items():
        lines.append(f"| {name} | " + " | ".join(cell(estimates.get(metric)) for metric in columns) + " |")
    return "\n".join(lines) + "\n"


def cell(found: Estimate | None) -> str:
    if found is None or found.value is None:
        return "undefined"
    if found.low is None or found.high is None:
        return f"{found.value:.2f}"
    return f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"


def flags(found: Evaluation) -> Sequence[str]:
    """List what does not beat the controls, where a clock could lose."""
    return [f"- `{name}` {text}" for name, text in found.flags.items() if BY_NAME[name].clock == "may lose"] + [""]


if __name__ == "__main__":
    sys.exit(tyro.extras.subcommand_cli_from_dict({"record": record, "run": run, "table": table}))
