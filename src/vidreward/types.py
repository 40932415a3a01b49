"""The data that every part of vidreward speaks in: frames, episodes, batches of video.

Shape letters, the same in the whole repository:
    B batch, T time, G goal frames, H W pixels, D embedding, S robot state, A action, N environments.

Frames are uint8 RGB, 0-255, channels first, oldest first. Only encoders convert them to float.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy import ndarray
from torch import Tensor

Goal = Literal["none", "image", "video", "state"]


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a reward model reads to score a frame, besides that frame."""

    context: int | None = 1
    """Frames looked at, the scored one included; None: all since the episode began."""
    goal: Goal = "none"
    """Goal the model needs; "video" is a demonstration."""
    text: bool = False
    """Whether the model reads an instruction."""
    state: bool = False
    """Whether the model reads the robot's state."""


@dataclass(frozen=True, kw_only=True)
class Pick:
    """Frames that `LearnedRewardModel.sample` asks for, by name, from one episode."""

    index: Sequence[int]
    """Frame numbers, in the order wanted; repeats are allowed."""
    camera: str | None = None
    """Camera to read; None is the episode's first."""
    pixels: bool = True
    """Whether pixels are needed, or only index and labels."""


@dataclass(frozen=True, kw_only=True)
class EpisodeInfo:
    """Everything known about an episode before a frame is decoded."""

    id: str
    """Unique in its data set, stable between runs."""
    num_frames: int
    fps: float
    task: str | None = None
    cameras: tuple[str, ...] = ("default",)
    success: bool | None = None
    """Outcome; None where nobody recorded it."""
    metadata: Mapping[str, object] = field(default_factory=dict)
    """Every other column of the data set's metadata file."""


class FrameSource(Protocol):
    """Where an episode's pixels come from: a video file, a folder of images, a cache, memory."""

    def read(self, indices: Sequence[int], camera: str) -> UInt8[ndarray, "T 3 H W"]: ...
    def iterate(self, camera: str) -> Iterator[UInt8[ndarray, "3 H W"]]: ...


@dataclass(frozen=True)
class ArraySource:
    """Frames held in memory (or memory-mapped), one array a camera."""

    arrays: Mapping[str, UInt8[ndarray, "T 3 H W"]]

    def read(self, indices: Sequence[int], camera: str) -> UInt8[ndarray, "T 3 H W"]:
        return np.ascontiguousarray(self.arrays[camera][np.asarray(indices, dtype=np.int64)])

    def iterate(self, camera: str) -> Iterator[UInt8[ndarray, "3 H W"]]:
        yield from self.arrays[camera]


