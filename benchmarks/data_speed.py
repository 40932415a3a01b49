"""Read frames: from the cache, by number, in one pass, and resized while they are decoded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from measure import Ratio, compare
from videos import LONG_GOP, make_video
from vidreward.data import build_cache, open_episodes
from vidreward.data.decode import iter_frames, probe, read_frames
from vidreward.data.pixels import FrameSpec
from vidreward.data.sampler import SampledFrames
from vidreward.rewards.hold_r import HoldR, HoldRConfig


def sampling(
    folder: Path,
    *,
    gop: int = LONG_GOP,
    source: tuple[int, int] = (480, 640),
    size: int = 64,
    num_videos: int = 4,
    num_frames: int = 100,
    batch_size: int = 16,
    num_repetitions: int = 3,
) -> Ratio:
    """Draw HOLD-R's batches (pairs of frames) from the cache against decoding those frames by number."""
    videos = folder / f"key_every_{gop}"
    for number in range(num_videos):
        make_video(videos, num_frames=num_frames, height=source[0], width=source[1], gop=gop, seed=number)
    on_disk = open_episodes(videos, size=size)
    cached = build_cache(on_disk, folder / "cache")
    model = HoldR(HoldRConfig(), mean_fps=30)
    from_disk, from_cache = (SampledFrames(episodes, model, batch_size, seed=0) for episodes in (on_disk, cached))

    def draw(sampler: SampledFrames, num_batches: int) -> int:
        return sum(video.length.sum().item() for k in range(num_batches) for video in sampler.batch(k).videos.values())

    return compare(
        f"sample batches at {size} px from the cache, against decoding by number (key frame every {gop})",
        ("by number", lambda: draw(from_disk, 1)),
        ("cache", lambda: draw(from_cache, 50)),
        unit="frames",
        target=10.0,
        num_repetitions=num_repetitions,
    )


def one_pass(
    folder: Path,
    *,
    gop: int = LONG_GOP,
    source: tuple[int, int] = (480, 640),
    size: int = 64,
    num_frames: int = 300,
    num_reads: int = 8,
    num_repetitions: int = 3,
) -> Ratio:
    """Decode a file in one pass against asking for one frame after another in random order."""
    path = make_video(folder, num_frames=num_frames, height=source[0], width=source[1], gop=gop)
    spec, video = FrameSpec(size=(size, size)), probe(path)
    wanted = np.random.default_rng(0).integers(0, num_frames, num_reads).tolist()
    return compare(
        f"decode in one pass, against single frames in random order (key frame every {gop})",
        ("random", lambda: sum(len(read_frames(path, [number], spec, video=video)) for number in wanted)),
        ("one pass", lambda: sum(1 for _ in iter_frames(path, spec, video=video))),
        unit="frames",
        target=None,
        num_repetitions=num_repetitions,
    )


def resizing(
    folder: Path,
    *,
    by: str,
    source: tuple[int, int] = (480, 640),
    size: int = 64,
    num_frames: int = 300,
    num_repetitions: int = 3,
) -> Ratio:
    """Resize while decoding against decoding at full size and resizing after (`by`: "PIL" or "torch")."""
    path = make_video(folder, num_frames=num_frames, height=source[0], width=source[1])
    video = probe(path)

    def after() -> int:
        num_done = 0
        for frame in iter_frames(path, video=video):
            if by == "PIL":
                image = Image.fromarray(frame.transpose(1, 2, 0)).resize((size, size), Image.Resampling.BILINEAR)
                np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
            else:
                F.interpolate(torch.from_numpy(frame)[None], (size, size), mode="bilinear", antialias=True)
            num_done += 1
        return num_done

    return compare(
        f"decode and resize to {size} px in one step, against {by} after decoding",
        (by, after),
        ("one step", lambda: sum(1 for _ in iter_frames(path, FrameSpec(size=(size, size)), video=video))),
        unit="frames",
        target=None,
        num_repetitions=num_repetitions,
    )
