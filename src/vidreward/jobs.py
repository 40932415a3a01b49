"""The jobs behind the command line: train on a folder of videos, measure a trained reward, score videos."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from numpy import ndarray
from rich.console import Console
from rich.progress import track

from vidreward import processes
from vidreward.checkpoint import (
    Description,
    Preprocessing,
    RunFolder,
    build_model,
    describe,
    find_checkpoint,
    load,
    start_from,
)
from vidreward.config import from_json, to_json
from vidreward.data.decode import FrameSpec, VideoError, read_image
from vidreward.data.episode_set import EpisodeSet, named_few
from vidreward.data.episodes import open_episodes
from vidreward.data.paths import Quarantined
from vidreward.data.readable import cache_what_fits, how_read, without_broken
from vidreward.data.sources import UnreadableError
from vidreward.evaluate import EvaluateConfig, Evaluation, evaluate
from vidreward.evaluate.controls import Scorer
from vidreward.evaluate.hold_protocol import evaluate_hold
from vidreward.evaluate.hold_store import VideoResults, checkpoint_key
from vidreward.evaluate.hold_table import HoldEvaluation
from vidreward.evaluate.outputs import ScoredEpisode, write_scores
from vidreward.evaluate.overlay import overlay_video
from vidreward.evaluate.plots import plot_episode
from vidreward.evaluate.report import write_report
from vidreward.log import Logger
from vidreward.reward_model import LearnedRewardModel, RewardModel
from vidreward.rl.reward import label
from vidreward.run_config import check_config, check_out, write_config
from vidreward.scoring import score_episode, score_frames
from vidreward.train import Saving, choose_device, fit
from vidreward.train_config import DataConfig, TrainConfig, ignored_settings
from vidreward.types import Episode


def train(config: TrainConfig, *, reward: str, quiet: bool = False) -> LearnedRewardModel:
    """Train a reward model on a folder of videos, going on from where the run was interrupted.

    Args:
        config: A recipe, with `data.path` set; `out` gets config.json, log.jsonl and checkpoints/.
        reward: Name of the file in `rewards/`, or the user's own file.
        quiet: Print nothing.

    Returns:
        The trained model, in evaluation mode.

    Raises:
        ValueError: The data cannot be used, or `out` holds a run of another configuration.
        TrainingDivergedError: The loss is not finite.
    """
    out = config.out
    check_config(config, reward)
    choose_device(config.fit.device)
    processes.start(config.fit.device)
    with processes.main_first():
        episodes = open_training_data(config.data)
    training, validation = episodes.split(config.data.validation, seed=config.fit.seed)
    data = config.data
    spec = episodes.data_spec((data.size, data.size))
    with torch.random.fork_rng():
        torch.manual_seed(config.fit.seed)
        model = build_model(config.reward, spec, reward)
    if not isinstance(model, LearnedRewardModel):
        raise ValueError(f"{reward} has nothing to train; use it with `vidreward score` as it is")
    preprocessing = to_json(
        Preprocessing(size=data.size, resize=data.resize, load_size=data.load_size, crop=data.crop, fps=data.fps)
    )
    name = Path(reward).stem if reward.endswith(".py") else reward.replace("-", "_")
    description = Description(reward=name, config=config.reward, data=spec, preprocessing=preprocessing)
    saving = Saving(run=RunFolder(out), description=description, fingerprint=training.fingerprint())
    is_main = processes.is_main()
    if config.init_from is not None and is_main and saving.run.newest() is None:
        start_from(model, config.init_from)
    with Logger(out, backends=config.fit.log, quiet=quiet) if is_main else Logger(None, quiet=True) as log:
        for warning in ignored_settings(config):
            log.message(f"warning: {warning}")
        if any(episode.info.metadata.get("split") == "validation" for episode in episodes):
            log.message("the metadata's column `split` says what is held out; data.validation is not used")
        reading = how_read(episodes, config.data.cache_gb, config.fit.num_workers)
        if reading is not None:
            log.message(reading)
        log.message(f"{len(training)} episodes to train on, {len(validation)} held out, {len(spec.tasks)} tasks")
        if is_main:
            write_config(config, reward)
        fit(model, training, config.fit, log, validation=validation, saving=saving)
        report_quarantine(episodes.quarantine, log)
    return model


def open_training_data(config: DataConfig) -> EpisodeSet:
    """Open the episodes a run trains and validates on; with `load_size`, whole pictures of that side.

    Their frames are cached where they fit into `cache_gb`, and are read from the videos otherwise.

    Raises:
        ValueError: No path, a margin that is none, an unknown task, or nothing left.
    """
    if not config.path:
        raise ValueError("no videos given; add --data FOLDER")
    scored = FrameSpec(size=(config.size, config.size), resize=config.resize, load_size=config.load_size)
    opened = open_episodes(
        config.path,
        size=scored.size if config.load_size is None else None,
        resize=config.resize,
        load_size=config.load_size,
        crop=config.crop,
        camera=config.camera,
        fps=config.fps,
        cache_dir=config.cache_dir,
    )
    episodes = opened
    if config.tasks is not None:
        known = {episode.task for episode in opened if episode.task is not None}
        unknown = [task for task in config.tasks if task not in known]
        if unknown:
            there = ", ".join(sorted(known)) or "none; name tasks in metadata.csv, or make them sub-folders"
            raise ValueError(f"no task {', '.join(unknown)} in {config.path}; there is: {there}")
        episodes = episodes.filter(lambda episode: episode.task in (config.tasks or ()))
    if config.successes_only:
        episodes = episodes.filter(lambda episode: episode.success is not False)
    episodes = episodes.filter(lambda episode: episode.info.metadata.get("split") != "test")
    return cache_what_fits(episodes, config.cache_dir, limit_gb=config.cache_gb)


def load_trained(path: str | Path, *, device: str = "auto", model_file: str | Path | None = None) -> RewardModel:
    """Load a trained model on the best device."""
    return load(path, device=choose_device(device), model_file=model_file)


def open_like_training(
    model_path: str | Path, data: str | Path, *, camera: str | None = None, model_file: str | Path | None = None
) -> EpisodeSet:
    """Open videos with the frame size, crop and rate that a trained model saw.

    Frames keep their own rate unless the data was resampled for training.

    Args:
        model_path: A run's folder, a checkpoint, or a Hub id owner/name.
        data: Folder of videos, or a video.
        camera: Camera to read, of recordings with several; None is the first.
        model_file: Python file of a model that is not part of vidreward.

    Raises:
        ValueError: That is no checkpoint, or nothing can be opened.
        FileNotFoundError: The data does not exist.
    """
    description = describe(model_path, model_file=model_file)
    made = from_json(Preprocessing, description.preprocessing, "preprocessing")
    size = (description.data.height, description.data.width) if made.size is None else made.size
    return open_episodes(
        data, size=size, resize=made.resize, load_size=made.load_size, crop=made.crop, camera=camera, fps=made.fps
    )


def report_quarantine(quarantine: Sequence[Quarantined], log: Logger) -> None:
    """Name the files that were left out, and why."""
    if quarantine:
        log.message(f"{len(quarantine)} files were left out:")
        for entry in quarantine:
            log.message(f"  {entry.file}: {entry.reason}")


def make_scorer(model: RewardModel) -> Scorer:
    """Turn a model into the function that `vidreward.evaluate` measures."""

    def score(frames: ndarray, episode: Episode, goal: ndarray) -> ndarray:
        state = episode.column("state") if model.inputs.state else None
        return score_frames(model, frames, goal, fps=episode.fps, text=episode.task, state=state)

    return score


def evaluate_model(
    model: RewardModel, episodes: Sequence[Episode], config: EvaluateConfig, *, name: str = "model"
) -> tuple[Evaluation, list[ScoredEpisode]]:
    """Measure a model on held-out episodes, beside the controls, and keep its scores for a report."""
    if model.counts_frames_at is not None:
        config = replace(config, predicts_time=True, mean_fps=model.counts_frames_at)
    evaluation = evaluate(make_scorer(model), episodes, config, name=name)
    rows = {str(row["id"]): row["scores"] for row in evaluation.episodes}
    return evaluation, [scored_episode(model, episode, np.asarray(rows[episode.id])) for episode in episodes]


def scored_episode(model: RewardModel, episode: Episode, scores: ndarray | None = None) -> ScoredEpisode:
    """Score an episode and pay its rewards with the model's usual shaping."""
    scores = score_episode(model, episode) if scores is None else scores
    name = (
        "score"
        if model.counts_frames_at is None
        else f"score: minus frames to the goal, at {model.counts_frames_at:g}/s"
    )
    return ScoredEpisode(episode=episode, scores=scores, rewards=label(model, episode, scores=scores), score_name=name)


