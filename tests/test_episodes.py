"""Formats, metadata, splits and identity of opened data sets."""

import json
import os
import string
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy import ndarray

from fuzz_corpus import channels_last, encode, frame_numbers, make_frames
from vidreward.data import inspect_data, open_episodes, write_video
from vidreward.data.decode import read_image
from vidreward.data.metadata import read_metadata
from vidreward.data.paths import PathError, natural_key, resolve_inside
from vidreward.data.sources import resample

FRAMES = make_frames(6, (32, 48))


def write_clip(path: Path, frames: ndarray = FRAMES, fps: float = 10) -> Path:
    return write_video(path, frames, fps, codec="ffv1", pixel_format="bgr0")


def write_png(path: Path, frame: ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return encode(path, "png", "rgb24", [frame.transpose(1, 2, 0)], container_format="image2")


def write_jsonl(path: Path, *rows: object) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_folders_are_tasks_and_order_is_natural(tmp_path: Path) -> None:
    for name in ("reach/10.mkv", "reach/2.mkv", "push/deep/1.mkv", "loose.mkv"):
        write_clip(tmp_path / name)
    (tmp_path / "notes.md").write_text("not a video")
    (tmp_path / ".hidden.mkv").write_bytes(b"")
    episodes = open_episodes(tmp_path)
    assert (episodes.format, episodes.quarantine) == ("video_folder", ())
    tasks = {episode.id: episode.task for episode in episodes}
    assert tasks == {"loose.mkv": None, "push/deep/1.mkv": "push", "reach/2.mkv": "reach", "reach/10.mkv": "reach"}
    assert list(tasks)[-2:] == ["reach/2.mkv", "reach/10.mkv"]
    spec = episodes.data_spec()
    assert (spec.height, spec.width, spec.fps, spec.tasks) == (32, 48, 10.0, ("push", "reach"))


def test_a_single_file_is_an_episode(tmp_path: Path) -> None:
    episodes = open_episodes(write_clip(tmp_path / "a.mkv"), size=16)
    assert [episode.id for episode in episodes] == ["a.mkv"]
    assert episodes[0].frames([5, 0]).shape == (2, 3, 16, 16)
    assert np.array_equal(episodes[0].goal(), episodes[0].frames([5]))


def test_nothing_to_open_is_an_error_that_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Looked for videos"):
        open_episodes(tmp_path)
    (tmp_path / "a.mp4").touch()
    with pytest.raises(ValueError, match=r"(?s)Left out:.*a\.mp4: empty file \(0 bytes\)"):
        open_episodes(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        open_episodes(tmp_path / "missing")


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_metadata_in_each_form(tmp_path: Path, ending: str) -> None:
    for name in ("a.mkv", "b.mkv", "c.mkv", "extra.mkv"):
        write_clip(tmp_path / name)
    write_png(tmp_path / "goals" / "a.png", FRAMES[3])
    rows = [
        {"file_name": "a.mkv", "task": "push, hard", "success": True, "goal": "goals/a.png", "layout": "7"},
        {"file_name": "b.mkv", "task": "reach", "success": False, "goal": None, "layout": "8"},
        {"file_name": "c.mkv", "task": None, "success": None, "goal": None, "layout": "9"},
        {"file_name": "gone.mkv", "task": "reach", "success": None, "goal": None, "layout": "9"},
    ]
    path = tmp_path / f"metadata.{ending}"
    if ending == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif ending == "jsonl":
        write_jsonl(path, *rows)
    else:
        path.write_text(
            '\ufefffile_name,task,success,goal,layout\na.mkv,"push, hard",true,goals/a.png,7\nb.mkv,reach,0,,8\n'
            "\nc.mkv,,,,9\ngone.mkv,reach,,,9\n",
            encoding="utf-8",
        )
    episodes = open_episodes(tmp_path)
    assert [(e.id, e.task, e.success, e.info.metadata["layout"], e.has_goal) for e in episodes] == [
        ("a.mkv", "push, hard", True, "7", True),
        ("b.mkv", "reach", False, "8", False),
        ("c.mkv", None, None, "9", False),
    ]
    assert np.array_equal(episodes[0].goal()[0], FRAMES[3])
    reasons = {entry.file: entry.reason for entry in episodes.quarantine}
    assert reasons.keys() == {"gone.mkv", "extra.mkv"}
    assert "no such file" in reasons["gone.mkv"]
    assert "not named in metadata" in reasons["extra.mkv"]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("file_name,success\na.mkv,perhaps\n", r"line 2: success must be true, false"),
        ("file_name,task\na.mkv\n", r"line 2: 1 values for 2 columns"),
        ('file_name\n"a.mkv\n', r"line 2: not valid CSV"),
        ("name\na.mkv\n", r"line 2: no file_name \(columns: name\)"),
        ("file_name,file_name\na,b\n", r"line 1: a column name is there twice"),
        ("", r"no header line"),
        ("file_name\na.mkv\n\na.mkv\n", r"line 4: file_name 'a.mkv' is already in .* line 2"),
        ("file_name,split\na.mkv,training\n", r"line 2: split must be train, validation, test"),
        ("file_name,fps\na.mkv,-1\n", r"line 2: fps must be a number more than 0"),
        ("file_name,cameras\na.mkv,top\n", r"line 2: cameras must be JSON"),
    ],
)
def test_a_csv_that_means_nothing_is_an_error_with_its_line(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "metadata.csv").write_text(text)
    with pytest.raises(ValueError, match=match):
        open_episodes(tmp_path)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('{"file_name": "a.mkv"}\n{"file_name": \n', r"line 2: not valid JSON"),
        ("[1]\n", r"line 1: a list, not an object"),
        ('{"file_name": 3}\n', r"line 1: no file_name"),
        ('{"file_name": "a.mkv", "task": 3}\n', r"line 1: task must be text"),
        ("[" * 100_000, r"line 1: not valid JSON"),
    ],
)
def test_a_jsonl_that_means_nothing_is_an_error_with_its_line(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "metadata.jsonl").write_text(text)
    with pytest.raises(ValueError, match=match):
        open_episodes(tmp_path)


