"""Evaluate a scorer on episodes: measure each, compare with controls, summarise with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from vidreward.evaluate.combine import summarise
from vidreward.evaluate.config import EvaluateConfig
from vidreward.evaluate.controls import (
    CONTROLS,
    BlindPredictors,
    Scorer,
    WrongGoals,
    as_stored,
    checked_scores,
    episode_rng,
    find_wrong_goals,
    measure_views,
)
from vidreward.evaluate.metrics import order_metrics, pearson, spearman, time_errors
from vidreward.evaluate.result import Evaluation
from vidreward.evaluate.summary import MODEL, EpisodeResult
from vidreward.types import Episode


def evaluate(
    scorer: Scorer,
    episodes: Sequence[Episode],
    config: EvaluateConfig,
    *,
    name: str = MODEL,
    show_progress: bool = True,
) -> Evaluation:
    """Measure a scorer on held-out episodes, beside controls that see no content or the wrong content.

    Args:
        scorer: Gives each frame (T, 3, H, W) of an episode a score, higher is better, towards a goal (G, 3, H, W).
        episodes: Held-out episodes. Outcomes (`success`), a per-frame column of true progress and metadata columns
            are used where they exist; what is missing leaves metrics out, with the reason.
        config: How to evaluate.
        name: What is evaluated, for titles.
        show_progress: Whether to show a progress bar.

    Raises:
        ValueError: There is no episode, two share an id, a score is not finite, or a name in `config` is unknown.
    """
    _check(episodes, config)
    blind = BlindPredictors.of(
        [episode.num_frames for episode in episodes],
        [episode.fps for episode in episodes],
        mean_fps=config.mean_fps if config.predicts_time else None,
        seed=config.seed,
    )
    scorers = {MODEL: scorer, **{control: blind.scorer(control) for control in CONTROLS}}
    viewed = _viewed_episodes(episodes, config)
    results = []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, disable=not show_progress) as progress:
        bar = progress.add_task("evaluate: episodes", total=len(episodes))
        for episode in episodes:
            results.append(_measure(scorers, episode, episodes, config, views=episode.id in viewed))
            progress.advance(bar)
    return summarise([results], config, name=name, notes=_data_notes(episodes))


def _measure(
    scorers: Mapping[str, Scorer], episode: Episode, episodes: Sequence[Episode], config: EvaluateConfig, *, views: bool
) -> EpisodeResult:
    """Score one episode with every predictor and compute all that one episode can tell."""
    frames = episode.all_frames(config.camera)
    goal = episode.goal() if episode.has_goal else frames[-1:]
    progress = episode.column(config.progress_column)
    progress = None if progress is None else as_stored(progress)
    rng = episode_rng(config.seed, "views", episode.id)
    orders = [rng.permutation(len(frames)) for _ in range(config.num_permutations)] if views else []
    wrong_goals = (
        find_wrong_goals(episode, goal, episodes, layout_column=config.layout_column, rng=rng)
        if views
        else WrongGoals()
    )
    all_scores, values = {}, {}
    for name, scorer in scorers.items():
        scores = checked_scores(scorer(frames, episode, goal), episode, len(frames))
        all_scores[name] = scores
        values[name] = _episode_values(scores, episode, progress, config, timed=name != "random")
        if views:
            values[name] |= measure_views(scorer, episode, frames, goal, scores, orders=orders, wrong_goals=wrong_goals)
    return EpisodeResult(
        id=episode.id,
        num_frames=len(frames),
        fps=episode.fps,
        task=episode.task,
        success=episode.success,
        failure=_failure(episode, config),
        groups=_groups(episode, config),
        scores=all_scores,
        values=values,
        progress=progress,
    )


def _episode_values(
    scores: Float[ndarray, " T"],
    episode: Episode,
    progress: Float[ndarray, " T"] | None,
    config: EvaluateConfig,
    *,
    timed: bool,
) -> dict[str, float | None]:
    values = order_metrics(scores)
    values["spearman_failures"] = values["spearman"]
    if progress is not None:
        values["progress_spearman"] = spearman(scores, progress)
        values["progress_pearson"] = pearson(scores, progress)
    if config.predicts_time and timed and len(scores) > 1:
        assert config.mean_fps is not None
        values |= time_errors(-scores, fps=episode.fps, mean_fps=config.mean_fps)
    return values


def _viewed_episodes(episodes: Sequence[Episode], config: EvaluateConfig) -> set[str]:
    """Choose the episodes shown in wrong ways: those that did not fail, one task after the other up to the limit."""
    by_task: dict[str | None, list[str]] = {}
    for episode in episodes:
        if episode.success is not False:
            by_task.setdefault(episode.task, []).append(episode.id)
    rng = np.random.default_rng(config.seed)
    queues = [list(rng.permutation(ids)) for ids in by_task.values()]
    rounds = [ids[turn] for turn in range(max(map(len, queues), default=0)) for ids in queues if turn < len(ids)]
    return set(map(str, rounds[: config.max_control_episodes]))


def _failure(episode: Episode, config: EvaluateConfig) -> str | None:
    """Kind of failure; only failed episodes have one."""
    kind = episode.info.metadata.get(config.failure_column)
    return str(kind) if episode.success is False and kind not in (None, "") else None


def _groups(episode: Episode, config: EvaluateConfig) -> dict[str, str]:
    groups = {column: str(episode.info.metadata.get(column, "(none)")) for column in config.group_by}
    if config.unseen_tasks:
        groups["split"] = "unseen" if episode.task in config.unseen_tasks else "seen"
    return groups


def _data_notes(episodes: Sequence[Episode]) -> list[str]:
    failures = [episode for episode in episodes if episode.success is False]
    without = sum(not episode.has_goal for episode in failures)
    others = [episode for episode in episodes if episode.success is not False]
    own = sum(not episode.has_goal for episode in others)
    notes = []
    if own:
        notes.append(
            f"{own} of {len(others)} episodes that did not fail come without a goal image, so their own last frame is "
            "the goal: whatever compares pictures scores the end highest; read value-order figures with care"
        )
    if without:
        notes.append(
            f"{without} of {len(failures)} failed episodes come without a goal image, so their own last frame stood "
            "in: to a model that reads the goal, such a failure looks like a success; success_* says little"
        )
    single = sum(episode.num_frames < 2 for episode in episodes)
    if single:
        notes.append(f"{single} episode(s) have one frame: their order is undefined")
    return notes


def _check(episodes: Sequence[Episode], config: EvaluateConfig) -> None:
    if not episodes:
        raise ValueError("there is no episode to evaluate; give at least one")
    ids = [episode.id for episode in episodes]
    repeated = next((name for name in ids if ids.count(name) > 1), None) if len(set(ids)) < len(ids) else None
    if repeated is not None:
        raise ValueError(f"two episodes have the id {repeated!r}; ids must be unique")
    tasks = sorted({str(episode.task) for episode in episodes})
    unknown = sorted(set(config.unseen_tasks) - set(tasks))
    if unknown:
        raise ValueError(f"unseen_tasks {unknown} do not occur; the episodes have the tasks {tasks}")
    columns = sorted({str(key) for episode in episodes for key in episode.info.metadata})
    unknown = sorted(set(config.group_by) - set(columns))
    if unknown:
        raise ValueError(f"cannot group by {unknown}; the episodes' metadata have the columns {columns}")
    for episode in episodes:
        progress = episode.column(config.progress_column)
        if progress is not None and not (np.ndim(progress) == 1 and np.all(np.isfinite(np.asarray(progress, float)))):
            raise ValueError(
                f"episode {episode.id!r}: column {config.progress_column!r} must hold one finite number a frame"
            )
