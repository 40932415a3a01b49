"""fit: exact resume, refusals, divergence; and the sampler and the augmentation it feeds on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from clips import write_clips
from dots import dot_episodes
from vidreward.augment import Augment, augment_batch, augment_frames
from vidreward.checkpoint import Description, RunFolder, load, save_checkpoint, start_from
from vidreward.data.encode import write_video
from vidreward.data.sampler import SampledFrames
from vidreward.jobs import train
from vidreward.log import Logger
from vidreward.nets.batch_norm import ClipBatchNorm2d
from vidreward.rewards.hold_c import HoldC, HoldCConfig, recipe
from vidreward.rewards.hold_r import HoldR, HoldRConfig
from vidreward.run_config import check_config
from vidreward.train import LossWatch, Saving, TrainingDivergedError, fit, validate
from vidreward.train_config import FitConfig
from vidreward.types import DataSpec, Episode, EpisodeInfo, Pick, Video

CONFIG = HoldCConfig(depth=14, num_filters=4, num_frames=8, embedding_dim=4, augment=Augment(zoom=(1, 1.2), hue=0.5))
HOLD_R = HoldRConfig(depth=14, num_filters=4)
SPEC = DataSpec(height=32, width=32, fps=10.0)
FIT = FitConfig(steps=12, batch_size=2, lr=1e-3, checkpoint_every=5, log_every=4, val_every=6, device="cpu")
QUIET = Logger(None, quiet=True)


def make_model(config: HoldCConfig = CONFIG) -> HoldC:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return HoldC(config)


def saving_in(folder: Path, fingerprint: str = "data") -> Saving:
    description = Description(reward="hold_c", config=CONFIG, data=SPEC, preprocessing={"size": 32})
    return Saving(run=RunFolder(folder), description=description, fingerprint=fingerprint)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    newest = RunFolder(folder).newest()
    assert newest is not None
    return load_file(newest / "model.safetensors")


class InterruptingLogger:
    """A Logger that gets Ctrl-C in the middle of a step."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.log = Logger(None, quiet=True)

    def start(self, *args: int) -> None:
        self.log.start(*args)

    def step(self, step: int) -> None:
        if step == self.at:
            os.kill(os.getpid(), signal.SIGINT)
        self.log.step(step)

    def scalars(self, step: int, values: Mapping[str, torch.Tensor | float]) -> None:
        self.log.scalars(step, values)


def test_interrupted_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    episodes = dot_episodes(5)
    fit(make_model(), episodes, FIT, QUIET, saving=saving_in(tmp_path / "whole"))
    for stop in (3, 8):
        with pytest.raises(KeyboardInterrupt, match=f"step {stop}"):
            fit(make_model(), episodes, FIT, InterruptingLogger(stop), saving=saving_in(tmp_path / "cut"))  # type: ignore[arg-type]
    fit(make_model(), episodes, FIT, QUIET, saving=saving_in(tmp_path / "cut"))
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert whole.keys() == cut.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, cut[name]), name
    assert len(list((tmp_path / "cut" / "checkpoints").iterdir())) == 2


