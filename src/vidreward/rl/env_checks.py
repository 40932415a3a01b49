"""What a vector environment must be for a video reward to pay it, checked before the first step."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from vidreward.rl.reward import LoadedTerm


def autoreset_mode(env: gymnasium.vector.VectorEnv[Any, Any, Any]) -> AutoresetMode:
    """Return when the environment resets by itself, refusing what hides where an episode ends."""
    mode = env.metadata.get("autoreset_mode")
    if mode is None:
        raise ValueError(
            "the environment does not say how it resets (metadata['autoreset_mode']), so the last frame of an episode "
            "cannot be told from the first of the next; use Gymnasium's SyncVectorEnv or AsyncVectorEnv"
        )
    if AutoresetMode(mode) == AutoresetMode.DISABLED:
        raise ValueError(
            "with autoreset DISABLED the caller resets single environments, which a wrapper below cannot be sure to "
            "see; make the environment with autoreset_mode SAME_STEP or NEXT_STEP"
        )
    return AutoresetMode(mode)


def channels_last(env: gymnasium.vector.VectorEnv[Any, Any, Any]) -> bool:
    """Check that the observation has pictures, and say in which layout."""
    space = env.single_observation_space
    pixels = space.spaces.get("pixels") if isinstance(space, spaces.Dict) else None
    if not isinstance(pixels, spaces.Box) or pixels.dtype != np.uint8 or len(pixels.shape) != 3:
        raise ValueError(
            f"a video reward looks at observation['pixels'], uint8 RGB (3, H, W) or (H, W, 3), and the observation is "
            f"{space}; make it with vidreward.envs.make_env, or wrap each environment in "
            "gymnasium.wrappers.AddRenderObservation(env, render_only=False)"
        )
    if 3 not in (pixels.shape[0], pixels.shape[2]):
        raise ValueError(f"observation['pixels'] must be RGB, (3, H, W) or (H, W, 3); got {pixels.shape}")
    return pixels.shape[0] != 3


def control_rate(env: gymnasium.vector.VectorEnv[Any, Any, Any], terms: Sequence[LoadedTerm]) -> float:
    """Return the environment's frames per second, warning where it is not what a model was trained at."""
    rate = env.metadata.get("render_fps")
    for term in terms:
        trained = term.model.counts_frames_at if term.data is None else term.data.fps
        if rate is not None and trained is not None and abs(rate / trained - 1) > 0.1:
            warnings.warn(
                f"the environment makes {rate:g} frames a second and {term.name} was trained at {trained:g}; times and "
                "motions look different to it",
                stacklevel=3,
            )
    if rate is not None:
        return float(rate)
    return next((term.data.fps for term in terms if term.data is not None), 10.0)


def check_models(
    env: gymnasium.vector.VectorEnv[Any, Any, Any], terms: Sequence[LoadedTerm], size: tuple[int, int], any_camera: bool
) -> None:
    """Check that the pictures and the rest of the observation are what the models were trained on."""
    camera = env.metadata.get("camera")
    singles = getattr(env.unwrapped, "envs", ())
    if camera is None and singles:  # a process cannot be asked: what it lacks ends it
        camera = getattr(singles[0].unwrapped, "camera", None)
    assert isinstance(env.single_observation_space, spaces.Dict)
    for term in terms:
        trained_on = term.model.frame_size
        if trained_on is not None and trained_on != size:
            raise ValueError(
                f"the environment's pictures are {size[0]}x{size[1]} and {term.name} was trained on "
                f"{trained_on[0]}x{trained_on[1]}; make the environment at that size, or train at this one"
            )
        if term.model.inputs.state and "state" not in env.single_observation_space.spaces:
            raise ValueError(f"{term.name} reads the robot's state, and the observation has no 'state'")
        if term.model.inputs.goal == "state":
            raise ValueError(f"{term.name} needs a goal state, which VideoReward cannot give; label episodes instead")
        cameras = () if term.data is None else term.data.cameras
        trained = next(iter(cameras), "default")  # the first is the one that was looked at
        if camera is not None and trained not in ("default", camera) and not any_camera:
            raise ValueError(
                f"the environment's camera is {camera!r} and {term.name} was trained on {trained!r}; make the "
                "environment with that camera, or give VideoReward(..., any_camera=True)"
            )