def test_other_metadata_errors(tmp_path: Path) -> None:
    (tmp_path / "metadata.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(ValueError, match=r"metadata\.parquet: not a readable Parquet file"):
        open_episodes(tmp_path)
    (tmp_path / "metadata.csv").write_bytes(b"file_name\n\xff\xfe.mkv\n")
    with pytest.raises(ValueError, match=r"keep one of them"):
        open_episodes(tmp_path)
    (tmp_path / "metadata.parquet").unlink()
    with pytest.raises(ValueError, match=r"line 2: not UTF-8"):
        open_episodes(tmp_path)


@given(st.text(max_size=200))
@example("file_name\n\x00\n")
@example('file_name,cameras\na,"{""top"": 3}"\n')
def test_any_csv_text_is_rows_or_a_value_error(metadata_folder: Path, text: str) -> None:
    check_any_text(metadata_folder / "metadata.csv", text)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
COLUMNS = st.sampled_from(["file_name", "task", "success", "goal", "split", "fps", "cameras", "other"])


@given(st.lists(st.dictionaries(COLUMNS, JSON_VALUES, max_size=6), max_size=3))
def test_any_json_values_are_rows_or_a_value_error(metadata_folder: Path, rows: list[dict[str, object]]) -> None:
    check_any_text(metadata_folder / "metadata.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def check_any_text(path: Path, text: str) -> None:
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        rows = read_metadata(path)
    except ValueError as error:
        message = str(error)
    else:
        message = f"{path}: read"
        assert all(row.file_name and row.split in (None, "train", "validation", "test") for row in rows)
    assert message.startswith(str(path))


@pytest.fixture(scope="module")
def metadata_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("metadata")


def test_names_in_metadata_cannot_leave_the_folder(tmp_path: Path) -> None:
    root = tmp_path / "data"
    secret = write_clip(tmp_path / "secret" / "s.mkv")
    picture = write_png(tmp_path / "secret" / "s.png", FRAMES[0])
    good = write_clip(root / "good.mkv")
    (root / "inside.mkv").symlink_to(good)
    (root / "link.mkv").symlink_to(secret)
    (root / "linked").symlink_to(secret.parent)
    rows = [
        {"file_name": "good.mkv"},
        {"file_name": "inside.mkv"},
        {"file_name": "../secret/s.mkv"},
        {"file_name": "a/../../secret/s.mkv"},
        {"file_name": str(secret)},
        {"file_name": "link.mkv"},
        {"file_name": "linked/s.mkv"},
        {"file_name": "goal_outside.mkv", "goal": "../secret/s.png", "cameras": {"top": "good.mkv"}},
        {"file_name": "./good.mkv"},
        {"file_name": "nul\0.mkv"},
        {"file_name": "~/x.mkv"},
    ]
    write_clip(root / "goal_outside.mkv")
    write_clip(root / "camera_outside.mkv")
    rows.append({"file_name": "camera_outside.mkv", "cameras": {"top": "linked/s.mkv"}})
    write_jsonl(root / "metadata.jsonl", *rows)
    assert picture.exists()
    episodes = open_episodes(root)
    assert [episode.id for episode in episodes] == ["good.mkv", "inside.mkv"]
    reasons = {entry.file: entry.reason for entry in episodes.quarantine}
    for name in ("../secret/s.mkv", "a/../../secret/s.mkv", str(secret), "goal_outside.mkv", "camera_outside.mkv"):
        assert "leads out of the folder" in reasons[name], name
    assert "another row names the same file" in reasons["./good.mkv"]
    assert "broken file name" in reasons["nul\\x00.mkv"]
    assert "leads out of the folder" in reasons["linked"]


@given(st.lists(st.sampled_from(["..", ".", "a", "b", "", "/", "~", "\0", "link", "good"]), max_size=6))
def test_no_name_resolves_outside(escape_root: Path, parts: list[str]) -> None:
    try:
        path = resolve_inside(escape_root, "/".join(parts))
    except PathError:
        return
    assert path.resolve().is_relative_to(escape_root)


@pytest.fixture(scope="module")
def escape_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("escape") / "root"
    (root / "a" / "b").mkdir(parents=True)
    (root / "good").touch()
    (root / "a" / "link").symlink_to(root.parent)
    (root / "link").symlink_to("a")
    return root.resolve()


def test_a_folder_link_out_of_the_data_is_not_followed(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_clip(root / "good.mkv")
    write_clip(tmp_path / "elsewhere" / "x.mkv")
    (root / "more").symlink_to(tmp_path / "elsewhere")
    episodes = open_episodes(root)
    assert [episode.id for episode in episodes] == ["good.mkv"]
    assert [entry.file for entry in episodes.quarantine] == ["more"]


def test_the_data_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    write_clip(tmp_path / "real" / "a.mkv")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert [episode.id for episode in open_episodes(tmp_path / "link")] == ["a.mkv"]


def test_cameras_share_an_episode(tmp_path: Path) -> None:
    write_clip(tmp_path / "top" / "a.mkv")
    write_clip(tmp_path / "side" / "a.mkv", FRAMES[:, ::-1].copy())
    write_clip(tmp_path / "side" / "short.mkv", FRAMES[:4])
    write_clip(tmp_path / "top" / "b.mkv")
    write_jsonl(
        tmp_path / "metadata.jsonl",
        {"file_name": "top/a.mkv", "cameras": {"top": "top/a.mkv", "side": "side/a.mkv"}},
        {"file_name": "top/b.mkv", "cameras": {"top": "top/b.mkv", "side": "side/short.mkv"}},
    )
    episodes = open_episodes(tmp_path)
    assert [entry.reason for entry in episodes.quarantine] == ["camera 'side' has 4 frames, the first has 6"]
    assert episodes[0].cameras == ("top", "side")
    assert np.array_equal(episodes[0].frames([1], "side"), FRAMES[1:2, ::-1])
    side = open_episodes(tmp_path, camera="side")
    assert side[0].cameras == ("side", "top")
    assert np.array_equal(side[0].frames([1]), FRAMES[1:2, ::-1])
    assert side.fingerprint() != episodes.fingerprint()
    with pytest.raises(ValueError, match="no camera 'wrist'; it has top, side"):
        open_episodes(tmp_path, camera="wrist")


def write_truth(path: Path, episodes: dict[str, int], **columns: list[object]) -> None:
    rows = [(name, frame) for name, num_frames in episodes.items() for frame in range(num_frames)][::-1]
    table = {"episode": [name for name, _ in rows], "frame": [frame for _, frame in rows]}
    table |= {name: values[::-1] for name, values in columns.items()}
    pyarrow.parquet.write_table(pyarrow.table(table), path)


def test_per_frame_truth_goes_to_its_frames(tmp_path: Path) -> None:
    for name in ("a.mkv", "b.mkv"):
        write_clip(tmp_path / name)
    progress = [k / 5 for k in range(6)] + [0.0] * 6
    state = [[float(k), 1.0] for k in range(12)]
    write_truth(tmp_path / "frames.parquet", {"a.mkv": 6, "b.mkv": 6}, progress=progress, state=state)
    episodes = open_episodes(tmp_path)
    column = episodes[0].column("progress")
    assert column is not None
    assert column.tolist() == pytest.approx(progress[:6])
    assert episodes[1].columns["state"].tolist() == state[6:]
    assert (episodes.data_spec().state_dim, episodes.data_spec().action_dim) == (2, 0)
    halved = open_episodes(tmp_path, fps=5)
    assert halved[0].columns["progress"].tolist() == pytest.approx([0.0, 0.4, 0.8])


def test_truth_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    for name in ("a.mkv", "b.mkv"):
        write_clip(tmp_path / name)
    write_truth(tmp_path / "frames.parquet", {"a.mkv": 5, "b.mkv": 6, "c.mkv": 1}, progress=[0.0] * 12)
    episodes = open_episodes(tmp_path)
    assert [episode.id for episode in episodes] == ["b.mkv"]
    reasons = {entry.file: entry.reason for entry in episodes.quarantine}
    assert "5 rows of 'progress' for 6 frames" in reasons["a.mkv"]
    assert "1 episodes that are not there, such as c.mkv" in reasons["frames.parquet"]
    pyarrow.parquet.write_table(pyarrow.table({"episode": ["a.mkv"] * 2, "frame": [0, 2]}), tmp_path / "frames.parquet")
    with pytest.raises(ValueError, match=r"frames of episode 'a\.mkv' must be 0\.\.1"):
        open_episodes(tmp_path)
    pyarrow.parquet.write_table(pyarrow.table({"episode": ["a.mkv"]}), tmp_path / "frames.parquet")
    with pytest.raises(ValueError, match="no column frame"):
        open_episodes(tmp_path)


def test_folders_of_pictures(tmp_path: Path) -> None:
    for task, number in (("reach", 1), ("push", 2)):
        for frame in range(12):
            write_png(tmp_path / task / f"episode{number}" / f"{frame}.png", make_frames(12, (32, 48))[frame])
    episodes = open_episodes(tmp_path)
    assert episodes.format == "frame_folder"
    assert [(e.id, e.task, e.num_frames, e.fps) for e in episodes] == [
        ("push/episode2", "push", 12, 10.0),
        ("reach/episode1", "reach", 12, 10.0),
    ]
    assert frame_numbers(episodes[0].all_frames(), 12) == list(range(12))
    one = open_episodes(tmp_path / "reach" / "episode1", fps=5)
    assert [(e.id, e.task, e.num_frames) for e in one] == [("episode1", None, 6)]
    write_jsonl(tmp_path / "metadata.jsonl", {"file_name": "reach/episode1", "fps": 20}, {"file_name": "reach"})
    rated = open_episodes(tmp_path)
    assert [(e.id, e.fps) for e in rated] == [("reach/episode1", 20.0)]
    assert "holds no pictures" in rated.quarantine[0].reason


def test_pictures_of_several_sizes_need_one_size(tmp_path: Path) -> None:
    write_png(tmp_path / "a" / "0.png", FRAMES[0])
    write_png(tmp_path / "a" / "1.png", FRAMES[0][:, :16])
    (tmp_path / "a" / "2.png").write_bytes(b"broken")
    episode = open_episodes(tmp_path)[0]
    with pytest.raises(ValueError, match="give one size"):
        episode.frames([1])
    with pytest.raises(ValueError, match=r"2\.png: not"):
        episode.frames([2])
    assert open_episodes(tmp_path, size=8)[0].frames([0, 1]).shape == (2, 3, 8, 8)


def test_resampling_takes_the_frame_shown_at_that_time(tmp_path: Path) -> None:
    times = [0, 60, 120, 600, 660]
    path = encode(tmp_path / "a.mp4", "libx264", "yuv420p", channels_last(make_frames(5)), times=times)
    episodes = open_episodes(path, fps=10)
    assert (episodes[0].fps, episodes[0].num_frames) == (10, 12)
    assert frame_numbers(episodes[0].all_frames(), 5) == [0, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 4]
    assert open_episodes(path, fps=10).fingerprint() != open_episodes(path).fingerprint()


@given(
    st.lists(st.floats(0.001, 0.5), min_size=1, max_size=30).map(np.cumsum),
    st.floats(0.5, 60),
)
def test_resampled_frames_are_the_last_ones_shown(steps: ndarray, fps: float) -> None:
    times = steps - steps[0]
    index = resample(times, fps)
    marks = np.arange(len(index)) / fps
    assert (np.diff(index) >= 0).all()
    assert (times[index] <= marks + 1.001e-3).all()
    following = np.append(times, np.inf)[index + 1]
    assert (following > marks).all()
    assert abs(times[-1] - marks[-1]) <= 1 / fps + 1e-3


def test_the_rate_of_the_metadata_wins(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mkv")
    write_jsonl(tmp_path / "metadata.jsonl", {"file_name": "a.mkv", "fps": 5})
    assert open_episodes(tmp_path)[0].fps == 5
    assert open_episodes(tmp_path, fps=10)[0].num_frames == 11


def test_splits_are_stable_and_honour_the_metadata(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "data" / "0.mkv", FRAMES[:1])
    for number in range(1, 40):
        os.link(source, tmp_path / "data" / f"{number}.mkv")
    episodes = open_episodes(tmp_path / "data")
    train, val = episodes.split(0.25, seed=3)
    ids = {e.id for e in train}, {e.id for e in val}
    assert ids[0] | ids[1] == {e.id for e in episodes}
    assert not ids[0] & ids[1]
    assert 3 <= len(val) <= 17
    assert {e.id for e in episodes.split(0.25, seed=4)[1]} != ids[1]
    fewer = episodes.filter(lambda e: int(e.id.removesuffix(".mkv")) % 2 == 0)
    assert {e.id for e in fewer.split(0.25, seed=3)[1]} == {e.id for e in fewer} & ids[1]
    for fraction in (1e-9, 1 - 1e-9):
        assert 1 in [len(part) for part in episodes.split(fraction)]
    with pytest.raises(ValueError, match="at least two"):
        episodes[:1].split(0.5)
    with pytest.raises(ValueError, match="val_fraction"):
        episodes.split(1.0)
    rows = [{"file_name": f"{k}.mkv", "split": ("train", "val", "test", "")[k % 4]} for k in range(40)]
    write_jsonl(tmp_path / "data" / "metadata.jsonl", *rows)
    declared = open_episodes(tmp_path / "data")
    assert [Path(e.id).stem for e in declared.held_out()] == [str(k) for k in range(40) if k % 4 == 1]
    assert len(episodes.held_out()) == len(episodes), "no split is named there"
    train, val = declared.split(0.5)
    assert {int(e.id.removesuffix(".mkv")) % 4 for e in val} == {1}
    assert {int(e.id.removesuffix(".mkv")) % 4 for e in train} == {0, 3}


def test_the_fingerprint_sees_every_change(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mkv")
    write_clip(tmp_path / "b.mkv")
    seen = [open_episodes(tmp_path).fingerprint()]
    assert open_episodes(tmp_path).fingerprint() == seen[0]
    seen.append(open_episodes(tmp_path, size=16).fingerprint())
    seen.append(open_episodes(tmp_path, size=16, resize="crop").fingerprint())
    seen.append(open_episodes(tmp_path, crop=(0, 0, 0.5, 1)).fingerprint())
    changed = FRAMES.copy()
    changed[3, 0, 0, 0] ^= 1
    write_clip(tmp_path / "b.mkv", changed)
    seen.append(open_episodes(tmp_path).fingerprint())
    write_jsonl(tmp_path / "metadata.jsonl", {"file_name": "a.mkv"}, {"file_name": "b.mkv", "success": True})
    seen.append(open_episodes(tmp_path).fingerprint())
    write_truth(tmp_path / "frames.parquet", {"a.mkv": 6}, progress=[0.0] * 6)
    seen.append(open_episodes(tmp_path).fingerprint())
    assert len(set(seen)) == len(seen)


def test_frames_of_several_sizes_need_a_size(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mkv")
    write_clip(tmp_path / "b.mkv", make_frames(3, (16, 16)))
    with pytest.raises(ValueError, match=r"frames differ in size \(16x16, 48x32\); give open_episodes one size"):
        open_episodes(tmp_path).data_spec()
    assert open_episodes(tmp_path, size=(20, 24)).data_spec().width == 24


@pytest.mark.parametrize("layout", ["official", "short"])
def test_something_something(tmp_path: Path, layout: str) -> None:
    videos = tmp_path / ("20bn-something-something-v2" if layout == "official" else ".")
    labels = tmp_path / "labels" if layout == "short" else tmp_path
    prefix = "something-something-v2-" if layout == "official" else ""
    labels.mkdir(exist_ok=True)
    for number in (1, 2, 3, 9):
        write_video(videos / f"{number}.webm", FRAMES, 12, codec="libvpx-vp9")
    entry = {"id": "1", "label": "holding a cup", "template": "Holding [something]", "placeholders": ["a cup"]}
    (labels / f"{prefix}train.json").write_text(json.dumps([entry, {**entry, "id": "77"}, {**entry, "id": "../1"}]))
    (labels / f"{prefix}validation.json").write_text(
        json.dumps([{**entry, "id": 2, "template": "Moving [something] up"}])
    )
    (labels / f"{prefix}test.json").write_text(json.dumps([{"id": "3"}]))
    (labels / f"{prefix}labels.json").write_text(json.dumps({"Holding something": "0"}))
    episodes = open_episodes(tmp_path)
    assert episodes.format == "something_v2"
    found = [(Path(e.id).stem, e.task, e.info.metadata["split"], e.info.metadata["label"]) for e in episodes]
    assert found == [
        ("1", "Holding something", "train", "holding a cup"),
        ("2", "Moving something up", "validation", "holding a cup"),
        ("3", None, "test", None),
    ]
    assert episodes[0].info.metadata["placeholders"] == ("a cup",)
    reasons = " | ".join(f"{entry.file}: {entry.reason}" for entry in episodes.quarantine)
    assert "1 of 3 videos are not there, such as 77.webm" in reasons
    assert "../1.webm: the name leads out of the folder" in reasons
    assert "9.webm: in no split file" in reasons
    train, val = episodes.split(0.5)
    assert [Path(e.id).stem for part in (train, val) for e in part] == ["1", "2"]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[", "not valid JSON"),
        ("{}", "a dict, not a list"),
        ('[{"label": "x"}]', "entry 0: no id"),
        ("[[]]", "entry 0: no id"),
        ('[{"id": "1", "placeholders": "cup"}]', "entry 0: placeholders must be"),
        ('[{"id": "1", "template": 3}]', "entry 0: template must be text"),
    ],
)
def test_something_labels_that_mean_nothing(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "1.webm").write_bytes(b"x")
    (tmp_path / "train.json").write_text(text)
    with pytest.raises(ValueError, match=match):
        open_episodes(tmp_path)


@given(st.lists(st.text(string.digits + "ab.", max_size=6), max_size=8))
def test_natural_order_is_total_and_keeps_every_name(names: list[str]) -> None:
    ordered = sorted(names, key=natural_key)
    assert sorted(ordered) == sorted(names)
    assert [natural_key(name) for name in ordered] == sorted(natural_key(name) for name in reversed(names))


def test_inspect_counts_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "data"
    for name in ("a.mkv", "b.mkv"):
        write_clip(root / name)
    (root / "c.mkv").touch()
    write_jsonl(
        root / "metadata.jsonl",
        {"file_name": "a.mkv", "task": "[red]push", "success": True, "split": "train"},
        {"file_name": "b.mkv", "success": False},
        {"file_name": "c.mkv"},
    )
    inspection = inspect_data(root, out=tmp_path)
    assert (inspection.num_episodes, inspection.num_frames, inspection.lengths) == (2, 12, (6, 6.0, 6))
    assert inspection.outcomes == {"failure": 1, "success": 1}
    assert inspection.splits == {"(none)": 1, "train": 1}
    assert (inspection.rates, inspection.codecs, inspection.sizes) == ({"10": 2}, {"ffv1": 2}, {"48x32": 2})
    assert [entry.file for entry in inspection.quarantine] == ["c.mkv"]
    printed = capsys.readouterr().out
    assert "[red]push" in printed
    assert "c.mkv: empty file" in printed
    assert inspection.contact_sheet == tmp_path / "contact_sheet.png"
    sheet = read_image(inspection.contact_sheet)
    assert (sheet.reshape(3, -1) == 250).all(axis=0).any(), "the bright square of the frames is on the sheet"