def test_finished_run_is_left_alone(tmp_path: Path) -> None:
    first = fit(make_model(), dot_episodes(5), FIT, QUIET, saving=saving_in(tmp_path))
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    again = fit(make_model(), dot_episodes(5), FIT, QUIET, saving=saving_in(tmp_path))
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()} == before
    for one, other in zip(first.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_resume_refuses_other_data(tmp_path: Path) -> None:
    fit(make_model(), dot_episodes(5), replace(FIT, steps=3), QUIET, saving=saving_in(tmp_path))
    with pytest.raises(ValueError, match="other videos"):
        fit(make_model(), dot_episodes(5), FIT, QUIET, saving=saving_in(tmp_path, "changed"))


def test_results_depend_on_the_seed_and_on_nothing_else() -> None:
    episodes = dot_episodes(5)
    states = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(noise)
        states.append(fit(make_model(), episodes, replace(FIT, seed=seed), QUIET).network.fc.weight)
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


class NotANumber(HoldC):
    """Diverges on one episode only."""

    def loss(self, batch, agent=None):  # type: ignore[no-untyped-def]
        loss, scalars = super().loss(batch, agent)
        return loss * torch.nan, scalars


def test_divergence_names_the_episodes_and_spares_the_weights() -> None:
    model = NotANumber(CONFIG)
    before = model.network.fc.weight.detach().clone()
    with pytest.raises(TrainingDivergedError, match=r"step 0.*dots-0-\d, dots-0-\d"):
        fit(model, dot_episodes(3), FIT, QUIET)
    assert torch.equal(before, model.network.fc.weight)


def test_losses_are_looked_at_late_but_named_exactly() -> None:
    """As on a GPU, which nobody waits for at every step."""
    watch = LossWatch(every=4)
    for step, loss in enumerate([1.0, 2.0, float("inf")]):
        watch.add(step, torch.tensor(loss), (f"episode {step}",))
    with pytest.raises(TrainingDivergedError, match="the loss is inf at step 2, on episodes episode 2;"):
        watch.add(3, torch.tensor(float("nan")), ("episode 3",))
    watch.add(4, torch.tensor(float("nan")), ("episode 4",))
    with pytest.raises(TrainingDivergedError, match="step 4"):
        watch.check()
    watch.check()


class InfiniteGradient(HoldC):
    """Has a finite loss, whose gradient is not."""

    def loss(self, batch, agent=None):  # type: ignore[no-untyped-def]
        loss, scalars = super().loss(batch, agent)
        return loss + (self.network.fc.bias[0] - self.network.fc.bias[0].detach()).abs().sqrt(), scalars


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    with pytest.raises(TrainingDivergedError, match="weights are not finite after step 0"):
        fit(InfiniteGradient(CONFIG), dot_episodes(3), replace(FIT, steps=1), QUIET, saving=saving_in(tmp_path))
    assert not (tmp_path / "last").exists()


def test_training_starts_from_given_weights(tmp_path: Path) -> None:
    """Weights and running statistics come along; what describes the videos at hand stays."""
    trained = fit(HoldR(HOLD_R, mean_fps=8.0), dot_episodes(3), replace(FIT, steps=2), QUIET)
    description = Description(reward="hold_r", config=HOLD_R, data=SPEC, preprocessing={"size": 32})
    save_checkpoint(tmp_path / "given", trained, description, provenance={})
    model = HoldR(HOLD_R, mean_fps=12.0)
    start_from(model, str(tmp_path / "given"))
    for name, tensor in trained.state_dict().items():
        if name.startswith("network."):
            assert torch.equal(tensor, model.state_dict()[name]) or name.endswith("num_batches_tracked"), name
    assert (model.mean_fps, model.normalizer) == (12.0, 1.0)
    with pytest.raises(ValueError, match=r"network.fc.weight is .*, the model has"):
        start_from(make_model(), str(tmp_path / "given"))
    with pytest.raises(ValueError, match="HoldC has no published weights"):
        start_from(make_model(), "no_such_thing")


def test_a_run_notes_where_it_started_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDREWARD_CACHE", str(tmp_path / "cache"))
    debug = recipe("debug")
    data, how = replace(debug.data, path=str(write_clips(tmp_path / "videos", 3))), replace(debug.fit, steps=1)
    given = replace(debug, data=data, fit=how, out=tmp_path / "given")
    train(given, reward="hold_c", quiet=True)
    # a rate of nearly nothing, and another seed: the weights can only be those given
    config = replace(given, fit=replace(how, lr=1e-30, seed=1), out=tmp_path / "run", init_from=str(tmp_path / "given"))
    train(config, reward="hold_c", quiet=True)
    name = "network.layer4.0.conv1.weight"
    assert torch.equal(weights(tmp_path / "run")[name], weights(tmp_path / "given")[name])
    with pytest.raises(ValueError, match=r"init_from was '.*given', is None"):
        check_config(replace(config, init_from=None), "hold_c")


def test_validation_is_the_same_each_time() -> None:
    model = make_model().eval()
    first, second = (validate(model, dot_episodes(4), FIT) for _ in range(2))
    assert first == second
    assert -1 <= float(first["value_order_correlation"]) <= 1


# --- sampler ---------------------------------------------------------------------------------------------------------


def test_every_episode_once_per_pass() -> None:
    sampler = SampledFrames(dot_episodes(6), make_model(), 2, seed=3)
    for epoch in range(3):
        ids = [name for step in range(3) for name in sampler.batch(3 * epoch + step).episode_ids]
        assert sorted(ids) == [f"dots-0-{i}" for i in range(6)]


def test_batches_do_not_depend_on_where_reading_starts() -> None:
    sampler = SampledFrames(dot_episodes(6), make_model(), 2, seed=3)
    late = [batch.videos["clip"].frames for batch in sampler.batches(4, 7, num_workers=2)]
    for step, frames in zip(range(4, 7), late, strict=True):
        assert torch.equal(frames, sampler.batch(step).videos["clip"].frames)


class AskedFor(HoldC):
    """Asks for frames, an episode's number of them, and for labels without pixels."""

    def sample(self, episode: EpisodeInfo, rng: np.random.Generator) -> dict[str, Pick]:
        return {"some": Pick(index=[2, 0, *range(episode.num_frames - 3)]), "labels": Pick(index=[1, 3], pixels=False)}


def test_sampler_pads_and_fills_labels() -> None:
    rng = np.random.default_rng(0)
    episodes = []
    for num_frames in (5, 7):
        frames = rng.integers(0, 256, (num_frames, 3, 8, 8), dtype=np.uint8)
        columns = {"progress": np.linspace(0, 1, num_frames), "action": rng.normal(size=(num_frames, 3))}
        episodes.append(Episode.from_frames(frames, id=str(num_frames), fps=num_frames, success=True, columns=columns))
    batch = SampledFrames(episodes, AskedFor(CONFIG), 2, seed=0).batch(0)
    some, labels = batch.videos["some"], batch.videos["labels"]
    short = batch.episode_ids.index("5")
    assert some.frames.shape == (2, 6, 3, 8, 8)
    assert some.length[short] == 4
    assert some.index[short].tolist() == [2, 0, 0, 1, 1, 1]
    assert torch.equal(some.frames[short], torch.from_numpy(episodes[0].frames([2, 0, 0, 1, 1, 1])))
    assert some.fps[short] == 5
    assert labels.frames.shape[1] == 0
    np.testing.assert_allclose(labels.labels["progress"][short], [0.25, 0.75])
    assert labels.action is not None
    np.testing.assert_allclose(labels.action[short], episodes[0].columns["action"][[1, 3]], rtol=1e-6)
    assert labels.labels["success"].tolist() == [1, 1]


def test_frames_of_two_sizes_are_refused() -> None:
    batch = SampledFrames([*dot_episodes(1), *dot_episodes(1, size=24)], make_model(), 2, seed=0).batch(0)
    with pytest.raises(ValueError, match="one size"):
        augment_batch(batch.videos, Augment(), torch.Generator())


# --- augmentation ----------------------------------------------------------------------------------------------------


def test_one_draw_is_shared_by_all_frames_and_names() -> None:
    frame = torch.randint(0, 256, (3, 1, 3, 16, 16), dtype=torch.uint8)
    video = Video.from_frames(frame.expand(-1, 4, -1, -1, -1), goal=frame)
    config = Augment(
        zoom=(1, 1.4), shift=0.1, flip=0.5, brightness=0.4, contrast=0.4, saturation=0.5, hue=0.5, grey=0.2
    )
    out = augment_batch({"a": video, "b": video}, config, torch.Generator().manual_seed(0))
    assert out["b"].goal is not None
    for t in range(4):
        assert torch.equal(out["a"].frames[:, t], out["b"].goal[:, 0])
    assert not torch.equal(out["a"].frames[0], out["a"].frames[1])
    assert not torch.equal(out["a"].frames, video.frames)


def test_augmentation_known_answers() -> None:
    frames = torch.randint(0, 256, (1, 2, 3, 8, 8), dtype=torch.uint8)
    half = torch.full((1, 11), 0.5)
    assert torch.equal(augment_frames(frames, Augment(zoom=(0.5, 1.5), brightness=0.5, contrast=0.5), half), frames)
    turned = half.clone()
    turned[:, 10] = 1.0
    assert torch.equal(augment_frames(frames, Augment(rotate=90), turned), frames.rot90(1, (-2, -1)))
    mirrored = augment_frames(frames, Augment(flip=1.0), half)
    assert torch.equal(mirrored, frames.flip(-1))
    bright = half.clone()
    bright[:, 7] = 1.0
    expected = (frames.float() * 1.5).round().clamp(max=255).byte()
    torch.testing.assert_close(augment_frames(frames, Augment(brightness=0.5), bright), expected, rtol=0, atol=1)
    grey = augment_frames(frames, Augment(grey=1.0), half)
    luma = (frames.float() * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(2, keepdim=True)
    torch.testing.assert_close(grey.float(), luma.expand_as(grey), rtol=0, atol=1)


def test_zoom_stays_inside_the_picture() -> None:
    """Twice magnified, a corner draw shows the corner's quarter."""
    ramp = torch.arange(16.0).view(1, 1, 1, 1, 16).expand(1, 1, 3, 16, 16).byte() * 10
    draws = torch.full((1, 11), 1.0)
    zoomed = augment_frames(ramp, Augment(zoom=(1.0, 2.0)), draws)
    assert zoomed[..., 0].float().mean() == pytest.approx(80, abs=5)
    assert zoomed[..., -1].float().mean() == pytest.approx(150, abs=5)


# --- compiled --------------------------------------------------------------------------------------------------------


class SmallNetwork(nn.Module):
    """Small enough to be compiled in a test."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 2, 1, bias=False)
        self.norm = ClipBatchNorm2d(4)
        self.fc = nn.Linear(4, 4)

    def forward(self, images: torch.Tensor, num_clips: int | None = None) -> torch.Tensor:
        x = images.contiguous(memory_format=torch.channels_last).float() / 255
        return self.fc(torch.relu(self.norm(self.conv(x), num_clips)).mean((2, 3)))


@pytest.mark.slow
def test_compiled_training_equals_eager() -> None:
    how = replace(FIT, steps=3, optimizer="momentum_bf16", precision="fp32")
    config = replace(CONFIG, variant="as_coded")
    states = []
    for compiled in (None, False, True):
        model = make_model(config)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model.network = SmallNetwork()  # type: ignore[assignment]
        if compiled is not None:
            fit(model, dot_episodes(4), replace(how, compile=compiled), QUIET)
        states.append(model.state_dict())
    start, eager, compiled_ = states
    for name, tensor in eager.items():
        if tensor.is_floating_point():
            change = float((tensor - start[name]).abs().max())
            assert float((compiled_[name] - tensor).abs().max()) <= 1e-3 * change + 1e-7, name
    assert not torch.equal(start["network.conv.weight"], eager["network.conv.weight"])


# --- killed for real -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_training_killed_at_ten_random_moments_gives_identical_weights(tmp_path: Path) -> None:
    for i, episode in enumerate(dot_episodes(8)):
        write_video(tmp_path / "videos" / f"{i}.mp4", episode.all_frames(), 10.0)
    base = [
        sys.executable,
        "-m",
        "vidreward",
        "train",
        "hold_c",
        "--preset",
        "debug",
        "--data",
        str(tmp_path / "videos"),
    ]
    base += ["--fit.steps", "400", "--fit.checkpoint-every", "7", "--data.cache-dir", str(tmp_path / "cache")]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*base, "--out", str(tmp_path / "whole")], check=True, env=env, capture_output=True)
    run = RunFolder(tmp_path / "cut")
    rng = random.Random(0)
    for _ in range(10):
        before = run.newest()
        process = subprocess.Popen([*base, "--out", str(run.path)], env=env, stderr=subprocess.DEVNULL)
        # A run is killed while it starts, or after its next checkpoint: clocks of a busy machine decide nothing.
        if rng.random() < 0.7:
            deadline = time.monotonic() + 120
            while run.newest() == before and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.1))
        assert process.poll() is None, "the run ended before it was killed"
        process.kill()
        process.wait()
        newest = run.newest()
        if newest is not None:
            load(newest)  # never half a checkpoint
    assert before is not None, "no checkpoint was written between two kills"
    subprocess.run([*base, "--out", str(tmp_path / "cut")], check=True, env=env, capture_output=True)
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    for name, tensor in whole.items():
        assert torch.equal(tensor, cut[name]), name


def test_recipes_exist() -> None:
    assert recipe().fit.steps > recipe("debug").fit.steps
    with pytest.raises(ValueError, match="there are default, topdown, paper"):
        recipe("fast")
