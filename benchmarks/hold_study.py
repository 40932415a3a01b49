"""Train every network of HOLD on two worlds and measure the paper's table: every cell of docs/results/hold.md.

    python benchmarks/hold_study.py record                          # both worlds: about 15 minutes on two cores
    python benchmarks/hold_study.py run metaworld hold_r-vivit 0    # one world, method and seed: one JSON file
    python benchmarks/hold_study.py all                             # every cell that is missing
    python benchmarks/hold_study.py table                           # docs/results/hold.md from these files

A cell that was interrupted goes on where it was; one that is done is not run again.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import tyro
from numpy import ndarray

from vidreward.augment import JITTER, TOP_DOWN
from vidreward.envs.record import RecordConfig, record_episodes
from vidreward.evaluate import EvaluateConfig
from vidreward.files import write_text_atomic
from vidreward.jobs import evaluate_hold_run, train
from vidreward.rewards import load_module
from vidreward.train_config import TrainConfig

World = Literal["tabletop", "metaworld"]
Method = Literal["hold_r-resnet1", "hold_r-resnet3", "hold_r-vivit", "hold_c-resnet", "hold_c-vit"]

WORK = Path("runs/hold")
RESULTS = Path("docs/results/hold")
SEEN = {
    "tabletop": ("reach", "push", "slide-drawer", "sweep"),
    "metaworld": (
        "button-press-topdown-v3",
        "door-open-v3",
        "drawer-close-v3",
        "drawer-open-v3",
        "faucet-open-v3",
        "push-v3",
        "reach-v3",
        "window-open-v3",
    ),
}
UNSEEN = {"tabletop": "pick-place", "metaworld": "plate-slide-v3"}
TRAIN_CAMERAS = {"tabletop": ("top",), "metaworld": ("corner", "corner2", "corner3")}
NEW_CAMERA = {"tabletop": "side", "metaworld": "corner4"}
SPLITS = ("seen", "unseen-task", "unseen-camera")
COLUMNS = {
    ("corrected", "spearman"): "Spearman",
    ("corrected", "misclassification_adjacent"): "misclassification",
    ("corrected", "mse_steps"): "MSE (steps)",
    ("corrected", "mae_steps"): "mean error (steps)",
    ("corrected", "mae_seconds"): "mean error (s)",
    ("corrected", "hinge_seconds"): "hinge (s)",
    ("as_coded", "spearman"): "Spearman",
    ("as_coded", "misclassification_adjacent"): "misclassification",
    ("as_coded", "mse_steps"): "MSE (steps)",
    ("as_coded", "mae_steps"): "mean error (steps)",
    ("as_coded", "mae_seconds"): "mean error (s)",
    ("as_coded", "hinge_seconds"): "hinge (s)",
}
"""Definition and metric -> heading: the columns of the paper's Table IV."""
NUM_RESAMPLES = 2000


def record(num_train: int = 20, num_test: int = 8) -> None:
    """Record demonstrations: hands (tabletop) or robots to learn from, and others to measure on."""
    hand = RecordConfig(tasks=SEEN["tabletop"], embodiment="hand", num_episodes=150, seed=0)
    record_episodes(WORK / "tabletop/recorded-train", hand)
    gripper = RecordConfig(
        tasks=(*SEEN["tabletop"], UNSEEN["tabletop"]),
        embodiment="gripper",
        num_episodes=20,
        seed=12,
        cameras=("top", "side"),
    )
    record_episodes(WORK / "tabletop/recorded-test", gripper)
    robot = RecordConfig(env="metaworld", tasks=SEEN["metaworld"], num_episodes=num_train, size=96)
    record_episodes(WORK / "metaworld/recorded-train", replace(robot, cameras=TRAIN_CAMERAS["metaworld"], seed=10))
    everything = (*SEEN["metaworld"], UNSEEN["metaworld"])
    test = replace(robot, tasks=everything, cameras=("corner2", "corner4"), num_episodes=num_test, seed=11)
    record_episodes(WORK / "metaworld/recorded-test", test)
    for world in get_args(World):
        _link_views(world)


