"""Batches: shared by processes, read from videos that may be broken, ahead of the training step."""

from __future__ import annotations

import pytest
import torch

from dots import dot_episodes
from vidreward.data.sampler import SampledFrames
from vidreward.rewards.hold_c import HoldC, HoldCConfig

MODEL = HoldC(HoldCConfig(depth=14, num_filters=8, embedding_dim=4, num_frames=5))


@pytest.mark.parametrize("num_processes", [2, 3])
def test_processes_share_the_rows_of_one_batch(num_processes: int) -> None:
    episodes = dot_episodes(5)
    whole = SampledFrames(episodes, MODEL, 6, seed=3)
    parts = [
        SampledFrames(episodes, MODEL, 6, seed=3, rank=rank, num_processes=num_processes)
        for rank in range(num_processes)
    ]
    for step in range(3):
        batch, shares = whole.batch(step), [part.batch(step) for part in parts]
        assert sum((share.episode_ids for share in shares), ()) == batch.episode_ids
        assert len({len(share.episode_ids) for share in shares}) == 1
        for name in ("frames", "index", "fps"):
            assert torch.equal(
                torch.cat([getattr(s.videos["clip"], name) for s in shares]), getattr(batch.videos["clip"], name)
            )


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(ValueError, match=r"batch of 7 .* 2 processes.*--fit.batch-size 6"):
        SampledFrames(dot_episodes(2), MODEL, 7, seed=0, num_processes=2)
    with pytest.raises(ValueError, match=r"batch of 1 .* 4 processes.*--fit.batch-size 4"):
        SampledFrames(dot_episodes(2), MODEL, 1, seed=0, num_processes=4)
