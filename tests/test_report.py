"""Files for people: tables of scores, pictures, videos and the HTML report, opened in a real browser."""

import base64
import hashlib
import html
import json
import re
from pathlib import Path

import av
import cv2
import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest

from browser import EXECUTABLE, Browser
from moving_dot import labelled_episodes, see_distance
from vidreward.evaluate import (
    EvaluateConfig,
    ScoredEpisode,
    evaluate,
    overlay_video,
    plot_episode,
    plot_overview,
    write_report,
    write_scores,
)
from vidreward.evaluate.report_data import find_trouble
from vidreward.types import Episode

HOSTILE = '</script><img src=x onerror="window.hacked=1"><b>$x_1$ \u2028 \u65e5\u672c & \'q\' "d"'


def score(episodes, **options) -> list[ScoredEpisode]:
    result = []
    for episode in episodes:
        scores = see_distance(episode.all_frames(), episode, episode.goal())
        result.append(ScoredEpisode(episode=episode, scores=scores, **options))
    return result


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    return labelled_episodes(num_tasks=2, num_layouts=2, num_frames=20)


def hostile_episodes(episodes):
    return [
        Episode.from_frames(
            e.all_frames(),
            id=f"{e.id} {HOSTILE}",
            fps=10,
            task=f"{e.task} {HOSTILE}",
            success=e.success,
            goal=e.goal(),
            columns=e.columns,
            metadata={"failure": HOSTILE, "layout": e.info.metadata["layout"], HOSTILE: HOSTILE},
        )
        for e in episodes
    ]


def write_hostile(episodes, path: Path) -> Path:
    bad = hostile_episodes(episodes)
    config = EvaluateConfig(num_resamples=50, group_by=(HOSTILE,))
    evaluation = evaluate(see_distance, bad, config, name=HOSTILE, show_progress=False)
    scored = score(bad, score_name=HOSTILE)
    return write_report(path, evaluation, scored, title=f"title {HOSTILE}", description=f"text {HOSTILE}")


def test_tables_have_one_row_a_frame(episodes, tmp_path):
    names = ["plain", 'a "quoted", name\nwith a line break', "=1+1"]
    scored = []
    for name, episode in zip(names, episodes, strict=False):
        renamed = Episode.from_frames(episode.all_frames(), id=name, fps=4.0)
        steps = episode.num_frames - 1 if name == "plain" else episode.num_frames
        rewards = None if name == "=1+1" else np.arange(steps, dtype=float)
        scored.append(ScoredEpisode(episode=renamed, scores=np.arange(episode.num_frames) / 3, rewards=rewards))
    parquet, csv = write_scores(tmp_path / "out", scored)
    table = pyarrow.parquet.read_table(parquet)
    assert table.column_names == ["episode", "frame", "time", "score", "reward"]
    assert table.num_rows == sum(item.episode.num_frames for item in scored)
    rows = table.to_pylist()
    assert [row["frame"] for row in rows if row["episode"] == "plain"] == list(range(scored[0].episode.num_frames))
    assert rows[3] == {
        "episode": "plain",
        "frame": 3,
        "time": 0.75,
        "score": pytest.approx(1.0),
        "reward": 2.0,  # paid for the frame that the step leads to
    }
    assert rows[0]["reward"] is None
    assert {row["reward"] for row in rows if row["episode"] == "=1+1"} == {None}
    options = pyarrow.csv.ParseOptions(newlines_in_values=True)
    assert pyarrow.csv.read_csv(csv, parse_options=options).to_pylist() == rows
    with pytest.raises(ValueError, match="no scored episode"):
        write_scores(tmp_path, [])


def test_scores_and_rewards_must_fit_the_episode(episodes):
    num = episodes[0].num_frames
    with pytest.raises(ValueError, match="return one score a frame"):
        ScoredEpisode(episode=episodes[0], scores=np.zeros(num - 1))
    with pytest.raises(ValueError, match=f"rewards must be {num} finite numbers"):
        ScoredEpisode(episode=episodes[0], scores=np.zeros(num), rewards=np.zeros(num + 1))
    with pytest.raises(ValueError, match="finite"):
        ScoredEpisode(episode=episodes[0], scores=np.zeros(num), rewards=np.full(num, np.nan))