def evaluate_run(
    model_path: str | Path,
    data: Path,
    config: EvaluateConfig,
    *,
    out: Path | None = None,
    device: str = "auto",
    model_file: str | Path | None = None,
) -> tuple[Evaluation, Path]:
    """Measure a trained model on a folder of videos; writes evaluation.json and report.html.

    Where the data names a validation split (Something-Something v2 does), only that is measured.

    Returns:
        The evaluation, and the path of the report.

    Raises:
        ValueError: That is no checkpoint, or nothing can be opened.
    """
    folder = evaluation_folder(model_path) if out is None else out
    check_out(folder)
    model = load_trained(model_path, device=device, model_file=model_file)
    opened = open_like_training(model_path, data, camera=config.camera, model_file=model_file)
    episodes = without_broken(opened.held_out())
    check_tasks(episodes, config.unseen_tasks)
    evaluation, scored = evaluate_model(model, episodes, config, name=str(model_path))
    evaluation.write(folder / "evaluation.json")
    description = f"{model_path} on {len(episodes)} episodes of {data}"
    report = write_report(
        folder / "report.html", evaluation, scored, title="Reward evaluation", description=description
    )
    _print_quarantine(episodes.quarantine)
    return evaluation, report


def evaluate_hold_run(
    model_path: str | Path,
    data: Path,
    config: EvaluateConfig,
    *,
    out: Path | None = None,
    device: str = "auto",
    model_file: str | Path | None = None,
) -> tuple[HoldEvaluation, Path]:
    """Measure a trained model by HOLD's protocol; writes hold.json, and hold_videos.jsonl as it goes.

    An interrupted evaluation of the same checkpoint goes on where it was; another checkpoint starts anew. Where the
    data names a validation split (Something-Something v2 does), only that is measured.

    Returns:
        The evaluation, and the path of hold.json.

    Raises:
        ValueError: That is no checkpoint, or nothing can be opened or measured.
    """
    folder = evaluation_folder(model_path) if out is None else out
    check_out(folder)
    checkpoint = find_checkpoint(model_path)
    model = load_trained(checkpoint, device=device, model_file=model_file)
    episodes = open_like_training(checkpoint, data, camera=config.camera, model_file=model_file).held_out()
    results = VideoResults(folder / "hold_videos.jsonl", checkpoint_key(checkpoint, model_file))
    left_out = {entry.file: entry.reason for entry in episodes.quarantine}
    evaluation = evaluate_hold(model, episodes, config, name=str(model_path), results=results, left_out=left_out)
    return evaluation, evaluation.write(folder / "hold.json")