class Episode:
    """Read one recorded episode lazily; the same class holds an episode of reinforcement learning in memory.

    Args:
        info: Identity, length, rate, cameras, outcome.
        source: Where the pixels come from.
        columns: Per-frame truth by name, each with `num_frames` rows (progress, stage, state, action, reward).
        goal: Goal frames (G, 3, H, W), or a function that reads them; None: the last frame is the goal.

    Example:
        >>> import numpy as np
        >>> episode = Episode.from_frames(np.zeros((5, 3, 8, 8), np.uint8), id="a", fps=10)
        >>> episode.frames([0, 4]).shape, episode.goal().shape
        ((2, 3, 8, 8), (1, 3, 8, 8))
    """

    def __init__(
        self,
        info: EpisodeInfo,
        source: FrameSource,
        *,
        columns: Mapping[str, ndarray] | None = None,
        goal: UInt8[ndarray, "G 3 H W"] | Callable[[], UInt8[ndarray, "G 3 H W"]] | None = None,
    ) -> None:
        self.info = info
        self.source = source
        self.columns = dict(columns or {})
        self._goal = goal
        for name, values in self.columns.items():
            if len(values) != info.num_frames:
                raise ValueError(
                    f"episode {info.id!r}: column {name!r} has {len(values)} rows for {info.num_frames} frames; "
                    "give one row a frame"
                )

    @classmethod
    def from_frames(
        cls,
        frames: UInt8[ndarray, "T 3 H W"],
        *,
        id: str,
        fps: float,
        task: str | None = None,
        success: bool | None = None,
        columns: Mapping[str, ndarray] | None = None,
        goal: UInt8[ndarray, "G 3 H W"] | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> Episode:
        """Make an episode of one camera from frames in memory.

        Raises:
            ValueError: The frames are not uint8 (T, 3, H, W) with T >= 1.
        """
        check_frames(frames, f"episode {id!r}")
        info = EpisodeInfo(
            id=id, num_frames=len(frames), fps=fps, task=task, success=success, metadata=dict(metadata or {})
        )
        return cls(info, ArraySource({"default": frames}), columns=columns, goal=goal)

    @property
    def id(self) -> str:
        return self.info.id

    @property
    def task(self) -> str | None:
        return self.info.task

    @property
    def num_frames(self) -> int:
        return self.info.num_frames

    @property
    def fps(self) -> float:
        return self.info.fps

    @property
    def cameras(self) -> tuple[str, ...]:
        return self.info.cameras

    @property
    def success(self) -> bool | None:
        return self.info.success

    @property
    def has_goal(self) -> bool:
        """Whether a goal was given, so that `goal()` is not just the last frame."""
        return self._goal is not None

    def frames(self, indices: Sequence[int], camera: str | None = None) -> UInt8[ndarray, "T 3 H W"]:
        """Read frames by number.

        Args:
            indices: Frame numbers in 0..num_frames-1, in the order wanted; repeats are allowed.
            camera: One of `cameras`; None is the first.

        Raises:
            IndexError: A number is outside the episode.
            ValueError: The camera does not exist.
        """
        camera = self._camera(camera)
        if len(indices) and not (0 <= min(indices) and max(indices) < self.num_frames):
            raise IndexError(f"episode {self.id!r} has frames 0..{self.num_frames - 1}; asked for {list(indices)}")
        return self.source.read(indices, camera)

    def iterate(self, camera: str | None = None) -> Iterator[UInt8[ndarray, "3 H W"]]:
        """Read every frame in order, each once, holding one at a time; a long video is decoded in one pass.

        Raises:
            ValueError: The camera does not exist.
        """
        return self.source.iterate(self._camera(camera))

    def _camera(self, camera: str | None) -> str:
        if camera is not None and camera not in self.cameras:
            raise ValueError(f"episode {self.id!r} has no camera {camera!r}; it has {', '.join(self.cameras)}")
        return self.cameras[0] if camera is None else camera

    def all_frames(self, camera: str | None = None) -> UInt8[ndarray, "T 3 H W"]:
        """Read every frame in one sequential pass."""
        return self.frames(range(self.num_frames), camera)

    def goal(self) -> UInt8[ndarray, "G 3 H W"]:
        """Return the given goal frames, else the last frame of the first camera."""
        if self._goal is None:
            return self.frames([self.num_frames - 1])
        return self._goal() if callable(self._goal) else self._goal

    def column(self, name: str) -> ndarray | None:
        """Return per-frame truth (num_frames, ...) by name, or None where it was not recorded."""
        return self.columns.get(name)

    def with_goal(self, goal: UInt8[ndarray, "G 3 H W"]) -> Episode:
        """Return the same episode with another goal."""
        return Episode(self.info, self.source, columns=self.columns, goal=goal)


@dataclass(frozen=True)
class Video:
    """A batch of frame sequences: the one thing reward models read, in training and in scoring.

    Rows are padded to T by repeating their last frame; `length` says how many frames are real.
    """

    frames: UInt8[Tensor, "B T 3 H W"]
    index: Int[Tensor, "B T"]
    """Frame numbers in the episode."""
    length: Int[Tensor, "B"]
    """Frames that are real, from the front."""
    fps: Float[Tensor, "B"]
    goal: UInt8[Tensor, "B G 3 H W"] | None = None
    goal_state: Float[Tensor, "B S"] | None = None
    text: tuple[str, ...] | None = None
    state: Float[Tensor, "B T S"] | None = None
    action: Float[Tensor, "B T A"] | None = None
    labels: Mapping[str, Tensor] = field(default_factory=dict)
    """Named truth, (B, T) a frame or (B,) an episode: progress, success, stage."""

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Video:
        """Move every tensor to a device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Video:
        """Copy every tensor to memory that a GPU can read by itself."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Video:
        def optional(value: Tensor | None) -> Tensor | None:
            return None if value is None else change(value)

        return replace(
            self,
            frames=change(self.frames),
            index=change(self.index),
            length=change(self.length),
            fps=change(self.fps),
            goal=optional(self.goal),
            goal_state=optional(self.goal_state),
            state=optional(self.state),
            action=optional(self.action),
            labels={name: change(value) for name, value in self.labels.items()},
        )

    @classmethod
    def from_frames(
        cls, frames: UInt8[Tensor, "B T 3 H W"], *, fps: float = 10.0, goal: UInt8[Tensor, "B G 3 H W"] | None = None
    ) -> Video:
        """Wrap plain frames as a batch of whole episodes, numbered from 0."""
        num_rows, num_frames = frames.shape[:2]
        return cls(
            frames=frames,
            index=torch.arange(num_frames, device=frames.device).expand(num_rows, num_frames),
            length=torch.full((num_rows,), num_frames, device=frames.device),
            fps=torch.full((num_rows,), float(fps), device=frames.device),
            goal=goal,
        )


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """What a model must know of the data to size its networks."""

    height: int
    width: int
    fps: float
    """Mean frame rate of the training episodes."""
    cameras: tuple[str, ...] = ("default",)
    tasks: tuple[str, ...] = ()
    state_dim: int = 0
    action_dim: int = 0


def check_frames(frames: ndarray, where: str) -> None:
    """Refuse anything but uint8 (T, 3, H, W) with at least one frame, naming what was given."""
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1] != 3:
        kind = f"{frames.dtype} {frames.shape}" if isinstance(frames, np.ndarray) else type(frames).__name__
        raise ValueError(f"{where}: frames must be a uint8 array (T, 3, H, W), RGB 0-255; got {kind}")
    if len(frames) == 0:
        raise ValueError(f"{where}: no frames; an episode needs at least one")
