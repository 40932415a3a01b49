"""Frames with a margin: whole pictures in training, a random window out of them, the centre everywhere else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from clips import write_picture, write_something
from dots import dot_episodes, dot_frames
from vidreward.augment import HOLD, Augment, augment_batch
from vidreward.checkpoint import find_checkpoint, read_description
from vidreward.data import FrameSpec, build_cache, open_episodes, write_video
from vidreward.data.collate import collate
from vidreward.jobs import open_like_training, read_goal, train
from vidreward.margin import FRAME_SIZE, centre_views, cut_at_once, cut_centre, scale_and_cut, window_taps
from vidreward.rewards.hold_c import recipe
from vidreward.types import Episode, Pick, Video

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the same arithmetic written image by image."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import plain_augment

    return plain_augment


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (240, 427, (288, 512)),  # Something-Something v2, 16:9: 512.4 is cut off
        (240, 320, (288, 384)),
        (427, 240, (512, 288)),
        (288, 500, (288, 500)),
        (720, 720, (288, 288)),
        (2, 3, (288, 432)),
    ],
)
def test_shorter_side_is_scaled_in_whole_numbers(height: int, width: int, expected: tuple[int, int]) -> None:
    assert FrameSpec(load_size=288, resize="crop").output_size(height, width) == expected
    assert FrameSpec(load_size=288, resize="crop", size=(256, 256)).output_size(height, width) == (256, 256)


def test_impossible_margins_are_refused() -> None:
    with pytest.raises(ValueError, match="load_size 200 is less than the size 256"):
        FrameSpec(size=(256, 256), resize="crop", load_size=200)
    with pytest.raises(ValueError, match="resize='squash' does not; give resize='crop'"):
        FrameSpec(size=(256, 256), load_size=288)
    with pytest.raises(ValueError, match="load_size must be 1 to 16384"):
        FrameSpec(resize="crop", load_size=0)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return videos of three shapes, with broken ones among them."""
    return write_something(tmp_path_factory.mktemp("something"))


def test_whole_pictures_hold_what_scoring_cuts_out(videos: Path, tmp_path: Path) -> None:
    whole = open_episodes(videos, load_size=28, resize="crop")
    cut = open_episodes(videos, load_size=28, size=24, resize="crop")
    assert {episode.frames([0]).shape[2:] for episode in whole} == {(28, 49), (28, 36), (42, 28)}
    cached = build_cache(whole, tmp_path / "cache")
    for there, kept, middle in zip(whole, cached, cut, strict=True):
        assert np.array_equal(there.all_frames(), kept.all_frames())
        assert np.array_equal(cut_centre(there.all_frames(), (24, 24)), middle.all_frames())
    views = centre_views(cached, (24, 24))
    assert np.array_equal(views[1].frames([3, 3]), cut[1].frames([3, 3]))
    assert np.array_equal(list(views[1].iterate()), list(cut[1].iterate()))
    assert np.array_equal(views[2].goal(), cut[2].goal())
    assert not views[2].has_goal
    assert whole.data_spec((24, 24)).height == 24
    with pytest.raises(ValueError, match="frames differ in size"):
        whole.data_spec()


def test_a_goal_of_another_shape_keeps_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    write_video(tmp_path / "videos" / "a.mp4", dot_frames(6, rng)[:, :, :24], 10)
    goal = dot_frames(1, rng)[0, :, :, :20]
    write_picture(tmp_path / "videos" / "goal.png", goal)
    (tmp_path / "videos" / "metadata.csv").write_text("file_name,goal\na.mp4,goal.png\n")
    with pytest.raises(ValueError, match=r"goal goal\.png and frames differ in size"):
        open_episodes(tmp_path / "videos")
    whole = open_episodes(tmp_path / "videos", load_size=20, resize="crop")
    cached = build_cache(whole, tmp_path / "cache")
    assert (cached[0].goal().shape, cached[0].frames([0]).shape) == ((1, 3, 32, 20), (1, 3, 20, 26))
    assert np.array_equal(cached[0].goal()[0], goal)  # its shorter side has 20 pixels already
    view = centre_views(cached, (16, 16))[0]
    assert view.has_goal
    assert np.array_equal(view.goal()[0], goal[:, 8:24, 2:18])


def test_cache_files_without_a_margin_keep_their_names() -> None:
    assert FrameSpec(size=(8, 8)).to_json() == {"size": (8, 8), "resize": "squash", "crop": None}
    assert FrameSpec(load_size=9, resize="crop").to_json()["load_size"] == 9


def test_smaller_frames_than_the_model_sees_are_refused() -> None:
    with pytest.raises(ValueError, match="frames of 32x32 are smaller than the model's 40x40"):
        centre_views(dot_episodes(1), (40, 40))[0].frames([0])


