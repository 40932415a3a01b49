"""Batches: shared by processes, read from videos that may be broken, ahead of the training step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from clips import break_frame, write_clips
from dots import dot_episodes
from vidreward.data import EpisodeSet, build_cache, open_episodes
from vidreward.data.readable import cache_what_fits, how_read, keep_readable, use_readable, without_broken
from vidreward.data.sampler import Batch, SampledFrames, default_num_workers
from vidreward.data.sources import UnreadableError
from vidreward.rewards.hold_c import HoldC, HoldCConfig
from vidreward.types import Episode

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


# --- episodes that turn out to be broken -----------------------------------------------------------------------------

NUM_FRAMES = 12


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Eight whole clips, and the same with one that cannot be decoded from frame 4 on."""
    whole, broken = (write_clips(tmp_path_factory.mktemp(name), 8, num_frames=NUM_FRAMES) for name in "ab")
    break_frame(broken / "clip3.mp4", 4)
    return whole, broken


def same(one: Batch, other: Batch) -> bool:
    pairs = [(one.videos[name], other.videos[name]) for name in one.videos]
    return one.episode_ids == other.episode_ids and all(
        torch.equal(a.frames, b.frames) and torch.equal(a.index, b.index) for a, b in pairs
    )


def test_a_broken_episode_is_named_once_and_replaced(folders: tuple[Path, Path]) -> None:
    whole, broken = (SampledFrames(open_episodes(folder), MODEL, 4, seed=1) for folder in folders)
    num_replaced, named = 0, []
    for step in range(10):
        plain, batch = whole.batch(step), broken.batch(step)
        named += batch.broken
        for row, (before, after) in enumerate(zip(plain.episode_ids, batch.episode_ids, strict=True)):
            if before == after:
                assert torch.equal(plain.videos["clip"].frames[row], batch.videos["clip"].frames[row])
            else:
                assert before == "clip3.mp4"
                num_replaced += 1
    assert [entry.file for entry in named] == ["clip3.mp4"]
    assert named[0].reason.startswith("decoding fails after")
    assert 0 < num_replaced <= 5  # it is drawn five times; where only its first frames are asked for, it is good


def test_what_a_batch_shows_does_not_depend_on_what_was_read_before(folders: tuple[Path, Path]) -> None:
    episodes = open_episodes(folders[1])
    first = list(SampledFrames(episodes, MODEL, 4, seed=1).batches(0, 8, num_workers=3))
    for step in reversed(range(8)):
        assert same(SampledFrames(episodes, MODEL, 4, seed=1).batch(step), first[step])
    later = SampledFrames(episodes, MODEL, 4, seed=1).batches(5, 8, num_workers=1)
    assert all(same(one, other) for one, other in zip(later, first[5:], strict=True))
    shares = [SampledFrames(episodes, MODEL, 4, seed=1, rank=rank, num_processes=2) for rank in (0, 1)]
    for step, batch in enumerate(first):
        assert sum((share.batch(step).episode_ids for share in shares), ()) == batch.episode_ids


def test_when_all_is_broken_the_error_says_so(tmp_path: Path) -> None:
    folder = write_clips(tmp_path, 3, num_frames=NUM_FRAMES)
    for path in folder.iterdir():
        break_frame(path, 6)
    model = HoldC(HoldCConfig(depth=14, num_filters=8, embedding_dim=4, num_frames=NUM_FRAMES))
    sampler = SampledFrames(open_episodes(folder), model, 2, seed=0)
    with pytest.raises(UnreadableError, match=r"3 of the 3 episodes .* cannot be decoded.*clip\d.mp4: decoding fails"):
        sampler.batch(0)
    with pytest.raises(UnreadableError, match="cannot be decoded"):
        list(sampler.batches(0, 3, num_workers=4))


def test_too_large_a_share_of_broken_episodes_ends_the_run(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vidreward.data.sampler.MIN_TRIED", 8)
    episodes = open_episodes(folders[1])
    with pytest.raises(UnreadableError, match=r"1 of the 8 episodes .* too many"):
        list(SampledFrames(episodes, MODEL, 8, seed=0).batches(0, 10))


def test_held_out_episodes_are_checked_to_their_ends(folders: tuple[Path, Path]) -> None:
    left_out: list[tuple[str, str]] = []
    kept = keep_readable(open_episodes(folders[1]), lambda id, reason: left_out.append((id, reason)))
    assert [episode.id for episode in kept] == [f"clip{i}.mp4" for i in (0, 1, 2, 4, 5, 6, 7)]
    assert [id for id, _ in left_out] == ["clip3.mp4"]


def test_calibration_goes_on_with_the_neighbour_of_a_broken_episode(folders: tuple[Path, Path]) -> None:
    episodes = open_episodes(folders[1])
    left_out: list[str] = []
    used: list[str] = []

    def look_at_some(given: Sequence[Episode]) -> None:
        used[:] = [episode.id for episode in given[1::2]]
        for episode in given[1::2]:
            assert np.array_equal(episode.goal(), episode.frames([NUM_FRAMES - 1]))

    use_readable(look_at_some, episodes, lambda id, reason: left_out.append(id))
    assert left_out == ["clip3.mp4"]
    assert used == ["clip1.mp4", "clip2.mp4", "clip5.mp4", "clip7.mp4"]
    with pytest.raises(UnreadableError):
        use_readable(look_at_some, [episodes[3], episodes[3]], lambda *_: None)


def test_frames_that_do_not_fit_into_the_cache_are_read_from_the_videos(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    episodes = open_episodes(folders[1])
    num_bytes = 8 * NUM_FRAMES * 3 * 32 * 32
    for limit_gb in (0.0, num_bytes / 1e9 - 1e-6):
        assert cache_what_fits(episodes, tmp_path / "cache", limit_gb=limit_gb) is episodes
    assert not (tmp_path / "cache").exists()
    assert how_read(episodes, 0, 3) == (
        "the frames take 0.000295 GB decoded, not kept (--data.cache-gb 0): each step decodes what it needs from the "
        "videos, on 3 threads; with --data.cache-gb 0.001 they are decoded once"
    )
    assert "more than --data.cache-gb 0.0002:" in str(how_read(episodes, 0.0002, None))
    cached = cache_what_fits(episodes, tmp_path / "cache", limit_gb=num_bytes / 1e9)
    assert how_read(cached, 20, None) is None
    streamed = SampledFrames(episodes.filter(lambda episode: episode.id != "clip3.mp4"), MODEL, 4, seed=1)
    for step in range(3):
        assert same(SampledFrames(cached, MODEL, 4, seed=1).batch(step), streamed.batch(step))


def test_an_evaluation_is_told_what_is_broken(folders: tuple[Path, Path]) -> None:
    whole, broken = (open_episodes(folder) for folder in folders)
    assert without_broken(whole) is whole
    left = without_broken(broken)
    assert len(left) == 7
    assert [(entry.file, entry.reason[:18]) for entry in left.quarantine] == [("clip3.mp4", "decoding fails aft")]


def test_how_many_threads_read(folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: range(8))
    episodes: EpisodeSet = open_episodes(folders[0])
    assert default_num_workers(episodes) == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert default_num_workers(episodes) == 2
    assert default_num_workers(build_cache(episodes, tmp_path, num_workers=1)) == 1
    assert default_num_workers(dot_episodes(2)) == 1
