"""Pay the agents of any reinforcement-learning library with a video reward: a Gymnasium vector wrapper."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from jaxtyping import Float, UInt8
from numpy import ndarray

from vidreward.rl.account import ENV
from vidreward.rl.env_checks import autoreset_mode, channels_last, check_models, control_rate
from vidreward.rl.goals import SubGoals
from vidreward.rl.reward import OpenEpisode, Reward
from vidreward.types import check_frames

GoalSource = ndarray | Callable[[Mapping[str, Any]], ndarray] | None
TextSource = str | Callable[[Mapping[str, Any]], str] | None


class VideoReward(gymnasium.vector.VectorWrapper):
    """Replace the reward of a vector environment by a video reward; equal to `Reward.label` on the same frames.

    The environment's observation has `pixels`, uint8 RGB, (3, H, W) or (H, W, 3). All environments are scored in one
    forward pass a step; a goal is encoded once an episode. `info` gets, for each environment, `env_reward` (the
    environment's own), `score/NAME` and `reward/NAME` of each term (the latter with its weight; together with
    `reward/env` they sum to the reward), and `goal_index`, the number of the goal that the next frame is compared with.

    SAME_STEP and NEXT_STEP autoreset are supported. In the step with which NEXT_STEP resets an environment its reward
    is 0, as Gymnasium's own.

    Args:
        env: Vector environment, synchronous or not.
        reward: What to pay.
        goal: Goal frames (G, 3, H, W) or one frame for all environments, in the layout of the pixels; a function that
            makes them of the environment's info at reset; None takes `info["goal"]`, or for sub-goals
            `info["subgoals"]` where there are some.
        text: Instruction, or a function of info, for models that read one; None takes `info["text"]`.
        evaluation: Pay the environment's own reward; scores are computed and sub-goals go on all the same.
        any_camera: Do not ask that the environment's camera be one the models were trained on.

    Raises:
        ValueError: The environment has no pixels, of another size or camera than the models', hides the last frame of
            an episode, or lacks what a model reads; at `reset`, that there is no goal.

    Example:
        >>> from vidreward.envs import make_env
        >>> from vidreward.rewards.hold_c import HoldC, HoldCConfig
        >>> from vidreward.rl.reward import RewardMix, RewardTerm
        >>> mix = RewardMix(terms=(RewardTerm(model=HoldC(HoldCConfig(depth=14))),), env_weight=1.0)
        >>> env = VideoReward(make_env("tabletop/push", num_envs=2, size=32), Reward(mix))
        >>> _ = env.reset(seed=0)
        >>> _, rewards, _, _, info = env.step(env.action_space.sample())
        >>> bool(np.allclose(rewards, info["reward/HoldC"] + info["reward/env"]))
        True
    """

    def __init__(
        self,
        env: gymnasium.vector.VectorEnv[Any, Any, Any],
        reward: Reward,
        *,
        goal: GoalSource = None,
        text: TextSource = None,
        evaluation: bool = False,
        any_camera: bool = False,
    ) -> None:
        super().__init__(env)
        self.video_reward = reward
        self.evaluation = evaluation
        self._goal, self._text = goal, text
        self._mode = autoreset_mode(env)
        self._channels_last = channels_last(env)
        self._fps = control_rate(env, reward.terms)
        check_models(env, reward.terms, self._frame_size(), any_camera)
        self._reads_state = any(term.model.inputs.state for term in reward.terms)
        self._episodes: list[OpenEpisode | None] = [None] * env.num_envs
        self._ended = np.zeros(env.num_envs, dtype=bool)

    # -- gymnasium ------------------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset all environments, or those of `options["reset_mask"]`, and score their first frames."""
        mask = (options or {}).get("reset_mask")  # read now: Gymnasium takes it out of the options
        started = list(range(self.num_envs)) if mask is None else [int(row) for row in np.flatnonzero(mask)]
        observation, info = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]
        frames, states = self._read(observation)
        self._begin(started, info)
        self._ended[started] = False
        columns = self._columns()
        episodes = [self._running(row) for row in started]
        scores = self._score(episodes, frames[started], None if states is None else states[started])
        for row, episode, current in zip(started, episodes, scores, strict=True):
            episode.account.begin(current)
            _note(columns, "score", row, current)
        self._describe(info, {name: values for name, values in columns.items() if name.startswith("score/")})
        return observation, info

    def step(self, actions: Any) -> tuple[Any, ndarray, ndarray, ndarray, dict[str, Any]]:
        """Step all environments and pay them."""
        if None in self._episodes:
            raise ValueError("the environments have no running episodes; call reset() before step()")
        observation, env_rewards, terminated, truncated, info = self.env.step(actions)
        done = np.logical_or(terminated, truncated)
        frames, states = self._read(observation)
        paid = [row for row in range(self.num_envs) if not self._ended[row]]
        if self._mode == AutoresetMode.SAME_STEP:
            started = [int(row) for row in np.flatnonzero(done)]
            last_frames, last_states = self._last(info, started, frames, states)
        else:
            started = [int(row) for row in np.flatnonzero(self._ended)]
            last_frames, last_states = frames, states
            self._ended = done
        finished = [self._running(row) for row in paid]
        self._begin(started, info)
        begun = [self._running(row) for row in started]
        looked_at = np.concatenate([last_frames[paid], frames[started]])
        felt = None
        if states is not None and last_states is not None:
            felt = np.concatenate([last_states[paid], states[started]])
        scores = self._score(finished + begun, looked_at, felt)
        columns = self._columns()
        for row, episode, current in zip(started, begun, scores[len(paid) :], strict=True):
            episode.account.begin(current)
            _note(columns, "score", row, current)
        # after the loop above: a row that ended and began again in this step shows what it was paid for
        for row, episode, current in zip(paid, finished, scores, strict=False):
            terms = episode.account.step(current, float(env_rewards[row]), terminated=bool(terminated[row]))
            _note(columns, "score", row, current)
            _note(columns, "reward", row, terms)
        rewards = np.sum([values for name, values in columns.items() if name.startswith("reward/")], axis=0)
        own_rewards = np.array(env_rewards, dtype=np.float64)
        self._describe(info, {**columns, "env_reward": own_rewards})
        return observation, own_rewards.copy() if self.evaluation else rewards, terminated, truncated, info

    @property
    def goals(self) -> UInt8[ndarray, "N 3 H W"]:
        """Goal frame that each environment's next frame is compared with, for policies that look at it.

        Raises:
            ValueError: No model looks at a goal, or the environments were not reset.
        """
        running = [self._running(row) for row in range(self.num_envs)]
        if not self.video_reward.needs_goal:
            raise ValueError("no model of this reward looks at a goal")
        scheduled = self.video_reward.mix.goals is not None
        return np.stack([e.goal[e.account.goal if scheduled else -1] for e in running if e.goal is not None])

    # -- one step -------------------------------------------------------------------------------------------------

    def _begin(self, rows: Sequence[int], info: Mapping[str, Any]) -> None:
        """Start the episodes of some environments."""
        own = [own_info(info, row) for row in rows]
        goals, texts = [self._goal_of(each) for each in own], [self._text_of(each) for each in own]
        for row, opened in zip(rows, self.video_reward.open(goals, fps=self._fps, texts=texts), strict=True):
            self._episodes[row] = opened

    def _score(
        self, episodes: Sequence[OpenEpisode], frames: UInt8[ndarray, "M 3 H W"], states: Float[ndarray, "M S"] | None
    ) -> list[dict[str, float]]:
        """Score the next frame of each episode by each term, all in one forward pass of it."""
        chosen = self.video_reward.mix.goals is not None
        goals = [episode.account.goal if chosen else 0 for episode in episodes]
        scores: list[dict[str, float]] = [{} for _ in episodes]
        for term in self.video_reward.terms:
            runs = [episode.runs[term.name] for episode in episodes]
            for own, score in zip(scores, term.scorer.push(runs, frames, goals, states).tolist(), strict=True):
                own[term.name] = score
        return scores

    def _columns(self) -> dict[str, Float[ndarray, "N"]]:
        """Make the columns of info that are filled row by row: no score, and no reward, where nothing was paid."""
        names = [term.name for term in self.video_reward.terms]
        scores = {f"score/{name}": np.full(self.num_envs, np.nan) for name in names}
        return {**scores, **{f"reward/{name}": np.zeros(self.num_envs) for name in [*names, ENV]}}

    def _running(self, row: int) -> OpenEpisode:
        episode = self._episodes[row]
        if episode is None:
            raise ValueError(f"environment {row} has no running episode; call reset() first")
        return episode

    def _read(self, observation: Any) -> tuple[UInt8[ndarray, "N 3 H W"], ndarray | None]:
        """Return the pictures, channels first, and the states where a model reads them."""
        return self._frames(observation["pixels"]), observation["state"] if self._reads_state else None

    def _frames(self, pixels: ndarray) -> ndarray:
        return np.ascontiguousarray(np.moveaxis(pixels, -1, -3)) if self._channels_last else pixels

    def _last(
        self, info: Mapping[str, Any], ended: Sequence[int], frames: ndarray, states: ndarray | None
    ) -> tuple[ndarray, ndarray | None]:
        """Put the last frames of the episodes that ended in place of the first ones of the next."""
        if not ended:
            return frames, states
        if "final_obs" not in info:
            raise ValueError(
                "the environment resets in the same step but gives no info['final_obs'], so the last frame of an "
                "episode is hidden and cannot be paid; use Gymnasium's vector environments, or autoreset NEXT_STEP"
            )
        frames, states = frames.copy(), None if states is None else states.copy()
        for row in ended:
            final = info["final_obs"][row]
            frames[row] = self._frames(final["pixels"])
            if states is not None:
                states[row] = final["state"]
        return frames, states

    def _frame_size(self) -> tuple[int, int]:
        shape = self.env.single_observation_space["pixels"].shape  # type: ignore[index]
        return shape[:2] if self._channels_last else shape[1:]

    def _goal_of(self, own: Mapping[str, Any]) -> UInt8[ndarray, "G 3 H W"] | None:
        """Return the goal frames of an environment that was just reset."""
        if not self.video_reward.needs_goal:
            return None
        in_stages = isinstance(self.video_reward.mix.goals, SubGoals) and "subgoals" in own
        given = own.get("subgoals" if in_stages else "goal")
        goal = self._goal(own) if callable(self._goal) else given if self._goal is None else self._goal
        if goal is None:
            names = ", ".join(term.name for term in self.video_reward.terms if term.scorer.needs_goal)
            where = "the function goal= returned none" if callable(self._goal) else "there is no info['goal'] at reset"
            raise ValueError(
                f"{names} compares frames with a goal picture, and {where}; give VideoReward(..., goal=) a picture of "
                "the task done, or a function that makes one of info"
            )
        goal = np.asarray(goal)
        frames = self._frames(goal[None] if goal.ndim == 3 else goal) if goal.ndim in (3, 4) else goal
        check_frames(frames, "goal")
        if frames.shape[2:] != self._frame_size():
            (height, width), (own_height, own_width) = frames.shape[2:], self._frame_size()
            raise ValueError(
                f"the goal is {height}x{width} and the environment's pictures are {own_height}x{own_width}; "
                "resize the goal"
            )
        return frames

    def _text_of(self, own: Mapping[str, Any]) -> str | None:
        if not any(term.model.inputs.text for term in self.video_reward.terms):
            return None
        text = self._text(own) if callable(self._text) else own.get("text") if self._text is None else self._text
        if text is None:
            names = ", ".join(term.name for term in self.video_reward.terms if term.model.inputs.text)
            raise ValueError(f"{names} reads an instruction, and there is none; give VideoReward(..., text=)")
        return str(text)

    def _describe(self, info: dict[str, Any], columns: Mapping[str, ndarray]) -> None:
        """Add columns to info with their masks, as Gymnasium's vector environments do."""
        indices = np.array([self._running(row).account.goal for row in range(self.num_envs)])
        for name, values in {**columns, "goal_index": indices}.items():
            info[name] = values
            info[f"_{name}"] = np.ones(self.num_envs, dtype=bool)


def _note(columns: Mapping[str, ndarray], kind: str, row: int, values: Mapping[str, float]) -> None:
    for name, value in values.items():
        columns[f"{kind}/{name}"][row] = value


def is_about_the_step(name: str) -> bool:
    """Tell whether a column of `info` is VideoReward's, of the step just paid, and not of the reset after it."""
    return name == "env_reward" or name.startswith(("score/", "reward/"))


def own_info(info: Mapping[str, Any], row: int) -> dict[str, Any]:
    """Return one environment's part of a vector environment's info."""
    own = {}
    for name, values in info.items():
        mask = info.get(f"_{name}")
        if mask is not None and mask[row]:
            own[name] = own_info(values, row) if isinstance(values, dict) else values[row]
    return own