def _link_views(world: World) -> None:
    """Make a folder of each split in which each camera's video is an episode of its own, its goal its last frame."""
    seen, unseen, old, new = SEEN[world], (UNSEEN[world],), TRAIN_CAMERAS[world], (NEW_CAMERA[world],)
    views = {
        "train": ("recorded-train", seen, old),
        "seen": ("recorded-test", seen, old),
        "unseen-task": ("recorded-test", unseen, old),
        "unseen-camera": ("recorded-test", seen, new),
    }
    for name, (source, tasks, cameras) in views.items():
        recorded, out = WORK / world / source, WORK / world / name
        shutil.rmtree(out, ignore_errors=True)
        rows = []
        for line in (recorded / "metadata.jsonl").read_text().splitlines():
            row = json.loads(line)
            files = row.get("cameras") or {old[0]: row["file_name"]}
            for camera, file in files.items():
                if row["task"] in tasks and camera in cameras:
                    target = out / file
                    target.parent.mkdir(parents=True, exist_ok=True)
                    os.link(recorded / file, target)
                    rows.append({"file_name": file, "task": row["task"], "success": row["success"], "view": camera})
        write_text_atomic(out / "metadata.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def run(world: World, method: Method, seed: int, /) -> None:
    """Train one cell and measure it on every split."""
    target = RESULTS / f"{world}-{method}-{seed}.json"
    if target.exists():
        print(f"{target} is there already")
        return
    config = configure(world, method, seed)
    train(config, reward=method.split("-")[0])
    splits = {}
    for split in SPLITS:
        out = config.out / split
        evaluation, written = evaluate_hold_run(config.out, WORK / world / split, EvaluateConfig(), out=out)
        evaluation.print()
        rows = [json.loads(line) for line in (out / "hold_videos.jsonl").read_text().splitlines()]
        tables = json.loads(written.read_text())["table"]
        controls = {name: control(table) for name, table in tables.items() if name != "model"}
        splits[split] = {"videos": [measures(row) for row in rows], "controls": controls}
    settings = {"steps": config.fit.steps, "batch_size": config.fit.batch_size, "lr": config.fit.lr}
    cell = {"world": world, "method": method, "seed": seed, "fit": settings, "splits": splits}
    write_text_atomic(target, json.dumps(cell, separators=(",", ":")) + "\n")


def configure(world: World, method: Method, seed: int) -> TrainConfig:
    """Make the configuration of a cell: the recipes of the library, with one video pipeline for all."""
    name, network = method.split("-")
    recipe = load_module(name).recipe(network if network.startswith("vi") else "default")
    reward: Any = replace(recipe.reward, augment=TOP_DOWN if world == "tabletop" else JITTER)  # type: ignore[call-arg]
    if name == "hold_r":
        reward = replace(reward, num_history=1 if network == "resnet1" else 3)
    return replace(
        recipe,
        reward=reward,
        data=replace(recipe.data, path=str(WORK / world / "train")),
        fit=replace(recipe.fit, seed=seed),
        out=WORK / world / f"{method}-{seed}",
    )


def measures(row: Mapping[str, Any]) -> dict[str, Any]:
    """Keep of one video what the table needs: a sum and its normaliser for every column."""
    found = {}
    for definition, metric in COLUMNS:
        if metric in row["measures"][definition]:
            total, normaliser = row["measures"][definition][metric]
            found[f"{definition}/{metric}"] = [float(f"{total:.6g}"), normaliser]
    return {"id": row["id"], **found}


def control(table: Mapping[str, Any]) -> dict[str, float | None]:
    """Keep of a control its value in every column: Spearman over videos, the rest over frames."""
    found = {}
    for definition, metric in COLUMNS:
        by = "by_video" if metric == "spearman" else "by_frame"
        estimate = table["as_coded" if definition == "as_coded" else f"corrected_{by}"].get(metric)
        if estimate is not None:
            found[f"{definition}/{metric}"] = estimate["value"]
    return found


def run_all(seeds: tuple[int, ...] = (0, 1, 2), worlds: tuple[World, ...] = get_args(World)) -> None:
    """Run every cell that is missing, seed by seed."""
    for seed in seeds:
        for world in worlds:
            for method in get_args(Method):
                run(world, method, seed)


def table() -> None:
    """Write docs/results/hold.md."""
    parts = [(RESULTS / "head.txt").read_text()]
    for world in get_args(World):
        for split in SPLITS:
            parts += [f"## {world}: {split.replace('-', ' ')}\n"]
            for definition in ("corrected", "as_coded"):
                parts += [f"**{definition.replace('_', ' ')}**\n", _table(world, split, definition)]
    write_text_atomic(RESULTS.with_suffix(".md"), "\n".join(parts))


def _table(world: World, split: str, definition: str) -> str:
    columns = [key for key in COLUMNS if key[0] == definition]
    lines = ["| | " + " | ".join(COLUMNS[key] for key in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    controls: Mapping[str, Any] = {}
    for method in get_args(Method):
        cells = [json.loads(path.read_text()) for path in sorted(RESULTS.glob(f"{world}-{method}-*.json"))]
        if not cells:
            continue
        seeds = [cell["splits"][split]["videos"] for cell in cells]
        values = [_interval(seeds, "/".join(key), by_video=key[1] == "spearman") for key in columns]
        lines.append(f"| {method} ({len(cells)} seeds) | " + " | ".join(values) + " |")
        found = cells[0]["splits"][split]["controls"]
        if not controls or len(found["clock"]) > len(controls["clock"]):
            controls = found  # those that are measured in time have every column
    for name, found in controls.items():
        values = [_number(found.get("/".join(key))) for key in columns]
        lines.append(f"| {name} | " + " | ".join(values) + " |")
    return "\n".join(lines) + "\n"


def _interval(seeds: Sequence[Sequence[Mapping[str, Any]]], key: str, *, by_video: bool) -> str:
    """Average over seeds, with a 95 % interval over seeds and videos (the same videos for every seed)."""
    if key not in seeds[0][0]:
        return "-"
    pairs = np.array([[video[key] for video in videos] for videos in seeds])  # (seeds, videos, 2)
    if by_video:
        defined = pairs[..., 1] > 0
        ratios = np.divide(pairs[..., 0], pairs[..., 1], out=np.zeros(defined.shape), where=defined)
        pairs = np.stack([ratios, defined], -1)

    def mean(chosen: ndarray) -> float:
        sums = chosen.sum(1)
        return float((sums[:, 0] / sums[:, 1]).mean())

    rng = np.random.default_rng(0)
    num_seeds, num_videos = pairs.shape[:2]
    draws = [
        mean(pairs[rng.integers(num_seeds, size=num_seeds)][:, rng.integers(num_videos, size=num_videos)])
        for _ in range(NUM_RESAMPLES)
    ]
    low, high = np.quantile(draws, [0.025, 0.975])
    return f"{_number(mean(pairs))} ({_number(low)} to {_number(high)})"


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3g}"


if __name__ == "__main__":
    commands = {"record": record, "run": run, "all": run_all, "table": table}
    sys.exit(tyro.extras.subcommand_cli_from_dict(commands))
