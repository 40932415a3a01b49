"""The command line: `vidreward VERB ...`.

vidreward train hold_r --data videos/ --out runs/mine
vidreward evaluate runs/mine --data heldout/
vidreward score runs/mine clip.mp4 --goal goal.png --out scored/
vidreward rl tabletop/push --reward runs/mine --out runs/push
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console
from tyro.conf import Positional

from vidreward.cli_rl import rl_help, rl_report, run_rl, take_option

USER_ERRORS = (ValueError, OSError, ImportError)
"""Mistakes that a message explains; everything else is a defect of ours and shows its traceback."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run one verb; exit status 0, 1 (a check failed), 2 (wrong use) or 130 (interrupted)."""
    words = list(sys.argv[1:] if argv is None else argv)
    console = Console(stderr=True)
    try:
        parse_and_run = _GO_ON.get(words[0]) if words else None
        status = _run_verb(words) if parse_and_run is None else parse_and_run(words[1:])
    except USER_ERRORS as error:
        if os.environ.get("VIDREWARD_TRACEBACK"):
            raise
        console.print(f"error: {error}", markup=False, highlight=False, soft_wrap=True, style="red")
        status = 2
    except KeyboardInterrupt as interrupt:
        goes_on = "; the same command goes on from there" if words and words[0] in _GO_ON else ""
        console.quiet = not _is_main_process()
        console.print(f"{interrupt or 'interrupted'}{goes_on}", markup=False, highlight=False, soft_wrap=True)
        status = 130
    sys.exit(status)


def _is_main_process() -> bool:
    """Tell whether this process speaks for all that a launcher started; all of them end alike."""
    return os.environ.get("RANK", "0") == "0"


def _run_verb(words: list[str]) -> int:
    if words == ["--version"]:
        print(f"vidreward {version('vidreward')}")
        return 0
    verbs: dict[str, Callable[..., int]] = {
        "demo": demo,
        "doctor": doctor,
        "inspect": inspect,
        "record": record,
        "train": train_help,
        "convert": convert,
        "score": score,
        "evaluate": evaluate,
        "rl": rl_help,
        "rl-report": rl_report,
    }
    if words and not words[0].startswith("-") and words[0] not in verbs:
        near = difflib.get_close_matches(words[0], verbs, n=1)
        offer = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(verbs)}"
        raise ValueError(f"no command {words[0]!r}; {offer}")
    return tyro.extras.subcommand_cli_from_dict(verbs, prog="vidreward", description=__doc__, args=words or ["--help"])


def demo(*, out: Path = Path("runs/demo"), seed: int = 0) -> int:
    """Record, train, evaluate and show a reward in the bundled world, in a few minutes.

    Args:
        out: Folder of everything that is made; report.html is the page to open.
        seed: Of the recordings and of training.
    """
    from vidreward.demo import run_demo

    run_demo(out, seed=seed)
    return 0


def doctor() -> int:
    """Check what works on this machine, and say what to do about the rest."""
    from vidreward.doctor import print_doctor, run_doctor

    return print_doctor(run_doctor())


def inspect(data: Positional[Path], *, out: Path = Path("contact_sheet.png")) -> int:
    """Look at a data set before any training: format, splits, lengths, outcomes, pictures, broken files.

    Args:
        data: Folder of videos, or a video.
        out: Where the contact sheet goes.
    """
    from vidreward.data.inspect import inspect_data

    inspect_data(data, out=out)
    return 0


def record(
    out: Positional[Path],
    *,
    env: str = "tabletop",
    tasks: tuple[str, ...] = (),
    embodiment: str = "hand",
    num_episodes: int = 50,
    failures: float = 0.0,
    size: int = 64,
    cameras: tuple[str, ...] = (),
    seed: int = 0,
    num_workers: int = 2,
) -> int:
    """Record scripted episodes of an environment as a folder of videos with their truth.

    Args:
        out: The folder.
        env: "tabletop" (the bundled world), "metaworld" or "hold" (the five tasks of HOLD).
        tasks: Tasks to record; all of the world's by default.
        embodiment: "hand" or "gripper", tabletop only.
        num_episodes: Episodes of each task.
        failures: Share of episodes that fail, of every kind in turn.
        size: Side of the pictures.
        cameras: Cameras to record; the environment's usual one by default.
        seed: Of layouts and experts.
        num_workers: Processes.
    """
    from vidreward.envs.record import RecordConfig, record_episodes

    config = RecordConfig(
        env=env,
        tasks=tasks,
        embodiment=embodiment,
        num_episodes=num_episodes,
        failures=failures,
        size=size,
        cameras=cameras,
        seed=seed,
        num_workers=num_workers,
    )
    record_episodes(out, config)
    return 0