def test_rows_of_several_shapes_are_padded() -> None:
    rng = np.random.default_rng(0)
    read = [rng.integers(1, 256, (2, 3, 6, 9), np.uint8), rng.integers(1, 256, (2, 3, 8, 5), np.uint8)]
    episodes = [Episode.from_frames(frames, id="a", fps=10) for frames in read]
    video = collate("clip", episodes, [Pick(index=[0, 1])] * 2, read)
    assert video.frames.shape == (2, 2, 3, 8, 9)
    assert video.labels[FRAME_SIZE].tolist() == [[6, 9], [8, 5]]
    assert np.array_equal(video.frames[0, :, :, :6], read[0])
    assert np.array_equal(video.frames[1, :, :, :, :5], read[1])
    assert not video.frames[0, :, :, 6:].any()
    assert not video.frames[1, :, :, :, 5:].any()


# --- cutting ---------------------------------------------------------------------------------------------------------


def test_window_equals_scaling_everything_and_cutting(plain: ModuleType) -> None:
    """Every row of another shape, factor, place and mirror equals TensorFlow's arithmetic, to the bit."""
    rng = np.random.default_rng(0)
    num, size = 24, (32, 28)
    sizes = np.stack([rng.integers(36, 60, num), rng.integers(34, 70, num)], 1)
    frames = torch.from_numpy(rng.integers(0, 256, (num, 2, 3, *sizes.max(0)), np.uint8))
    factors = torch.from_numpy(rng.uniform(0.9, 1.33, (num, 2)).astype(np.float32))
    places = torch.from_numpy(rng.uniform(0, 1, (num, 2)).astype(np.float32))
    places[:4] = torch.tensor([[0, 0], [1 - 2**-24] * 2, [0, 1 - 2**-24], [0.5, 0]])
    mirrored = torch.from_numpy(rng.random(num) < 0.5)
    given = torch.from_numpy(sizes)
    out = scale_and_cut(frames, given, size, factors=factors, places=places, mirrored=mirrored)
    for i, (height, width) in enumerate(sizes):
        new_height = int(np.float32(height) * factors[i, 0].numpy())
        new_width = int(np.float32(width) * factors[i, 1].numpy())
        top = int(places[i, 0].numpy() * np.float32(new_height - size[0] + 1))
        left = int(places[i, 1].numpy() * np.float32(new_width - size[1] + 1))
        for t in range(2):
            image = frames[i, t, :, :height, :width].permute(1, 2, 0).numpy()
            window = plain.scale(image, new_height, new_width)[top : top + size[0], left : left + size[1]]
            window = window[:, ::-1] if mirrored[i] else window
            assert np.array_equal(out[i, t].permute(1, 2, 0), window), (i, t)
    taps = window_taps(given, size, factors=factors, places=places, mirrored=mirrored)
    assert torch.equal(cut_at_once(frames.flatten(1, 2), *taps).view_as(out), out)


def test_scaling_by_hand(plain: ModuleType) -> None:
    """Twice as wide: new pixel 1 lies at (1 + 0.5) / 2 - 0.5 = 0.25 between the old pixels 0 and 1."""
    line = torch.tensor([0, 100, 30], dtype=torch.uint8).expand(1, 1, 3, 1, 3)
    keywords = {"factors": torch.tensor([[1.0, 2.0]]), "places": torch.zeros(1, 2)}
    sizes = torch.tensor([[1, 3]])
    out = scale_and_cut(line, sizes, (1, 6), mirrored=torch.tensor([False]), **keywords)
    assert out[0, 0, 0, 0].tolist() == [0, 25, 75, 82, 47, 30]  # 82.5 and 47.5 are cut off
    out = scale_and_cut(line, sizes, (1, 6), mirrored=torch.tensor([True]), **keywords)
    assert out[0, 0, 0, 0].tolist() == [30, 47, 82, 75, 25, 0]
    assert plain.scale(line[0, 0].permute(1, 2, 0).numpy(), 1, 6)[0, :, 0].tolist() == [0, 25, 75, 82, 47, 30]


def test_a_frame_is_never_scaled_below_the_window() -> None:
    frames = torch.randint(0, 256, (1, 1, 3, 10, 10), dtype=torch.uint8)
    keywords = {"places": torch.zeros(1, 2), "mirrored": torch.zeros(1, dtype=torch.bool)}
    out = scale_and_cut(frames, torch.tensor([[10, 10]]), (10, 10), factors=torch.full((1, 2), 0.5), **keywords)
    assert torch.equal(out, frames)


