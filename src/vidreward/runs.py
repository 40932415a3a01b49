"""Whole jobs on folders: train a reward on videos, open other videos the way a trained reward saw its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from vidreward.checkpoint import Description, RunFolder, find_checkpoint, load, read_description
from vidreward.config import to_json
from vidreward.data.cache import build_cache
from vidreward.data.episode_set import EpisodeSet
from vidreward.data.episodes import open_episodes
from vidreward.files import write_json_atomic
from vidreward.log import Logger
from vidreward.reward_model import LearnedRewardModel, RewardModel
from vidreward.train import DataConfig, Saving, TrainConfig, choose_device, fit


def train(config: TrainConfig, out: str | Path, *, reward: str, quiet: bool = False) -> LearnedRewardModel:
    """Train a reward model on a folder of videos, going on from where the run in `out` was interrupted.

    Args:
        config: A recipe, with `data.path` set.
        out: The run's folder: config.json, log.jsonl, checkpoints/.
        reward: Name of the file in `rewards/`, or the user's own file.
        quiet: Print nothing.

    Returns:
        The trained model, in evaluation mode.

    Raises:
        ValueError: The data cannot be used, or `out` holds a run of another configuration.
    """
    out = Path(out)
    _write_config(config, out, reward)
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


def _write_config(config: TrainConfig, out: Path, reward: str) -> None:
    """Write the run's config.json, or check that the run that is there has the same."""
    values = {"reward_model": reward, **to_json(replace(config, fit=replace(config.fit, log=())))}
    where = out / "config.json"
    if where.exists():
        import json

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
