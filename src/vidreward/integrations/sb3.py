"""Stable-Baselines3: train its agents on any Gymnasium vector environment, and so on `VideoReward`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from numpy import ndarray

from vidreward.rl.wrapper import is_about_the_step, own_info

try:
    from stable_baselines3.common.vec_env import VecEnv
except ImportError as error:
    raise ImportError("Stable-Baselines3 is not installed; pip install 'vidreward[sb3]'") from error


class SB3VecEnv(VecEnv):
    """Show a Gymnasium vector environment to Stable-Baselines3 as one of its own.

    Last observations go where its agents look for them (`terminal_observation`, `TimeLimit.truncated`), so time-outs
    bootstrap. Rewards and every column of `info` (`env_reward`, `score/NAME`, ...) are passed on; for `rollout/` logs
    wrap it in `stable_baselines3.common.vec_env.VecMonitor`.

    Args:
        env: Vector environment that resets in the same step.
        observe: The one part of a dictionary observation that the policy sees, as in "state"; None is all of it.

    Raises:
        ValueError: The environment resets at another time, or its observation has no such part.

    Example:
        >>> from vidreward.envs import make_env
        >>> from vidreward.rl.reward import Reward, RewardTerm
        >>> from vidreward.rl.wrapper import VideoReward
        >>> env = VideoReward(make_env("tabletop/push", num_envs=2), Reward(RewardTerm(model="pixels")))
        >>> SB3VecEnv(env, observe="state").reset().shape
        (2, 23)
    """

    def __init__(self, env: gymnasium.vector.VectorEnv[Any, Any, Any], *, observe: str | None = None) -> None:
        mode = env.metadata.get("autoreset_mode")
        if mode is None or AutoresetMode(mode) != AutoresetMode.SAME_STEP:
            raise ValueError(
                f"Stable-Baselines3 expects a finished environment to be reset in the same step, and this one's "
                f"autoreset is {mode}; make it with autoreset_mode SAME_STEP"
            )
        space = env.single_observation_space
        parts = space.spaces if isinstance(space, spaces.Dict) else {}
        if observe is not None and observe not in parts:
            raise ValueError(f"the observation has no {observe!r}; it has {', '.join(parts) or 'no parts'}")
        self.env, self._observe = env, observe
        super().__init__(env.num_envs, space if observe is None else parts[observe], env.single_action_space)

    def reset(self) -> Any:
        """Reset all environments with the seeds and options that were set for them."""
        if any(options != self._options[0] for options in self._options):
            raise ValueError("a Gymnasium vector environment takes one set of reset options for all; give the same")
        seeds = None if all(seed is None for seed in self._seeds) else self._seeds
        observation, info = self.env.reset(seed=seeds, options=self._options[0] or None)  # type: ignore[arg-type]
        self._reset_seeds()
        self._reset_options()
        self.reset_infos = [own_info(info, row) for row in range(self.num_envs)]
        return self._seen(observation)

    def step_async(self, actions: ndarray) -> None:
        self._actions = actions

    def step_wait(self) -> tuple[Any, ndarray, ndarray, list[dict[str, Any]]]:
        observation, rewards, terminated, truncated, info = self.env.step(self._actions)
        done = np.logical_or(terminated, truncated)
        infos = []
        for row in range(self.num_envs):
            own = own_info(info, row)
            if done[row]:
                own = self._ended(row, own, info)
            own["TimeLimit.truncated"] = bool(truncated[row] and not terminated[row])
            infos.append(own)
        return self._seen(observation), np.asarray(rewards, np.float32), done, infos

    def _ended(self, row: int, own: dict[str, Any], info: Mapping[str, Any]) -> dict[str, Any]:
        """Tell apart what is of the last step of an episode and what of the next one's reset."""
        last, final = own.pop("final_obs", None), own.pop("final_info", {})
        if last is None:
            raise ValueError("the environment gives no info['final_obs'], so the last observation is hidden")
        paid = {name: value for name, value in own.items() if is_about_the_step(name)}
        self.reset_infos[row] = {name: value for name, value in own.items() if name not in paid}
        return {**final, **paid, "terminal_observation": self._seen(last)}

    def _seen(self, observation: Any) -> Any:
        return observation if self._observe is None else observation[self._observe]

    def close(self) -> None:
        self.env.close()

    def get_images(self) -> Sequence[ndarray | None]:
        return self.env.render() or [None] * self.num_envs  # type: ignore[return-value]

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        if attr_name == "render_mode":  # asked of every environment at once: one that lacks it would end its process
            return [self.env.render_mode for _ in self._get_indices(indices)]
        values = self.env.unwrapped.get_attr(attr_name)  # type: ignore[attr-defined]
        return [values[row] for row in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        values = list(self.get_attr(attr_name))
        for row in self._get_indices(indices):
            values[row] = value
        self.env.unwrapped.set_attr(attr_name, values)  # type: ignore[attr-defined]

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        results = self.env.unwrapped.call(method_name, *method_args, **method_kwargs)  # type: ignore[attr-defined]
        return [results[row] for row in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Say of each environment that it has no such wrapper: those of Gymnasium's vector stand around all."""
        return [False for _ in self._get_indices(indices)]