def test_every_place_is_drawn_equally_often() -> None:
    """A margin of three pixels has four places."""
    picture = torch.arange(11, dtype=torch.uint8).expand(1, 1, 3, 8, 11)
    video = Video.from_frames(picture.expand(4000, -1, -1, -1, -1))
    out = augment_batch({"clip": video}, Augment(), torch.Generator().manual_seed(0), size=(8, 8))["clip"]
    counts = torch.bincount(out.frames[:, 0, 0, 0, 0].long())
    assert counts.shape == (4,)
    assert (counts - 1000).abs().max() < 120  # four standard deviations


def test_all_names_of_a_row_are_cut_alike_and_processes_share_the_draws() -> None:
    rng = np.random.default_rng(0)
    pictures = torch.from_numpy(rng.integers(0, 256, (4, 1, 3, 40, 50), np.uint8))
    labels = {FRAME_SIZE: torch.tensor([[40, 44], [36, 50], [40, 50], [38, 38]]), "success": torch.ones(4)}
    state = replace(Video.from_frames(pictures.expand(-1, 3, -1, -1, -1)), labels=labels)
    goal = replace(Video.from_frames(pictures, goal=pictures), labels=labels)
    config = Augment(zoom=(0.9, 1.33), flip=0.5, brightness=0.5)

    def augmented(part: slice, **where: int) -> dict[str, Video]:
        rows = {"state": state, "goal": goal}
        rows = {
            name: replace(
                video,
                frames=video.frames[part],
                goal=None if video.goal is None else video.goal[part],
                length=video.length[part],
                labels={key: value[part] for key, value in labels.items()},
            )
            for name, video in rows.items()
        }
        return augment_batch(rows, config, torch.Generator().manual_seed(3), size=(32, 32), **where)

    out = augmented(slice(None))
    assert out["state"].frames.shape == (4, 3, 3, 32, 32)
    assert list(out["state"].labels) == ["success"]
    assert out["goal"].goal is not None
    for frames in (*out["state"].frames.unbind(1), out["goal"].goal[:, 0]):
        assert torch.equal(frames, out["goal"].frames[:, 0])
    second = augmented(slice(2, 4), first_row=2, num_rows=4)
    assert torch.equal(second["state"].frames, out["state"].frames[2:])


def test_frames_that_cannot_be_cut_are_refused() -> None:
    video = Video.from_frames(torch.zeros((1, 1, 3, 8, 8), dtype=torch.uint8))
    with pytest.raises(ValueError, match="frames of 8x8 are smaller than the model's 9x9"):
        augment_batch({"clip": video}, Augment(), torch.Generator(), size=(9, 9))
    mixed = replace(video, labels={FRAME_SIZE: torch.tensor([[8, 8]])})
    with pytest.raises(ValueError, match="rows differ in size; open the data with one size"):
        augment_batch({"clip": mixed}, Augment(), torch.Generator())


# --- the whole way ---------------------------------------------------------------------------------------------------


def test_a_run_trains_on_windows_and_scores_centres(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDREWARD_CACHE", str(tmp_path / "cache"))
    config = recipe("debug")
    config = replace(
        config,
        data=replace(config.data, path=str(videos), size=24, load_size=28, resize="crop"),
        reward=replace(config.reward, augment=HOLD),  # type: ignore[type-var]
        fit=replace(config.fit, steps=2, val_every=2),
        out=tmp_path / "run",
    )
    model = train(config, reward="hold_c", quiet=True)
    assert model.frame_size == (24, 24)
    description = read_description(find_checkpoint(tmp_path / "run"))
    assert description.preprocessing["load_size"] == 28
    assert (description.data.height, description.data.width) == (24, 24)
    opened = open_like_training(tmp_path / "run", videos)
    assert opened.spec == FrameSpec(size=(24, 24), resize="crop", load_size=28)
    whole = open_episodes(videos, load_size=28, resize="crop")
    assert np.array_equal(opened[0].all_frames(), cut_centre(whole[0].all_frames(), (24, 24)))
    goal = write_picture(tmp_path / "goal.png", dot_frames(1, np.random.default_rng(0))[0, :, :, :30])
    assert np.array_equal(read_goal(goal, opened.spec), cut_centre(read_goal(goal, whole.spec), (24, 24)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"load_size": 20}, "load_size 20 is less than the size 24"),
        ({"resize": "squash"}, r"give resize='crop' \(--data.resize crop\)"),
    ],
)
def test_a_run_without_a_possible_margin_is_refused(
    videos: Path, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    config = recipe("debug")
    data = {"path": str(videos), "size": 24, "load_size": 28, "resize": "crop", **change}
    config = replace(config, data=replace(config.data, **data), out=tmp_path / "run")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        train(config, reward="hold_c", quiet=True)