def score_videos(
    model_path: str | Path,
    videos: Sequence[Path],
    *,
    out: Path,
    goal: Path | None = None,
    camera: str | None = None,
    device: str = "auto",
    model_file: str | Path | None = None,
) -> Path:
    """Score videos and write tables, plots, overlays and a report into a folder; returns the report's path.

    Raises:
        ValueError: No video could be opened, the goal is no picture, or the model looks at none.
    """
    if not videos:
        raise ValueError("no videos given; name videos or folders of videos")
    check_out(out)
    model = load_trained(model_path, device=device, model_file=model_file)
    opened = [open_like_training(model_path, path, camera=camera, model_file=model_file) for path in videos]
    episodes = named_apart(opened)
    if goal is not None:
        if model.inputs.goal == "none":
            raise ValueError(f"{model_path} looks at no goal; leave out --goal {goal}")
        picture = read_goal(goal, replace(opened[0].spec, size=model.frame_size or opened[0].spec.size))
        episodes = [episode.with_goal(picture) for episode in episodes]
    files = file_names([episode.id for episode in episodes])
    scored: list[ScoredEpisode] = []
    broken: list[Quarantined] = []
    for episode, name in track(list(zip(episodes, files, strict=True)), "score", console=Console(stderr=True)):
        try:
            scored.append(scored_episode(model, episode))
        except UnreadableError as error:
            broken.append(Quarantined(file=episode.id, reason=error.reason))
            continue
        plot_episode(scored[-1], out / "plots" / f"{name}.png")
        overlay_video(scored[-1], out / "videos" / f"{name}.mp4")
    if not scored:
        raise ValueError(f"no video can be decoded to its end{named_few(broken)}")
    write_scores(out, scored)
    report = write_report(out / "report.html", None, scored, title="Scored videos", description=str(model_path))
    _print_quarantine([*(entry for each in opened for entry in each.quarantine), *broken])
    return report


