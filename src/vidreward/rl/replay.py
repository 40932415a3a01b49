"""What off-policy agents learn from: whole episodes in, n-step batches out, every frame stored once.

Observations lie in a ring, episode after episode, an episode of T steps taking T + 1 rows; when the ring is full the
oldest episodes leave. Stacks of frames and n-step returns are made when a batch is drawn, so neither is stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from numpy import ndarray
from torch import Tensor

from vidreward.rl.agent import Batch


class Replay:
    """Episodes of experience, uniform over their transitions.

    Args:
        observation: Shape of each part of an observation that is kept: "state" (S,), "pixels" (3, H, W) of one frame.
        action_dim: Width of actions.
        capacity: Observations kept, the last one of each episode included.
        n_step: Steps of reward before the next observation; fewer at the end of an episode.
        discount: Per step.
        frame_stack: Frames in each observation of a batch, oldest first; the first is repeated at the start.
        max_bytes: Most memory (or disk, with `folder`) it may take.
        folder: Keep frames on disk, memory-mapped, in this folder instead of in memory.

    Raises:
        ValueError: `capacity` observations do not fit in `max_bytes`.
    """

    def __init__(
        self,
        *,
        observation: Mapping[str, tuple[int, ...]],
        action_dim: int,
        capacity: int,
        n_step: int = 1,
        discount: float = 0.99,
        frame_stack: int = 1,
        max_bytes: int | None = None,
        folder: Path | None = None,
    ) -> None:
        raise NotImplementedError

    def __len__(self) -> int:
        """Count the transitions that can be drawn."""
        raise NotImplementedError

    def add_episode(
        self,
        *,
        action: Float[ndarray, "T A"],
        reward: Float[ndarray, "T"],
        terminated: bool,
        pixels: UInt8[ndarray, "T+1 3 H W"] | None = None,
        state: Float[ndarray, "T+1 S"] | None = None,
        discount: Float[ndarray, "T"] | None = None,
        env_reward: Float[ndarray, "T"] | None = None,
    ) -> int:
        """Store a finished (or interrupted) episode, and let the oldest go when there is no room.

        Returns:
            The episode's number, counted from 0 over all ever added.
        """
        raise NotImplementedError

    def sample(self, batch_size: int, rng: np.random.Generator) -> Batch:
        """Draw transitions uniformly, with replacement."""
        raise NotImplementedError

    def batch(self, transitions: Int[ndarray, "B"]) -> Batch:
        """Gather transitions by number: 0 is the oldest kept, len(replay) - 1 the newest."""
        raise NotImplementedError

    def relabel(self, episode: int, reward: Float[ndarray, "T"]) -> None:
        """Replace the rewards of a stored episode."""
        raise NotImplementedError

    def save(self, folder: Path) -> dict[str, Tensor]:
        """Write the episodes that `folder` lacks, each once; return the rest of the state for the checkpoint.

        `folder` is shared by all checkpoints of a run; files in it never change.
        """
        raise NotImplementedError

    def restore(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        """Fill an empty replay from what `save` wrote and returned; batches drawn afterwards are identical."""
        raise NotImplementedError
