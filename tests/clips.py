"""Folders of tiny videos for the tests of the command line."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy import ndarray

from dots import dot_frames
from vidreward.data.encode import write_video


def write_clips(folder: Path, num: int = 6, *, seed: int = 0, num_frames: int = 12) -> Path:
    """Write dots that cross a picture of 32 pixels."""
    rng = np.random.default_rng(seed)
    for i in range(num):
        write_video(folder / f"clip{i}.mp4", dot_frames(num_frames, rng), 10)
    return folder


def write_outcomes(folder: Path, *, seed: int = 1, num_frames: int = 12) -> Path:
    """Write three successes and three failures, whose dot turns round half-way, with their truth."""
    rng = np.random.default_rng(seed)
    rows = ["file_name,task,success,failure"]
    truth: dict[str, list[object]] = {"episode": [], "frame": [], "progress": []}
    for i in range(6):
        success = i < 3
        frames, progress = dot_frames(num_frames, rng), np.linspace(0, 1, num_frames)
        if not success:
            order = [*range(num_frames // 2), *reversed(range(num_frames // 2))]
            frames, progress = frames[order], progress[order]
        write_video(folder / f"clip{i}.mp4", frames, 10)
        rows.append(f"clip{i}.mp4,cross,{str(success).lower()},{'' if success else 'turns round'}")
        truth["episode"] += [f"clip{i}.mp4"] * num_frames
        truth["frame"] += list(range(num_frames))
        truth["progress"] += progress.tolist()
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n")
    pa.parquet.write_table(pa.table(truth), folder / "frames.parquet")
    return folder


def write_picture(path: Path, frame: ndarray) -> Path:
    """Write a frame (3, H, W) as a png."""
    import cv2

    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), frame[::-1].transpose(1, 2, 0))
    return path


def write_something(folder: Path, num: int = 8) -> Path:
    """Write webm files of mixed sizes and rates with Something-Something v2's lists, three of them broken."""
    rng = np.random.default_rng(2)
    entries: dict[str, list[dict[str, object]]] = {"train": [], "validation": []}
    sizes, rates = [(32, 56), (32, 42), (48, 32)], [12, 24, 30]
    for i in range(num):
        height, width = sizes[i % 3]
        square = dot_frames(12, rng, max(height, width))
        write_video(folder / f"{1000 + i}.webm", square[:, :, :height, :width], rates[i % 3], codec="libvpx-vp9")
        task = "Moving [something] right" if i % 2 else "Pushing [something]"
        entry = {"id": str(1000 + i), "template": task, "label": task.lower(), "placeholders": ["a dot"]}
        entries["validation" if i % 4 == 3 else "train"].append(entry)
    whole = (folder / "1000.webm").read_bytes()
    for name, content in {"2000": b"", "2001": b"not a video at all" * 20, "2002": whole[: len(whole) // 3]}.items():
        (folder / f"{name}.webm").write_bytes(content)
        entries["train"].append({"id": name, "template": "Pushing [something]", "label": "pushing", "placeholders": []})
    for split, rows in entries.items():
        (folder / f"something-something-v2-{split}.json").write_text(json.dumps(rows))
    return folder


def break_frame(path: Path, number: int) -> Path:
    """Overwrite the packet of one frame, so that a file opens and cannot be decoded from that frame on."""
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][number]
        assert packet.pos is not None
    data = bytearray(path.read_bytes())
    start = data.index(bytes(packet), packet.pos)
    data[start : start + packet.size] = bytes(packet.size)  # zeros: no codec's frame begins so
    path.write_bytes(data)
    return path