def check_tasks(episodes: EpisodeSet, unseen_tasks: Sequence[str]) -> None:
    """Refuse unseen tasks that no episode has: they would silently group nothing.

    Raises:
        ValueError: Names them, and those there are.
    """
    known = {episode.task for episode in episodes if episode.task is not None}
    unknown = [name for name in unseen_tasks if name not in known]
    if unknown:
        there = ", ".join(sorted(known)) or "none"
        raise ValueError(f"no task {', '.join(unknown)} in {episodes.root}; there is: {there}")


def read_goal(path: Path, spec: FrameSpec) -> UInt8[ndarray, "1 3 H W"]:
    """Read the picture of a goal.

    Raises:
        ValueError: It is missing, or no picture.
    """
    try:
        return read_image(path, spec)[None]
    except VideoError as error:
        raise ValueError(f"the goal is no picture that can be read ({error}); give a png or jpg") from error


def evaluation_folder(model_path: str | Path) -> Path:
    """Say where an evaluation goes: into the run, or below runs/ for a model of the Hub."""
    return (Path(model_path) if Path(model_path).is_dir() else Path("runs", *Path(model_path).parts)) / "evaluation"


def named_apart(sets: Sequence[EpisodeSet]) -> list[Episode]:
    """Give the episodes of several data sets ids of their own: paths below the folder that all have in common.

    A video that is named twice, or lies in a folder that is named too, is taken once.
    """
    roots = [opened.root.resolve() for opened in sets]
    common = os.path.commonpath([root if root.is_dir() else root.parent for root in roots])
    episodes: dict[str, Episode] = {}
    for opened, root in zip(sets, roots, strict=True):
        for episode in opened:
            path = root / episode.id if root.is_dir() else root
            name = path.relative_to(common).as_posix()
            goal = episode.goal if episode.has_goal else None
            info = replace(episode.info, id=name)
            episodes.setdefault(name, Episode(info, episode.source, columns=episode.columns, goal=goal))
    return list(episodes.values())


def file_names(ids: Sequence[str]) -> list[str]:
    """Name the files made of each episode: its id without the ending, or with it where others share the rest.

    Example:
        >>> file_names(["a/x.mp4", "a/y.mp4", "a/y.webm"])
        ['a/x', 'a/y.mp4', 'a/y.webm']
    """
    stems = [str(Path(id).with_suffix("")) for id in ids]
    shared = Counter(name for id, stem in zip(ids, stems, strict=True) for name in {id, stem})
    return [stem if shared[stem] == 1 else id for id, stem in zip(ids, stems, strict=True)]


def _print_quarantine(quarantine: Sequence[Quarantined]) -> None:
    with Logger(None) as log:
        report_quarantine(quarantine, log)
