"""Keep what a checkpoint predicted of each video, so that an interrupted evaluation goes on where it was.

One JSON line a video, appended as soon as it is measured. Every line names the checkpoint (by its content, not its
path) and the video (by the content of its files and how frames are taken from them), so one file serves several
checkpoints and never lends the numbers of one to another.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from vidreward.data.episode_set import describe
from vidreward.data.sources import hash_file
from vidreward.files import write_bytes_atomic
from vidreward.types import Episode


def checkpoint_key(folder: Path, model_file: str | Path | None = None) -> str:
    """Identify a checkpoint by the content of its configuration and weights, and the code that runs it.

    Args:
        folder: The checkpoint, with config.json and model.safetensors.
        model_file: Python file of a model that is not part of vidreward.
    """
    parts = [hash_file(folder / name) for name in ("config.json", "model.safetensors")]
    code = None if model_file is None else hash_file(Path(model_file))
    return hashlib.sha256(json.dumps([version("vidreward"), *parts, code]).encode()).hexdigest()


def video_key(episode: Episode) -> str:
    """Identify an episode on disk by all that a model can see of it: files, sizes, rate, task, truth."""
    return hashlib.sha256(json.dumps(describe(episode)).encode()).hexdigest()


class VideoResults:
    """The predictions of one checkpoint, in a file that those of others may share.

    Args:
        path: The file; a line that a killed process left unfinished is cut off.
        checkpoint: Key of the checkpoint; lines of others are kept and never read.

    Raises:
        ValueError: A line in the file is not one of these.
    """

    def __init__(self, path: Path, checkpoint: str) -> None:
        self.path = path
        self.checkpoint = checkpoint
        self._predictions: dict[str, ndarray] = {}
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            write_bytes_atomic(path, whole)
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                row = json.loads(line)
                owner, video, predictions = row["checkpoint"], row["video"], row["predictions"]
                if owner == checkpoint:
                    self._predictions[video] = np.array(predictions, np.float32).astype(np.float64)
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise ValueError(
                    f"{path}, line {number} is damaged ({error}); delete that line, and its video is measured again"
                ) from error

    def find(self, video: str, num_frames: int) -> Float[ndarray, " T-1"] | None:
        """Return what was predicted of a video of this length; None when it was not measured yet."""
        found = self._predictions.get(video)
        return found if found is not None and found.shape == (num_frames - 1,) else None

    def append(self, row: Mapping[str, Any]) -> None:
        """Add the line of one video, with the checkpoint's key, in one write."""
        line = json.dumps({"checkpoint": self.checkpoint, **row}, allow_nan=False, separators=(",", ":")) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "ab", buffering=0) as file:
            file.write(line.encode())
