"""Score a video file: against a loop over single frames, and against what decoder and network allow."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import av
import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from PIL import Image
from torch import Tensor, nn

from measure import Ratio, compare, measure_rates, summarize
from networks import PlainNetwork
from videos import make_video
from vidreward.data import open_episodes
from vidreward.rewards.hold_c import HoldC, HoldCConfig
from vidreward.scoring import score_episode, score_frames


def score_one_by_one(path: Path, network: nn.Module, size: int, num_frames: int) -> Float[ndarray, "T"]:
    """Score the first frames of a video as one would write it down: one frame at a time, the goal encoded each time.

    The goal is the last of these frames.
    """
    device = next(network.parameters()).device

    def prepare(picture: av.VideoFrame) -> Tensor:
        image = picture.to_image().resize((size, size), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].to(device)

    def decode() -> list[av.VideoFrame]:
        return list(islice(container.decode(video=0), num_frames))

    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        pictures = decode()
    goal = prepare(pictures[-1])
    scores = []
    with torch.inference_mode():
        for picture in pictures:
            scores.append(-float((network(prepare(picture)) - network(goal)).norm()))
    return np.array(scores)


def build_model(device: torch.device) -> HoldC:
    """Make HOLD-C with ResNet-18; speed does not depend on training, so the weights are random."""
    torch.manual_seed(0)
    return HoldC(HoldCConfig(depth=18)).to(device).eval()


def against_loop(
    folder: Path,
    device: torch.device,
    *,
    size: int,
    source: tuple[int, int] = (480, 640),
    num_frames: int = 300,
    num_plain: int = 20,
    num_repetitions: int = 3,
) -> Ratio:
    """Score a whole video, file to numbers, against the loop on its first `num_plain` frames (`source`: its size)."""
    path = make_video(folder, num_frames=num_frames, height=source[0], width=source[1])
    model = build_model(device)
    plain = PlainNetwork(model.network).to(device).eval()

    def library() -> int:
        return len(score_episode(model, open_episodes(path, size=size)[0]))

    return compare(
        f"score at {size} px from {source[1]}x{source[0]} video, against one frame at a time",
        ("one by one", lambda: len(score_one_by_one(path, plain, size, num_plain))),
        ("library", library),
        unit="frames",
        target={224: 5.0, 64: 10.0}.get(size),
        num_repetitions=num_repetitions,
    )


def against_parts(
    folder: Path,
    device: torch.device,
    *,
    size: int,
    source: tuple[int, int] = (480, 640),
    num_frames: int = 300,
    num_repetitions: int = 3,
) -> Ratio:
    """Score a video file against what decoding alone and the network alone allow.

    On shared cores that is 1 / (1/decode + 1/network); on a GPU the slower of the two.
    """
    path = make_video(folder, num_frames=num_frames, height=source[0], width=source[1])
    model = build_model(device)
    episode = open_episodes(path, size=size)[0]
    frames = episode.all_frames()
    sides = {
        "decode": lambda: sum(1 for _ in episode.iterate()),
        "network": lambda: len(score_frames(model, frames, frames[-1:])),
        "score": lambda: len(score_episode(model, episode)),
    }
    rates = measure_rates(sides, num_repetitions)
    allowed = [
        min(decode, network) if device.type == "cuda" else 1 / (1 / decode + 1 / network)
        for decode, network in zip(rates["decode"], rates["network"], strict=True)
    ]
    ratios = [rate / most for rate, most in zip(rates["score"], allowed, strict=True)]
    target = 0.8 if device.type == "cuda" else 0.9
    return summarize(
        f"score at {size} px, against what decode and network allow", ratios, rates, unit="frames", target=target
    )
