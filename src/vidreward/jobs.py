"""The jobs behind the command line: train on a folder of videos, measure a trained reward, score videos."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy import ndarray
from rich.console import Console
from rich.progress import track

from vidreward.checkpoint import Description, RunFolder, find_checkpoint, load, read_description
from vidreward.config import to_json
from vidreward.data.cache import build_cache
from vidreward.data.decode import read_image
from vidreward.data.episode_set import EpisodeSet
from vidreward.data.episodes import open_episodes
from vidreward.evaluate import EvaluateConfig, Evaluation, evaluate
from vidreward.evaluate.controls import Scorer
from vidreward.evaluate.outputs import ScoredEpisode, write_scores
from vidreward.evaluate.overlay import overlay_video
from vidreward.evaluate.plots import plot_episode
from vidreward.evaluate.report import write_report
from vidreward.files import write_json_atomic
from vidreward.log import Logger
from vidreward.reward_model import LearnedRewardModel, RewardModel
from vidreward.rl.reward import label
from vidreward.scoring import score_episode, score_frames
from vidreward.train import DataConfig, Saving, TrainConfig, choose_device, fit
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
    """
    out = config.out
    _write_config(config, reward)
    episodes = open_training_data(config.data)
    training, validation = episodes.split(config.data.validation, seed=config.fit.seed)
    spec = episodes.data_spec()
    with torch.random.fork_rng():
        torch.manual_seed(config.fit.seed)
        model = config.reward.build(spec)
    if not isinstance(model, LearnedRewardModel):
        raise ValueError(f"{reward} has nothing to train; use it with `vidreward score` as it is")
    preprocessing = {"size": config.data.size, "resize": config.data.resize, "crop": config.data.crop}
    description = Description(reward=Path(reward).stem, config=config.reward, data=spec, preprocessing=preprocessing)
    saving = Saving(run=RunFolder(out), description=description, fingerprint=training.fingerprint())
    with Logger(out, backends=config.fit.log, quiet=quiet) as log:
        log.message(f"{len(training)} episodes to train on, {len(validation)} held out, {len(spec.tasks)} tasks")
        fit(model, training, config.fit, log, validation=validation, saving=saving)
        report_quarantine(episodes, log)
    return model


def open_training_data(config: DataConfig) -> EpisodeSet:
    """Open and cache the episodes a run trains and validates on.

    Raises:
        ValueError: No path, an unknown task, or nothing left.
    """
    if not config.path:
        raise ValueError("no videos given; add --data FOLDER")
    opened = open_episodes(
        config.path, size=config.size, resize=config.resize, crop=config.crop, camera=config.camera, fps=config.fps
    )
    episodes = opened
    if config.tasks is not None:
        known = {episode.task for episode in opened}
        unknown = [task for task in config.tasks if task not in known]
        if unknown:
            raise ValueError(
                f"no task {', '.join(unknown)} in {config.path}; it has {', '.join(sorted(map(str, known)))}"
            )
        episodes = episodes.filter(lambda episode: episode.task in (config.tasks or ()))
    if config.successes_only:
        episodes = episodes.filter(lambda episode: episode.success is not False)
    return build_cache(episodes, config.cache_dir, limit_gb=config.cache_gb)


def load_trained(path: str | Path, *, device: str = "auto", model_file: str | Path | None = None) -> RewardModel:
    """Load a trained model on the best device."""
    return load(path, device=choose_device(device), model_file=model_file)


def open_like_training(
    model_path: str | Path, data: str | Path, *, camera: str | None = None, model_file: str | Path | None = None
) -> EpisodeSet:
    """Open videos with the frame size, crop and rate that a trained model saw.

    Frames keep their own rate unless the data was resampled for training.
    """
    description = read_description(find_checkpoint(model_path), model_file=model_file)
    settings = dict(description.preprocessing)
    crop = settings["crop"]
    return open_episodes(
        data,
        size=int(str(settings["size"])),
        resize="crop" if settings["resize"] == "crop" else "squash",
        crop=tuple(map(float, crop)) if isinstance(crop, list | tuple) else None,  # type: ignore[arg-type]
        camera=camera,
    )


def report_quarantine(episodes: EpisodeSet, log: Logger) -> None:
    """Name the files that were left out, and why."""
    if episodes.quarantine:
        log.message(f"{len(episodes.quarantine)} files were left out:")
        for entry in episodes.quarantine:
            log.message(f"  {entry.file}: {entry.reason}")


def _write_config(config: TrainConfig, reward: str) -> None:
    """Write the run's config.json, or check that the run that is there has the same."""
    out = config.out
    parts = {"reward": config.reward, "data": config.data, "fit": replace(config.fit, log=())}
    values = {"reward_model": reward, **{name: to_json(part) for name, part in parts.items()}}
    where = out / "config.json"
    if where.exists():
        before = json.loads(where.read_text())
        changed = [key for key in values if before.get(key) != values[key]]
        if changed:
            differences = "; ".join(_difference(before.get(key), values[key], key) for key in changed)
            raise ValueError(f"{out} holds a run with other settings ({differences}); use them again, or another --out")
        return
    write_json_atomic(where, values)


def _difference(before: object, now: object, where: str) -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [key for key in now if before.get(key) != now[key]]
        return "; ".join(_difference(before.get(key), now[key], f"{where}.{key}") for key in keys)
    return f"{where} was {before!r}, is {now!r}"


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

    Returns:
        The evaluation, and the path of the report.
    """
    model = load_trained(model_path, device=device, model_file=model_file)
    episodes = open_like_training(model_path, data, camera=config.camera, model_file=model_file)
    evaluation, scored = evaluate_model(model, episodes, config, name=str(model_path))
    folder = Path(model_path) / "evaluation" if out is None else out
    evaluation.write(folder / "evaluation.json")
    description = f"{model_path} on {len(episodes)} episodes of {data}"
    report = write_report(
        folder / "report.html", evaluation, scored, title="Reward evaluation", description=description
    )
    _print_quarantine(episodes)
    return evaluation, report


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
        ValueError: No video could be opened, or the goal is no picture.
    """
    model = load_trained(model_path, device=device, model_file=model_file)
    sets = [open_like_training(model_path, path, camera=camera, model_file=model_file) for path in videos]
    if not sets:
        raise ValueError("no videos given; name videos or folders of videos")
    picture = None if goal is None else read_image(goal, sets[0].spec)[None]
    scored = []
    chosen = [(opened, episode) for opened in sets for episode in opened]
    for opened, episode in track(chosen, "score", console=Console(stderr=True)):
        shown = episode if picture is None else episode.with_goal(picture)
        one = scored_episode(model, shown)
        scored.append(one)
        name = Path(episode.id if len(opened) > 1 or opened.root.is_dir() else opened.root.name)
        plot_episode(one, out / "plots" / name.with_suffix(".png"))
        overlay_video(one, out / "videos" / name.with_suffix(".mp4"))
    write_scores(out, scored)
    for opened in sets:
        _print_quarantine(opened)
    return write_report(out / "report.html", None, scored, title="Scored videos", description=str(model_path))


def _print_quarantine(episodes: EpisodeSet) -> None:
    with Logger(None) as log:
        report_quarantine(episodes, log)
