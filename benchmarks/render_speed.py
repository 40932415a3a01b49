"""Draw Meta-World: our fast pictures against MuJoCo's usual ones."""

from __future__ import annotations

from contextlib import closing

import numpy as np

from measure import Ratio, compare
from vidreward.envs.metaworld import MetaWorld

TASK = "drawer-open-v3"


def rendering(*, size: int, num_full: int = 6, num_fast: int = 60, num_repetitions: int = 5) -> Ratio:
    """Step and draw an environment, the same task and camera, against "full": what Meta-World's own `render` draws.

    That is shadows, reflections, four samples a pixel and every triangle of the robot's meshes
    (`tests/test_metaworld.py` checks that "full" is the same picture).
    """
    full, fast = (MetaWorld(TASK, size=size, render=quality, goals=False) for quality in ("full", "fast"))

    def run(env: MetaWorld, num_frames: int) -> int:
        for _ in range(num_frames):
            *_, truncated, _ = env.step(np.zeros(4))
            if truncated:
                env.reset(options={"layout": 0})
        return num_frames

    with closing(full), closing(fast):
        for env in (full, fast):
            env.reset(options={"layout": 0})
        return compare(
            f"step and draw Meta-World at {size} px, against its own renderer",
            ("full", lambda: run(full, num_full)),
            ("fast", lambda: run(fast, num_fast)),
            unit="frames",
            target=8.0,
            num_repetitions=num_repetitions,
        )