def test_pictures_are_drawn_whatever_the_names(episodes, tmp_path):
    bad = hostile_episodes(episodes)
    scored = score(bad, score_name=HOSTILE, rewards=None)
    with_rewards = ScoredEpisode(episode=bad[0], scores=scored[0].scores, rewards=np.diff(scored[0].scores))
    single = Episode.from_frames(bad[0].frames([0]), id="one frame", fps=10)
    for number, item in enumerate([scored[0], with_rewards, ScoredEpisode(episode=single, scores=np.zeros(1))]):
        picture = cv2.imread(str(plot_episode(item, tmp_path / f"{number}.png")))
        assert picture.shape[1] == 1170
        assert picture.std() > 10
    overview = cv2.imread(str(plot_overview(scored, tmp_path / "all.png", most=5)))
    assert overview.shape[0] > 300
    assert {path.name for path in tmp_path.iterdir()} == {"0.png", "1.png", "2.png", "all.png"}


def test_the_overlay_cursor_moves_with_time(episodes, tmp_path):
    item = score(episodes)[0]
    path = overlay_video(item, tmp_path / "overlay.mp4")
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate == 10
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(pictures) == item.episode.num_frames
    assert pictures[0].shape[1] == 480
    columns = []
    for picture in pictures:
        panel = picture[480:].astype(int)
        orange = (panel[..., 0] > 150) & (panel[..., 2] < 90) & (abs(panel[..., 1] - 94) < 60)
        columns.append(np.median(np.flatnonzero(orange.sum(0) == orange.sum(0).max())))
    steps = np.diff(columns)
    assert steps.min() > 0
    assert steps.max() - steps.min() <= 3
    assert columns[-1] - columns[0] > 300


def test_trouble_names_the_worst_aspect(episodes):
    scored = score(episodes)
    calm = find_trouble(scored)
    turned = [ScoredEpisode(episode=s.episode, scores=-s.scores if i == 0 else s.scores) for i, s in enumerate(scored)]
    trouble = find_trouble(turned)
    assert calm[0].size < 0.05
    assert trouble[0].size == pytest.approx(1.0, abs=0.01)
    assert "value-order correlation -1.00" in trouble[0].reason
    bare = Episode.from_frames(episodes[0].all_frames(), id="x", fps=10)
    flat = find_trouble([ScoredEpisode(episode=bare, scores=np.zeros(bare.num_frames))])[0]
    assert (flat.size, flat.reason) == (0.5, "constant scores")


def test_every_string_in_the_report_is_escaped(episodes, tmp_path):
    page = write_hostile(episodes, tmp_path / "report.html").read_text()
    assert "<img" not in page
    assert "<b>$x_1$" not in page
    assert page.count("</script>") == 2
    assert page.count("<script") == 2
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])
    assert HOSTILE in data["episodes"][0]["task"]
    assert HOSTILE in html.unescape(page)


def test_the_policy_allows_the_inlined_script_and_style_and_nothing_else(episodes, tmp_path):
    page = write_report(tmp_path / "r.html", None, score(episodes[:1]), title="t").read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    for tag in ("script", "style"):
        body = re.search(rf"<{tag}>(.*?)</{tag}>", page, re.S)[1]
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert set(re.findall(r"https?://[^\"' )]*", page)) == {"http://www.w3.org/2000/svg"}


def test_the_report_stays_bounded_and_says_what_it_leaves_out(episodes, tmp_path):
    page = write_report(tmp_path / "r.html", None, score(episodes), title="t", max_videos=2).read_text()
    assert "The first 2 of these have a player" in page
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])
    assert [row["video"] is not None for row in data["episodes"]] == [True, True] + [False] * (len(episodes) - 2)
    troubles = [row["trouble"] for row in data["episodes"]]
    assert troubles == sorted(troubles, reverse=True)
    with pytest.raises(ValueError, match="nothing to report"):
        write_report(tmp_path / "r.html", None, [], title="t")


