"""HOLD-C and HOLD-R: known answers for each formula, and the vectors the original code produced."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy import ndarray

from goldens import golden
from vidreward.evaluate.hold_metrics import hold_metrics
from vidreward.optimizers import learning_rate, make_optimizer
from vidreward.rewards.hold_c import HoldC, HoldCConfig, clip_ids, triplet_loss
from vidreward.rewards.hold_r import HoldR, HoldRConfig, draw_ordered, pairwise_hinge, time_loss
from vidreward.types import EpisodeInfo, Video

# --- HOLD-C's loss ---------------------------------------------------------------------------------------------------

CASES = golden("hold_c_loss/data.npz")


def triplets(embeddings: torch.Tensor, timesteps: torch.Tensor, sequences: torch.Tensor, **kwargs):
    settings = {"positive_radius": 2, "negative_radius": 4, "margin": 0.2, **kwargs}
    total, num_positives = triplet_loss(embeddings[None], timesteps[None], sequences[None], **settings)
    return total[0], int(num_positives[0])


@pytest.mark.parametrize("case", [str(case) for case in CASES["cases"]])
def test_triplet_loss_equals_the_original(case: str) -> None:
    value = {key.removeprefix(f"{case}/"): array for key, array in CASES.items() if key.startswith(f"{case}/")}
    embeddings = torch.from_numpy(value["embeddings"]).requires_grad_()
    total, num_positives = triplets(
        embeddings,
        torch.from_numpy(value["timesteps"]).long(),
        torch.from_numpy(value["sequence_ids"]).long(),
        positive_radius=int(value["pos_radius"]),
        negative_radius=int(value["neg_radius"]),
        margin=float(value["margin"]),
    )
    total.backward()
    np.testing.assert_allclose(total.detach(), value["loss_sum"], rtol=1e-4)
    assert num_positives == value["num_positives"]
    np.testing.assert_allclose(embeddings.grad, value["grad_embeddings"], rtol=1e-3, atol=2e-4)


def test_clip_ids_equal_the_original() -> None:
    names = {key.rsplit("/", 1)[0] for key in CASES if key.startswith("ids/")}
    assert names
    for name in names:
        size, length = (int(part[1:]) for part in name.removeprefix("ids/").split("_"))
        start = max(0, min(3, length - size))
        index = torch.tensor([[start + i if length >= size else i % length for i in range(size)]])
        sequences, timesteps = clip_ids(index)
        np.testing.assert_array_equal(sequences[0], CASES[f"{name}/sequence_ids"])
        np.testing.assert_array_equal(timesteps[0], CASES[f"{name}/timesteps"])


def test_triplet_loss_known_answers() -> None:
    """Values of docs/methods/hold_r.md."""
    one = torch.zeros(12, dtype=torch.long)
    line = 0.1 * torch.arange(12.0)[:, None]
    assert triplets(line, torch.arange(12), one) == (0.0, 42)
    angle = 0.3 * torch.arange(32.0)
    circle = torch.stack([angle.cos(), angle.sin()], 1).double()
    total, num_positives = triplets(circle, torch.arange(32), torch.zeros(32, dtype=torch.long))
    assert total.item() == pytest.approx(12.997030869, rel=1e-5)
    assert num_positives == 122
    sequences, timesteps = clip_ids(torch.tensor([[i % 20 for i in range(32)]]))
    assert triplets(torch.randn(32, 4), timesteps[0], sequences[0])[1] == 116


def test_semi_hard_negative_by_hand() -> None:
    """Positions 0, 1, ..., on a line; anchor 0, positive at 1: the nearest negative beyond it is frame 5."""
    place = torch.tensor([0.0, 1.0, 9.0, 9.0, 9.0, 2.0, 1.5])[:, None]
    total, _ = triplets(place, torch.arange(7), torch.zeros(7, dtype=torch.long), positive_radius=1, margin=10.0)
    expected = 0.0
    for anchor in range(7):
        for positive in {anchor - 1, anchor + 1} & set(range(7)):
            apart = (place[:, 0] - place[anchor, 0]) ** 2
            negatives = [float(apart[k]) for k in range(7) if abs(k - anchor) > 4]
            beyond = [d for d in negatives if d > apart[positive]]
            chosen = min(beyond) if beyond else max(negatives, default=0.0)
            expected += max(0.0, 10.0 + float(apart[positive]) - chosen)
    assert total.item() == pytest.approx(expected)


def test_fixed_triplets_never_push_copies_apart() -> None:
    sequences, timesteps = clip_ids(torch.tensor([[i % 5 for i in range(12)]]))
    embeddings = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    assert triplets(embeddings, timesteps[0], sequences[0])[0] > 0
    assert triplets(embeddings, timesteps[0], sequences[0], as_coded=False) == (0.0, 0)


def test_hold_c_windows() -> None:
    as_coded = HoldC(HoldCConfig(variant="as_coded", depth=14, num_filters=4))
    rng = np.random.default_rng(0)
    starts = {as_coded.sample(EpisodeInfo(id="a", num_frames=34, fps=10), rng)["clip"].index[0] for _ in range(200)}
    assert starts == {0, 1, 2}
    short = as_coded.sample(EpisodeInfo(id="a", num_frames=20, fps=10), rng)["clip"].index
    assert list(short) == [i % 20 for i in range(32)]
    fixed = HoldC(HoldCConfig(depth=14, num_filters=4))
    for _ in range(200):
        index = list(fixed.sample(EpisodeInfo(id="a", num_frames=90, fps=10), rng)["clip"].index)
        assert len(index) == 32
        assert index == sorted(set(index))
        assert max(index) < 90


def test_hold_c_score_is_the_plain_distance() -> None:
    """Squared in the loss, not squared in the score (docs/methods/hold_r.md)."""
    model = HoldC(HoldCConfig(depth=14, num_filters=4)).eval()
    codes, goal = torch.tensor([[[3.0, 4.0], [0.0, 0.0]]]), torch.zeros(1, 1, 2)
    video = Video.from_frames(torch.zeros(1, 2, 3, 8, 8, dtype=torch.uint8), goal=torch.zeros(1, 1, 3, 8, 8).byte())
    assert model.score_codes(codes, goal, video).tolist() == [[-5.0, 0.0]]


# --- HOLD-R's loss ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask_name", ["full", "partial"])
@pytest.mark.parametrize("mode", ["steps", "seconds", "hinge"])
def test_time_loss_equals_the_original(mode: str, mask_name: str) -> None:
    value = golden("hold_r_loss/data.npz")
    prediction = torch.from_numpy(value["pred"][:, 0]).requires_grad_()
    if mode == "hinge":
        rescaled = prediction * torch.from_numpy(value["frame_rate"][:, 0]) / float(value["mean_fps"])
        mask = torch.from_numpy(value[f"mask_{mask_name}"])
        loss = pairwise_hinge(*rescaled.chunk(2), mask=mask[:4])  # the first half is "start", the second "middle"
    else:
        loss, _ = time_loss(
            prediction,
            torch.from_numpy(value["targets_steps"][:, 0]).float(),
            torch.from_numpy(value["frame_rate"][:, 0]),
            torch.tensor(float(value["mean_fps"])),
            seconds=mode == "seconds",
            mask=torch.from_numpy(value[f"mask_{mask_name}"]),
        )
    loss.backward()
    np.testing.assert_allclose(loss.detach(), value[f"{mode}_{mask_name}/loss"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(prediction.grad, value[f"{mode}_{mask_name}/grad"][:, 0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mask_name", ["full", "partial"])
@pytest.mark.parametrize("mode", ["steps", "seconds"])
def test_validation_metrics_equal_the_original(mode: str, mask_name: str) -> None:
    """One pair of frames a video, each with its own rate; the arithmetic is that of whole videos."""
    value = golden("hold_r_loss/data.npz")
    mask = value[f"mask_{mask_name}"] > 0
    mean_fps = float(value["mean_fps"])
    found = hold_metrics(
        value["pred"][mask, 0],
        frame_rate=value["frame_rate"][mask, 0],  # type: ignore[arg-type]
        mean_fps=mean_fps,
        predict_seconds=mode == "seconds",
        targets=value["targets_steps"][mask, 0],
    )
    for kind in ("mean_absolute_error", "mean_squared_error"):
        for unit in ("", "_steps", "_seconds"):
            expected = [value[f"{mode}_{mask_name}/valmetric/{kind}{unit}/{part}"] for part in ("value", "norm")]
            np.testing.assert_allclose(found[f"{kind}{unit}"], expected, rtol=1e-5, err_msg=f"{kind}{unit}")
    scaled = torch.from_numpy(value["pred"][:, 0]) * (mean_fps if mode == "seconds" else 1.0)
    hinge = pairwise_hinge(*scaled.chunk(2), mask=torch.from_numpy(value[f"mask_{mask_name}"])[:4])
    name = f"{mode}_{mask_name}/valmetric/pairwise_hinge_loss"
    np.testing.assert_allclose(hinge, value[f"{name}/value"], rtol=1e-5)


def test_time_loss_known_answer() -> None:
    """Values of docs/methods/hold_r.md."""
    loss, error = time_loss(
        torch.tensor([10.0, 20.0]),
        torch.tensor([11.0, 15.0]),
        torch.tensor([12.0, 10.0]),
        torch.tensor(11.841645719966037),
    )
    assert loss.item() == pytest.approx(2.160403653, rel=1e-6)
    np.testing.assert_allclose(error + torch.tensor([11.0, 15.0]), [10.133726582, 16.889544300], rtol=1e-6)


def test_fixed_time_loss_known_answer() -> None:
    """Errors 1 and 10 in units of the mean target 4: Huber gives 0.25^2 / 2 and 2.5 - 0.5."""
    loss, _ = time_loss(
        torch.tensor([3.0, 16.0]), torch.tensor([2.0, 6.0]), torch.full((2,), 10.0), torch.tensor(10.0), variant="fixed"
    )
    assert loss.item() == pytest.approx((0.25**2 / 2 + 2.0) / 2)


def test_pairs_are_uniform_over_ordered_pairs() -> None:
    """docs/methods/hold_r.md: start s with probability (L-1-s) / (L(L-1)/2), then the goal uniform after it."""
    rng = np.random.default_rng(0)
    counts: dict[tuple[int, int], int] = {}
    for _ in range(12_000):
        s, g = draw_ordered(5, 2, rng)
        counts[s, g] = counts.get((s, g), 0) + 1
    assert sorted(counts) == [(s, g) for s in range(5) for g in range(s + 1, 5)]
    assert all(abs(count - 1200) < 5 * np.sqrt(1200) for count in counts.values())


def test_fixed_draws_half_of_the_goals_at_the_end() -> None:
    model = HoldR(HoldRConfig(depth=14, num_filters=4), mean_fps=10)
    rng, last = np.random.default_rng(0), 0
    for _ in range(2000):
        picks = model.sample(EpisodeInfo(id="a", num_frames=50, fps=10), rng)
        (s,), (g,) = picks["state"].index, picks["goal"].index
        assert 0 <= s <= g < 50
        last += g == 49
    assert last / 2000 == pytest.approx(0.5 + 0.5 * 2 / 50, abs=0.04)


def test_history_repeats_the_first_frame() -> None:
    model = HoldR(HoldRConfig(variant="as_coded", depth=14, num_filters=4, num_history=3), mean_fps=10)

    class First:
        def choice(self, *args: object, **kwargs: object) -> ndarray:
            return np.array([1, 4])

    picks = model.sample(EpisodeInfo(id="a", num_frames=5, fps=10), First())  # type: ignore[arg-type]
    assert list(picks["state"].index) == [0, 0, 1]
    assert list(picks["goal"].index) == [4]


def test_hold_r_reads_the_goal_last() -> None:
    """Channel order: oldest frame first, goal last (docs/methods/hold_r.md)."""
    model = HoldR(HoldRConfig(depth=14, num_filters=4, num_history=3), mean_fps=10).eval()
    frames = torch.randint(0, 256, (1, 3, 3, 16, 16), dtype=torch.uint8)
    goal = torch.randint(0, 256, (1, 1, 3, 16, 16), dtype=torch.uint8)
    stacked = torch.cat([frames[0, 0], frames[0, 1], frames[0, 2], goal[0, 0]])[None]
    with torch.inference_mode():
        expected = model.network(stacked)[0, 0]
        score = model.score(Video.from_frames(frames, goal=goal))[0, -1]
    torch.testing.assert_close(score, -expected)


# --- schedule and optimisers -----------------------------------------------------------------------------------------


def test_learning_rate_equals_the_original() -> None:
    value = golden("hold_schedule/data.npz")
    for name in value["schedules"]:
        base_lr = float(value[f"{name}/base_lr"])
        found = [
            learning_rate(
                int(step),
                base_lr=base_lr,
                total_steps=int(value[f"{name}/total_steps"]),
                warmup_steps=int(value[f"{name}/warmup_steps"]),
            )
            for step in value[f"{name}/step"]
        ]
        np.testing.assert_allclose(found, value[f"{name}/lr"], rtol=1e-4, atol=1e-6 * base_lr)


@pytest.mark.parametrize(("original", "name", "rtol"), [("adam", "adam", 1e-5), ("momentum_hp", "momentum_bf16", 1e-5)])
def test_optimisers_equal_the_original(original: str, name: str, rtol: float) -> None:
    value = golden("hold_schedule/data.npz")
    parameters = [torch.nn.Parameter(torch.from_numpy(value[f"opt/{key}0"])) for key in "wb"]
    optimizer = make_optimizer(parameters, name, lr=1.0)  # type: ignore[arg-type]
    for i, lr in enumerate(value["opt/lr"]):
        optimizer.param_groups[0]["lr"] = float(lr)
        for parameter, key in zip(parameters, "wb", strict=True):
            parameter.grad = torch.from_numpy(value[f"opt/grad_{key}"][i])
        optimizer.step()
        for parameter, key in zip(parameters, "wb", strict=True):
            np.testing.assert_allclose(parameter.detach(), value[f"opt/{original}/{key}"][i], rtol=rtol, atol=1e-5)