def train_help() -> int:
    """Train a reward model: `vidreward train NAME --data VIDEOS --out RUN`; NAME is a method or your own file.py."""
    return _run_train([])


def convert(
    kind: Positional[Literal["hold-c", "hold-r"]],
    checkpoint: Positional[Path],
    out: Positional[Path],
    *,
    size: int | None = None,
    load_size: int | None = None,
    normalizer: float | None = None,
) -> int:
    """Turn a checkpoint that HOLD's authors released into a model to score with; its network is found in the file.

    Args:
        kind: Method of the checkpoint.
        checkpoint: The file, as downloaded.
        out: New folder.
        size: Side of the frames, in pixels; 256 by default for a ResNet, and given by the file for a transformer.
        load_size: Shorter side that videos are scaled to before the centre is cut out of them; HOLD's evaluation has
            288, its reinforcement learning and the default no margin.
        normalizer: T, which rewards are divided by; the paper's by default: 5 for hold-c, 45 for hold-r.
    """
    from vidreward.convert.hold import convert_hold, describe_conversion

    convert_hold(kind, checkpoint, out, size=size, load_size=load_size, normalizer=normalizer)
    Console().print(
        f"{describe_conversion(out)}\n"
        f"converted: {out}\n"
        f"next:      vidreward score {out} VIDEO --goal PICTURE\n"
        f"           vidreward evaluate {out} --data VIDEOS",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return 0


def score(
    model: Positional[str],
    videos: Positional[tuple[Path, ...]],
    *,
    goal: Path | None = None,
    out: Path = Path("scored"),
    camera: str | None = None,
    device: str = "auto",
    model_file: Path | None = None,
) -> int:
    """Score videos: tables, plots, videos with the curve under the picture, and one HTML report.

    Args:
        model: A run's folder, a checkpoint, or a Hub id owner/name.
        videos: Videos, or folders of videos.
        goal: Picture of the goal; the last frame of each video (or the goal its metadata names) by default.
        out: Folder of the results.
        camera: Camera to score, for recordings with several.
        device: "auto" takes a GPU when there is one.
        model_file: Python file of a model that is not part of vidreward.
    """
    from vidreward.jobs import score_videos

    report = score_videos(model, videos, goal=goal, out=out, camera=camera, device=device, model_file=model_file)
    Console().print(f"report: {report}", markup=False, highlight=False, soft_wrap=True)
    return 0


def evaluate(
    model: Positional[str],
    *,
    data: Path,
    out: Path | None = None,
    protocol: Literal["controls", "hold"] = "controls",
    unseen_tasks: tuple[str, ...] = (),
    group_by: tuple[str, ...] = (),
    camera: str | None = None,
    seed: int = 0,
    device: str = "auto",
    model_file: Path | None = None,
) -> int:
    """Measure a reward on held-out videos, beside controls that see no content.

    Args:
        model: A run's folder, a checkpoint, or a Hub id owner/name.
        data: Folder of held-out videos; outcomes and true progress are used where they are known.
        out: Folder of evaluation.json and report.html (hold.json); MODEL/evaluation by default.
        protocol: "hold" is the table of HOLD's paper, as coded and corrected: every frame against the last one.
        unseen_tasks: Tasks that were not trained on, to report apart.
        group_by: Metadata columns to report by.
        camera: Camera to score, for recordings with several.
        seed: Of controls and resamples.
        device: "auto" takes a GPU when there is one.
        model_file: Python file of a model that is not part of vidreward.
    """
    from vidreward.evaluate import EvaluateConfig
    from vidreward.jobs import evaluate_hold_run, evaluate_run

    config = EvaluateConfig(unseen_tasks=unseen_tasks, group_by=group_by, camera=camera, seed=seed)
    if protocol == "hold":
        table, written = evaluate_hold_run(model, data, config, out=out, device=device, model_file=model_file)
        table.print(Console())
        Console().print(f"written: {written}", markup=False, highlight=False, soft_wrap=True)
        return 0
    evaluation, report = evaluate_run(model, data, config, out=out, device=device, model_file=model_file)
    evaluation.print(Console())
    Console().print(f"report: {report}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _run_train(words: list[str]) -> int:
    """Parse `NAME [--preset P | --config FILE] ...`: the recipe gives every default, the rest overrides it."""
    from vidreward.rewards import available, load_module

    if not words or words[0].startswith("-"):
        Console().print(
            "usage: vidreward train NAME --data VIDEOS --out RUN [--preset default] [--config RUN/config.json] "
            f"[options]\n\nNAME: {', '.join(available())}, or a Python file of your own\n"
            "`vidreward train NAME --help` lists every option and its default.",
            markup=False,
        )
        return 0 if words and words[0] in ("-h", "--help") else 2
    name, rest = words[0], words[1:]
    preset, rest = take_option(rest, "--preset")
    config_file, rest = take_option(rest, "--config")
    if preset is not None and config_file is not None:
        raise ValueError("--preset and --config both give every default; leave one of them out")
    module = load_module(name)

    from vidreward.train import TrainingDivergedError
    from vidreward.train_config import TrainConfig

    default = module.recipe(preset) if preset is not None else module.recipe()
    if config_file is not None:
        default = _read_run(Path(config_file), name, default.reward)
    config = tyro.cli(
        TrainConfig,
        default=replace(default, out=Path("runs") / Path(name).stem),
        prog=f"vidreward train {name}",
        description=f"{module.__doc__}\n{_DEFAULTS_HELP}",
        args=rest,
    )

    from vidreward.jobs import train

    try:
        train(config, reward=name)
    except TrainingDivergedError as error:
        console = Console(stderr=True, quiet=not _is_main_process())
        console.print(f"error: {error}", markup=False, highlight=False, soft_wrap=True, style="red")
        return 1
    file = f" --model-file {name}" if name.endswith(".py") else ""
    Console(quiet=not _is_main_process()).print(
        f"trained: {config.out}\n"
        f"next:    vidreward evaluate {config.out} --data HELD_OUT_VIDEOS{file}\n"
        f"         vidreward score {config.out} VIDEO{file}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return 0


_DEFAULTS_HELP = """Where the defaults below come from: --preset NAME (default, debug, ...: the file's recipes), or
--config RUN/config.json (what another run was trained with)."""


def _read_run(path: Path, name: str, reward: Any) -> Any:
    """Rebuild the configuration that a run of the model `name` wrote."""
    import json

    from vidreward.config import from_json
    from vidreward.train_config import DataConfig, FitConfig, TrainConfig

    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not readable: {error}; give the config.json of a run") from error
    if not isinstance(values, dict) or "fit" not in values:
        raise ValueError(f"{path} is not the config.json of a run; give the one in the folder that `train` wrote to")
    trained = str(values.get("reward_model"))
    if Path(trained).stem.replace("-", "_") != Path(name).stem.replace("-", "_"):
        raise ValueError(f"{path} is of a run of {trained!r}, not of {name!r}; use: vidreward train {trained} --config")
    return TrainConfig(
        reward=from_json(type(reward), values.get("reward"), f"{path}: reward"),
        data=from_json(DataConfig, values.get("data"), f"{path}: data"),
        fit=from_json(FitConfig, values.get("fit"), f"{path}: fit"),
        init_from=values.get("init_from"),
    )


_GO_ON: dict[str, Callable[[list[str]], int]] = {"train": _run_train, "rl": run_rl}
"""Commands that parse their own words, and that go on where they were interrupted."""

if __name__ == "__main__":
    main()