def test_an_evaluation_alone_makes_a_report(episodes, tmp_path):
    config = EvaluateConfig(num_resamples=50)
    evaluation = evaluate(lambda f, e, g: np.arange(len(f)), episodes, config, show_progress=False)
    page = write_report(tmp_path / "r.html", evaluation, [], title="a clock").read_text()
    assert "does not beat the clock" in page
    assert "<script>" not in page


needs_browser = pytest.mark.skipif(EXECUTABLE is None, reason="no chromium on this machine; install the package")


@pytest.mark.slow
@needs_browser
def test_the_report_works_in_a_browser(episodes, tmp_path):
    page = write_hostile(episodes, tmp_path / "report.html")
    with Browser(tmp_path / "profile") as browser:
        browser.open(page.as_uri())
        browser.wait("document.documentElement.dataset.ready === 'yes'")
        assert browser.run("window.hacked") is None
        assert HOSTILE in browser.run("document.querySelector('h1').textContent")
        assert browser.run("document.querySelectorAll('main img:not(figure img)').length") == 0
        browser.run("document.getElementById('watch').scrollIntoView()")
        browser.wait("document.querySelectorAll('[data-video=ready]').length >= 2")
        box = browser.run(
            "(({x, y, width, height}) => ({x, y, width, height}))"
            "(document.querySelector('.curve .frame').getBoundingClientRect())"
        )
        middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        last = int(browser.run("document.querySelector('.curve').getAttribute('aria-valuemax')"))

        def frame() -> int:
            shown = int(browser.run("document.querySelector('.curve').getAttribute('aria-valuenow')"))
            browser.wait(f"Math.floor(document.querySelector('video').currentTime * 10 + 0.01) === {shown}")
            return shown

        browser.mouse("mousePressed", *middle)
        assert frame() == pytest.approx(last / 2, abs=1)
        browser.mouse("mouseMoved", box["x"] + box["width"] - 1, middle[1])
        browser.mouse("mouseReleased", box["x"] + box["width"] - 1, middle[1])
        assert frame() == last
        browser.key("ArrowLeft", 37)
        assert frame() == last - 1
        browser.key("Home", 36)
        browser.key("ArrowRight", 39, shift=True)
        assert frame() == 10
        browser.key("Home", 36)
        browser.run("document.querySelector('.buttons button').click()")
        browser.wait(f"Number(document.querySelector('.curve').getAttribute('aria-valuenow')) === {last}")
        browser.run(
            "const o = document.getElementById('outcome'); o.value = 'failure'; o.dispatchEvent(new Event('input'))"
        )
        assert browser.run("document.querySelectorAll('.episode:not([hidden])').length") == 8
        assert browser.run("document.getElementById('count').textContent") == "8 of 12 episodes"
        picture = cv2.imread(str(browser.picture(tmp_path / "page.png")))
        assert picture.std() > 20
        assert browser.errors == []
        assert {request.split(":")[0] for request in browser.requests} <= {"file", "data", "blob"}


@pytest.mark.slow
@needs_browser
def test_videos_without_truth_and_without_players_show_too(episodes, tmp_path):
    bare = [Episode.from_frames(e.all_frames(), id=e.id, fps=12.5) for e in episodes[:3]]
    bare.append(Episode.from_frames(episodes[0].frames([0]), id="one frame", fps=10))
    page = write_report(tmp_path / "r.html", None, score(bare), title="only scores", max_videos=1)
    with Browser(tmp_path / "profile", dark=True) as browser:
        browser.open(page.as_uri())
        browser.wait("document.querySelectorAll('[data-built=yes]').length === 4")
        browser.wait("document.querySelectorAll('[data-video=ready]').length === 1")
        assert browser.run("document.querySelectorAll('canvas').length") == 3
        browser.run(
            "document.querySelectorAll('.curve').forEach(curve => curve.dispatchEvent("
            "new KeyboardEvent('keydown', {key: 'End'})))"
        )
        assert "frame 0" in browser.run(
            "[...document.querySelectorAll('.readout')].map(r => r.textContent).join(' | ')"
        )
        assert browser.errors == []
