"""What off-policy agents learn from: whole episodes in, n-step batches out, every frame stored once.

Observations lie in a ring, episode after episode, an episode of T steps taking T + 1 rows; when the ring is full the
oldest episodes leave. Stacks of frames and n-step returns are made when a batch is drawn, so neither is stored.
"""

from __future__ import annotations

import os
import shutil
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy import ndarray
from torch import Tensor

from vidreward.rl.agent import Batch
from vidreward.rl.replay_files import Columns, Segment, read_segment, remove_segments, write_segment

SEGMENT_BYTES = 256 * 2**20
"""Most that is written to one file, so that saving and restoring need little memory."""


@dataclass(frozen=True)
class _Stored:
    """Where an episode lies: `num_steps` + 1 rows of the ring, from `first_row`, perhaps over its end."""

    number: int
    first_row: int
    num_steps: int


class Replay:
    """Episodes of experience, uniform over their transitions.

    Every transition can be drawn; near the end of an episode, returns have as many steps as are left.

    Args:
        observation: Shape of each part of an observation that is kept: "state" (S,), "pixels" (3, H, W) of one frame.
        action_dim: Width of actions.
        capacity: Transitions kept; fewer where episodes are shorter than 16 steps.
        n_step: Steps of reward before the next observation.
        discount: Per step.
        frame_stack: Frames in each observation of a batch, oldest first; the first is repeated at the start.
        max_bytes: Most that it may take, in memory or, with `folder`, on disk; None: what the machine has.
        folder: Keep frames on disk, memory-mapped, in this folder instead of in memory.

    Raises:
        ValueError: A setting makes no sense, or `capacity` transitions do not fit.

    Example:
        >>> replay = Replay(observation={"state": (2,)}, action_dim=1, capacity=100, n_step=3)
        >>> states, zeros = np.arange(10, dtype=np.float32).reshape(5, 2), np.zeros((4, 1), np.float32)
        >>> replay.add_episode(state=states, action=zeros, reward=np.ones(4), terminated=False)
        0
        >>> batch = replay.sample(32, np.random.default_rng(0))
        >>> batch.observation["state"].shape, round(float(batch.reward.max()), 4)
        (torch.Size([32, 2]), 2.9701)
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
        for name, value in (("capacity", capacity), ("n_step", n_step), ("frame_stack", frame_stack)):
            if value < 1:
                raise ValueError(f"{name} of a replay must be at least 1; got {value}")
        if not observation or not set(observation) <= {"state", "pixels"}:
            raise ValueError(f"a replay keeps 'state', 'pixels' or both; got {sorted(observation)}")
        self.capacity = capacity
        self.n_step = n_step
        self.discount = discount
        self.frame_stack = frame_stack
        self.num_rows = capacity + capacity // 16 + 1
        types = {
            **{name: (shape, np.uint8 if name == "pixels" else np.float32) for name, shape in observation.items()},
            "action": ((action_dim,), np.float32),
            **dict.fromkeys(("reward", "env_reward", "step_discount"), ((), np.float32)),
            **dict.fromkeys(("age", "left"), ((), np.int32)),
        }
        sizes = {name: self.num_rows * int(np.prod(shape)) * kind().itemsize for name, (shape, kind) in types.items()}
        self.num_bytes = sum(sizes.values())
        self._check_room(sizes, max_bytes, folder)
        self._observation = tuple(observation)
        self._rows: dict[str, ndarray] = {}
        for name, (shape, kind) in types.items():
            if name == "pixels" and folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
                where = folder / "pixels.npy"
                self._rows[name] = np.lib.format.open_memmap(
                    where, mode="w+", dtype=kind, shape=(self.num_rows, *shape)
                )
            else:
                self._rows[name] = np.zeros((self.num_rows, *shape), kind)
        self._row_of = np.zeros(capacity, np.int64)
        self._first = 0
        self._num_transitions = 0
        self._episodes: deque[_Stored] = deque()
        self._num_added = 0
        self._segments: list[Segment] = []

    def __len__(self) -> int:
        """Count the transitions that can be drawn."""
        return self._num_transitions

    @property
    def episodes(self) -> range:
        """Numbers of the episodes kept, oldest first."""
        return range(self._num_added - len(self._episodes), self._num_added)

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
        """Store a finished or interrupted episode, and let the oldest go when there is no room.

        Args:
            action: Taken at each step, in -1..1.
            reward: Paid for each step.
            terminated: Whether nothing follows the last observation; False where time ran out.
            pixels: Frames, when the replay keeps them.
            state: States, when the replay keeps them.
            discount: The environment's own of each step, as dm_control has it; None is 1.
            env_reward: Kept beside `reward`, for whoever labels the episode again.

        Returns:
            The episode's number, counted from 0 over all ever added.

        Raises:
            ValueError: Shapes do not fit, a number is not finite, or the episode is longer than the replay.
        """
        num_steps = len(action)
        steps = np.ones(num_steps, np.float32) if discount is None else np.array(discount, np.float32)
        if terminated and len(steps):
            steps[-1] = 0
        columns: Columns = {
            "action": action,
            "reward": reward,
            "env_reward": np.zeros(num_steps, np.float32) if env_reward is None else env_reward,
            "step_discount": steps,
        }
        columns |= {name: value for name, value in (("pixels", pixels), ("state", state)) if value is not None}
        self._check_episode(columns, num_steps)
        number = self._num_added
        self._num_added += 1
        self._write(number, columns, num_steps)
        return number

    def sample(self, batch_size: int, rng: np.random.Generator) -> Batch:
        """Draw transitions uniformly, with replacement.

        Raises:
            ValueError: There are none yet.
        """
        if not self._num_transitions:
            raise ValueError("the replay is empty; add episodes before sampling")
        return self.batch(rng.integers(self._num_transitions, size=batch_size))

    def batch(self, transitions: Int[ndarray, "B"]) -> Batch:
        """Gather transitions by number: 0 is the oldest kept, len(replay) - 1 the newest.

        Raises:
            IndexError: A number is outside.
        """
        if len(transitions) and not 0 <= transitions.min() <= transitions.max() < self._num_transitions:
            raise IndexError(f"the replay has transitions 0..{self._num_transitions - 1}; got {transitions}")
        rows = self._row_of[(self._first + transitions) % self.capacity]
        left = self._rows["left"][rows]
        reward = np.zeros(len(rows), np.float32)
        discount = np.ones(len(rows), np.float32)
        for step in range(self.n_step):
            at = (rows + step) % self.num_rows
            inside = left > step
            reward += np.where(inside, discount * self._rows["reward"][at], np.float32(0))
            decay = np.float32(self.discount) * self._rows["step_discount"][at]
            discount *= np.where(inside, decay, np.float32(1))
        next_rows = (rows + np.minimum(left, self.n_step)) % self.num_rows
        return Batch(
            self._observe(rows),
            torch.from_numpy(self._rows["action"][rows]),
            torch.from_numpy(reward),
            torch.from_numpy(discount),
            self._observe(next_rows),
        )

    def episode(self, number: int) -> dict[str, ndarray]:
        """Copy a stored episode of T steps, to look at it or to label it again.

        Returns:
            "pixels" and "state" (T+1, ...) where kept; "action", "reward", "env_reward", "step_discount" (T, ...), the
            last 0 at the end of a terminated episode.

        Raises:
            IndexError: It has left, or never was.
        """
        return self._read(self._find(number))

    def relabel(self, number: int, reward: Float[ndarray, "T"]) -> None:
        """Replace the rewards of a stored episode.

        Raises:
            IndexError: It has left, or never was.
            ValueError: There is not one finite number a step.
        """
        stored = self._find(number)
        reward = np.asarray(reward)
        if reward.shape != (stored.num_steps,) or not np.isfinite(reward).all():
            raise ValueError(
                f"episode {number} has {stored.num_steps} steps; give as many finite rewards (got {reward.shape})"
            )
        self._rows["reward"][self._places(stored)[:-1]] = reward

    def save(self, folder: Path) -> dict[str, Tensor]:
        """Write the episodes that `folder` lacks, each once; return the rest of the state for the checkpoint.

        Files in `folder` never change, so all checkpoints of a run share it; `remove_unused` cleans it up.
        """
        folder.mkdir(parents=True, exist_ok=True)
        kept = self.episodes
        self._segments = [s for s in self._segments if s.last >= kept.start and (folder / s.name).is_file()]
        first = self._segments[-1].last + 1 if self._segments else kept.start
        waiting = [stored for stored in self._episodes if stored.number >= first]
        for group in self._groups(waiting):
            columns = [{k: v for k, v in self._read(stored).items() if k != "reward"} for stored in group]
            self._segments.append(write_segment(folder, group[0].number, columns))
        rewards = [self._rows["reward"][self._places(stored)[:-1]] for stored in self._episodes]
        return {
            "num_added": torch.tensor(self._num_added),
            "num_steps": torch.tensor([stored.num_steps for stored in self._episodes], dtype=torch.int64),
            "reward": torch.from_numpy(np.concatenate([np.zeros(0, np.float32), *rewards])),
            "segments": torch.tensor([(s.first, s.last, s.checksum) for s in self._segments]).reshape(-1, 3),
        }

    def restore(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        """Fill an empty replay from what `save` wrote and returned; batches drawn afterwards are identical.

        Raises:
            ValueError: The replay is not empty, a file is missing or damaged, or it is of another kind of replay.
        """
        if self._num_added:
            raise ValueError("only an empty replay can be restored; make a new one")
        missing = {"num_added", "num_steps", "reward", "segments"} - set(state)
        if missing:
            raise ValueError(
                f"the replay's state lacks {', '.join(sorted(missing))}; use another checkpoint of the run"
            )
        lengths = state["num_steps"].tolist()
        first = int(state["num_added"]) - len(lengths)
        if sum(lengths) > self.capacity or len(state["reward"]) != sum(lengths):
            raise ValueError(
                f"{folder}: {sum(lengths)} transitions were saved, with {len(state['reward'])} rewards; the replay has "
                f"room for {self.capacity}; restore with the settings of the run"
            )
        rewards = dict(zip(range(first, first + len(lengths)), state["reward"].split(lengths), strict=True))
        self._segments = [Segment(*row) for row in state["segments"].tolist()]
        for segment in self._segments:
            for number, columns in read_segment(folder, segment):
                if number in rewards:
                    columns["reward"] = rewards[number].numpy()
                    num_steps = len(columns["action"])
                    self._check_episode(columns, num_steps)
                    self._write(number, columns, num_steps)
        self._num_added = int(state["num_added"])
        if [stored.num_steps for stored in self._episodes] != lengths:
            raise ValueError(f"{folder} lacks episodes of the checkpoint; use another checkpoint of the run")

    @staticmethod
    def remove_unused(folder: Path, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Delete the files that none of the checkpoints (what `save` returned) needs."""
        used = {Segment(*row).name for state in states for row in state["segments"].tolist()}
        remove_segments(folder, keep=used)

    def _check_room(self, sizes: Mapping[str, int], max_bytes: int | None, folder: Path | None) -> None:
        """Refuse a capacity that would only fail when the replay is nearly full."""
        needed = sum(sizes.values())
        if max_bytes is not None and needed > max_bytes:
            raise ValueError(
                f"{self.capacity} transitions need {needed / 1e9:.2f} GB, the limit is {max_bytes / 1e9:.2f} GB; lower "
                "the capacity or the picture size, or raise the limit"
            )
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        in_memory = needed if folder is None else needed - sizes.get("pixels", 0)
        if in_memory > memory:
            raise ValueError(
                f"{self.capacity} transitions need {in_memory / 1e9:.1f} GB of memory, the machine has "
                f"{memory / 1e9:.1f} GB; lower the capacity, or keep frames on disk (folder=)"
            )
        if folder is not None:
            parent = next(p for p in (folder, *folder.absolute().parents) if p.exists())
            free = shutil.disk_usage(parent).free
            if sizes.get("pixels", 0) > free:
                raise ValueError(
                    f"{self.capacity} transitions need {sizes['pixels'] / 1e9:.1f} GB in {folder}, {free / 1e9:.1f} GB "
                    "are free; lower the capacity or choose another disk"
                )

    def _check_episode(self, columns: Columns, num_steps: int) -> None:
        """Refuse an episode that does not fit, before anything of it is stored."""
        if not 1 <= num_steps <= min(self.capacity, self.num_rows - 1):
            raise ValueError(f"an episode of {num_steps} steps does not fit a replay of {self.capacity} transitions")
        wanted = {*self._observation, "action", "reward", "env_reward", "step_discount"}
        if set(columns) != wanted:
            raise ValueError(f"this replay keeps {sorted(wanted)}; the episode has {sorted(columns)}")
        for name, values in columns.items():
            kept = self._rows[name]
            shape = (num_steps + (name in self._observation), *kept.shape[1:])
            if np.shape(values) != shape or (name == "pixels" and values.dtype != np.uint8):
                raise ValueError(
                    f"{name} of an episode of {num_steps} steps must be {kept.dtype} {shape}; got "
                    f"{np.asarray(values).dtype} {np.shape(values)}"
                )
            if name != "pixels" and not np.isfinite(values).all():
                raise ValueError(f"{name} of the episode holds numbers that are not finite; correct what made them")

    def _write(self, number: int, columns: Columns, num_steps: int) -> None:
        """Put an episode behind the newest; oldest ones leave until it fits."""
        while self._episodes and (
            self._num_transitions + num_steps > self.capacity
            or self._num_transitions + len(self._episodes) + num_steps + 1 > self.num_rows
        ):
            oldest = self._episodes.popleft()
            self._first += oldest.num_steps
            self._num_transitions -= oldest.num_steps
        newest = self._episodes[-1] if self._episodes else None
        first_row = 0 if newest is None else (newest.first_row + newest.num_steps + 1) % self.num_rows
        stored = _Stored(number, first_row, num_steps)
        places = self._places(stored)
        for name, values in columns.items():
            self._rows[name][places[: len(values)]] = values
        self._rows["age"][places] = np.arange(num_steps + 1)
        self._rows["left"][places] = np.arange(num_steps, -1, -1)
        end = self._first + self._num_transitions
        self._row_of[np.arange(end, end + num_steps) % self.capacity] = places[:-1]
        self._num_transitions += num_steps
        self._episodes.append(stored)

    def _observe(self, rows: Int[ndarray, "B"]) -> dict[str, Tensor]:
        """Gather observations, frames stacked in their channels."""
        found = {}
        for name in self._observation:
            kept = torch.from_numpy(self._rows[name])
            if name == "state" or self.frame_stack == 1:
                found[name] = kept.index_select(0, torch.from_numpy(rows))
            else:
                back = np.minimum(np.arange(self.frame_stack - 1, -1, -1), self._rows["age"][rows][:, None])
                stacked = kept.index_select(0, torch.from_numpy(((rows[:, None] - back) % self.num_rows).ravel()))
                found[name] = stacked.view(len(rows), -1, *kept.shape[2:])
        return found

    def _find(self, number: int) -> _Stored:
        if number not in self.episodes:
            raise IndexError(f"the replay keeps episodes {self.episodes}; asked for {number}")
        return self._episodes[number - self.episodes.start]

    def _places(self, stored: _Stored) -> Int[ndarray, "T+1"]:
        return (stored.first_row + np.arange(stored.num_steps + 1)) % self.num_rows

    def _read(self, stored: _Stored) -> Columns:
        places = self._places(stored)
        return {
            name: values[places if name in self._observation else places[:-1]]
            for name, values in self._rows.items()
            if name not in ("age", "left")
        }

    def _groups(self, episodes: Sequence[_Stored]) -> Iterator[list[_Stored]]:
        """Cut episodes into groups of bounded size, at least one in each."""
        row_bytes = self.num_bytes // self.num_rows
        group: list[_Stored] = []
        for stored in episodes:
            if group and sum(s.num_steps + 1 for s in [*group, stored]) * row_bytes > SEGMENT_BYTES:
                yield group
                group = []
            group.append(stored)
        if group:
            yield group
