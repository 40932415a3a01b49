"""RandAugment: every operation against the same arithmetic image by image, and by hand; draws; variants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from vidreward.augment import HOLD, HOLD_FIXED, Augment, augment_batch
from vidreward.margin import FRAME_SIZE
from vidreward.randaugment import NUM_DRAWS, OPERATIONS, RandAugment, randaugment
from vidreward.types import Video

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
AS_CODED = RandAugment(num_layers=1)
FIXED = RandAugment(num_layers=1, variant="fixed", magnitude=10)


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the same arithmetic written image by image."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import plain_augment

    return plain_augment


def draw(*operations: str, row: float = 0.5, column: float = 0.5, applied: float = 0.0) -> Tensor:
    """Write down the draws of one sample that give these operations, one a layer."""
    names = [*OPERATIONS, "nothing"]
    draws = [[(names.index(name) + 0.5) / 12, 0.5, applied, row, column] for name in operations]
    return torch.tensor(draws)[None]


def apply(name: str, frames: Tensor, config: RandAugment = AS_CODED, **places: float) -> Tensor:
    """Apply one operation to frames (S, 3, H, W) of one sample."""
    real = torch.ones((1, len(frames)), dtype=torch.bool)
    return randaugment(frames[None], real, config, draw(name, **places))[0]


def values(*given: int) -> Tensor:
    """Make a frame of one line, the same in all channels: (1, 3, 1, W)."""
    return torch.tensor(given, dtype=torch.uint8).expand(1, 3, 1, -1).contiguous()


def make_frames(*shape: int, seed: int = 0) -> Tensor:
    """Draw frames whose channels have different ranges, with flat and busy regions."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 200, shape).clip(30, 160) + np.array([0, 15, 40]).reshape(3, 1, 1)
    frames[..., : shape[-1] // 2] = frames[..., :1]
    return torch.from_numpy(frames.astype(np.uint8))


# --- against the same arithmetic, image by image ---------------------------------------------------------------------


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("size", [(256, 256), (24, 40)])
def test_operation_equals_image_by_image(plain: ModuleType, name: str, size: tuple[int, int]) -> None:
    frames = make_frames(3, 3, *size)
    images = [frame.permute(1, 2, 0).numpy() for frame in frames]
    if name == "cutout":
        pads = [round(80 * side / 256) for side in size]
        row, column = int(0.9 * size[0]), int(0.3 * size[1])
        expected = [image.copy() for image in images]
        for image in expected:
            image[max(0, row - pads[0]) : row + pads[0], max(0, column - pads[1]) : column + pads[1]] = 0
        if size == (256, 256):
            assert np.array_equal(expected, [plain.cutout(image, row, column, 80) for image in images])
    else:
        expected = plain.operate(OPERATIONS.index(name), images, 0.9, 0.3)
    out = apply(name, frames, row=0.9, column=0.3).permute(0, 2, 3, 1).numpy()
    different = (out != np.stack(expected)).any(-1)
    if name == "color":
        # the grey is cut to a whole number: where float32 cannot tell on which side of one it lies, either is right
        mixed = frames.double().permute(0, 2, 3, 1).numpy() @ np.array([0.2989, 0.587, 0.114]) * (255.5 / 255)
        doubtful = np.abs(mixed - np.round(mixed)) < 1e-4
        assert not (different & ~doubtful).any()
        assert different.mean() < 1e-3
    else:
        assert not different.any()
    assert (out != frames.permute(0, 2, 3, 1).numpy()).any() == (name not in ("posterize", "solarize"))


# --- by hand ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("invert", (0, 1, 254, 255), (255, 254, 1, 0)),
        ("posterize", (0, 77, 255), (0, 77, 255)),
        ("solarize", (0, 128, 255), (0, 128, 255)),
        ("solarize_add", (0, 30, 35, 36, 127, 128, 200), (220, 250, 255, 255, 255, 128, 200)),
        ("brightness", (0, 1, 10, 68, 69, 200), (0, 3, 37, 251, 255, 255)),  # 3.7 x, cut off
        ("contrast", (255, 254, 200, 187, 186, 0), (255, 251, 51, 3, 0, 0)),  # 255 - 3.7 (255 - x)
        ("autocontrast", (50, 100, 150, 250), (0, 63, 127, 255)),  # 255 / 200 (x - 50) = 63.75, 127.5
        ("autocontrast", (80, 80, 80), (80, 80, 80)),
    ],
)
def test_values_by_hand(name: str, given: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert torch.equal(apply(name, values(*given)), values(*expected))


def test_equalize_by_hand() -> None:
    """1020 pixels, 510 of them the brightest: a step is (1020 - 510) // 255 = 2 pixels a level."""
    line = [10] * 100 + [20] * 310 + [30] * 100 + [40] * 510
    out = apply("equalize", values(*line))
    levels = [0, (100 + 1) // 2, (410 + 1) // 2, 255]
    assert torch.equal(out, values(*([levels[0]] * 100 + [levels[1]] * 310 + [levels[2]] * 100 + [levels[3]] * 510)))
    few = values(*range(0, 250, 2))  # fewer pixels than levels: no step, nothing changes
    assert torch.equal(apply("equalize", few), few)


def test_sharpness_by_hand() -> None:
    frame = torch.full((1, 3, 3, 3), 100, dtype=torch.uint8)
    frame[..., 1, 1] = 113
    # smooth: (8 * 100 + 5 * 113) / 13 = 105; 105 + 3.7 * 8 = 134.6, cut off
    expected = frame.clone()
    expected[..., 1, 1] = 134
    assert torch.equal(apply("sharpness", frame), expected)
    flat = torch.full((1, 3, 5, 5), 77, dtype=torch.uint8)
    assert torch.equal(apply("sharpness", flat), flat)


def test_color_by_hand() -> None:
    frame = torch.tensor([100, 50, 20], dtype=torch.uint8).view(1, 3, 1, 1)
    # grey: (29.89 + 29.35 + 2.28) * 255.5 / 255 = 61.6, cut to 61; 61 + 3.7 * (39, -11, -41)
    assert apply("color", frame).flatten().tolist() == [205, 20, 0]
    white = torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)
    assert torch.equal(apply("color", white), white)


def test_cutout_by_hand() -> None:
    """80 pixels to each side at 256, in all frames alike; what lies outside is lost."""
    frames = torch.full((2, 3, 256, 256), 9, dtype=torch.uint8)
    out = apply("cutout", frames, row=0.5, column=0.0)
    expected = frames.clone()
    expected[:, :, 48:208, :80] = 0
    assert torch.equal(out, expected)
    small = apply("cutout", frames[..., :64, :64], row=63.5 / 64, column=0.5)
    assert (small == 0).sum() == 2 * 3 * 21 * 40


# --- the sample as one picture ---------------------------------------------------------------------------------------


def test_statistics_are_those_of_all_names() -> None:
    """The dark state and the bright goal of a row are stretched together, and not with other rows."""
    state = Video.from_frames(torch.full((2, 3, 3, 4, 4), 60, dtype=torch.uint8))
    goal = Video.from_frames(torch.full((2, 1, 3, 4, 4), 160, dtype=torch.uint8))
    state.frames[0, 0, :, 0, 0] = 110
    draws = make_generator_for("autocontrast", 2)
    out = augment_batch({"state": state, "goal": goal}, Augment(randaugment=AS_CODED), draws)
    assert out["goal"].frames.unique().tolist() == [255]
    assert out["state"].frames.unique().tolist() == [0, 127]


def test_padding_does_not_count() -> None:
    frames = torch.cat([make_frames(1, 3, 16, 16), make_frames(1, 3, 16, 16, seed=1)])
    padded = torch.cat([frames, frames[1:].expand(5, -1, -1, -1)])
    real = torch.tensor([[True, True] + [False] * 5])
    for name in ("equalize", "autocontrast"):
        out = randaugment(padded[None], real, AS_CODED, draw(name))[0]
        assert torch.equal(out[:2], apply(name, frames))
    grey = randaugment(padded[None], real, FIXED, draw("contrast"))[0]
    assert torch.equal(grey[:2], apply("contrast", frames, FIXED))


def make_generator_for(name: str, num_rows: int) -> torch.Generator:
    """Find a generator whose draws give every row this operation."""
    for seed in range(10_000):
        generator = torch.Generator().manual_seed(seed)
        torch.rand(num_rows, 11, generator=generator)
        layers = torch.rand(num_rows, 1, NUM_DRAWS, generator=generator)
        if ((layers[:, 0, 0] * 12).long() == OPERATIONS.index(name)).all():
            return torch.Generator().manual_seed(seed)
    raise AssertionError("no seed")


def test_frames_lie_one_below_the_other_as_coded_and_apart_when_fixed() -> None:
    """The line between two frames is smoothed across as coded; the sample's own border stays."""
    frames = torch.zeros((2, 3, 4, 4), dtype=torch.uint8)
    frames[1] = 130
    coded, fixed = apply("sharpness", frames), apply("sharpness", frames, FIXED)
    # smooth is 3 * 130 / 13 = 30 above the edge and 130 - 30 below: 30 - 3.7 * 30 < 0, 100 + 3.7 * 30 = 211
    assert coded[1, 0, 0].tolist() == [130, 211, 211, 130]
    assert coded[0, 0, -1].tolist() == [0, 0, 0, 0]
    assert torch.equal(fixed, frames)


def test_rows_draw_for_themselves(plain: ModuleType) -> None:
    """Two layers of every pair of operations, each row of a batch its own, equal image by image."""
    rng = np.random.default_rng(0)
    layers = torch.from_numpy(rng.random((40, 2, NUM_DRAWS)).astype(np.float32))
    layers[:12, 0, 0] = (torch.arange(12) + 0.5) / 12
    frames = torch.stack([make_frames(2, 3, 20, 24, seed=seed) for seed in range(40)])
    before = frames.clone()
    config = replace(AS_CODED, num_layers=2)
    out = randaugment(frames, torch.ones((40, 2), dtype=torch.bool), config, layers)
    assert torch.equal(frames, before)
    num_compared = 0
    for i in range(40):
        numbers = [int(number) for number in layers[i, :, 0] * 12]
        if 9 in numbers or 5 in numbers:  # the plain box is that of 256 pixels; the grey is compared above
            continue
        images = [frame.permute(1, 2, 0).numpy() for frame in frames[i]]
        for number in numbers:
            images = plain.operate(number, images, 0.0, 0.0)
        assert np.array_equal(np.stack(images).transpose(0, 3, 1, 2), out[i]), numbers
        num_compared += 1
    assert num_compared > 20


def test_whole_pipeline_equals_image_by_image(plain: ModuleType) -> None:
    """HOLD's pipeline on rows of several shapes, state and goal together: the pixels of the plain loop."""
    sizes = [(288, 330), (288, 300), (300, 288)]
    state, goal = (torch.zeros((3, num, 3, 300, 330), dtype=torch.uint8) for num in (3, 1))
    for i, (height, width) in enumerate(sizes):
        for video in (state, goal):
            video[i, :, :, :height, :width] = make_frames(video.shape[1], 3, height, width, seed=i)
    labels = {FRAME_SIZE: torch.tensor(sizes)}
    batch = {"state": replace(Video.from_frames(state), labels=labels)}
    batch["goal"] = replace(Video.from_frames(goal), labels=labels)
    for seed in range(2):
        out = augment_batch(batch, HOLD, torch.Generator().manual_seed(seed), size=(256, 256))
        generator = torch.Generator().manual_seed(seed)
        draws = torch.rand(3, 11, generator=generator).numpy()
        layers = torch.rand(3, 2, NUM_DRAWS, generator=generator).numpy()
        for i, (height, width) in enumerate(sizes):
            stacked = torch.cat([state[i], goal[i]])[:, :, :height, :width].permute(0, 2, 3, 1).numpy()
            expected = np.stack(plain.augment(list(stacked), 256, draws[i], layers[i])).transpose(0, 3, 1, 2)
            found = torch.cat([out["state"].frames[i], out["goal"].frames[i]]).numpy()
            assert (found != expected).mean() < 1e-3  # a grey between two whole numbers, see above


# --- variants and draws ----------------------------------------------------------------------------------------------


def test_fixed_contrast_is_around_the_mean_grey() -> None:
    frames = torch.cat([values(40, 60), values(140, 160)])  # mean 100; level 10 is a factor of 1.9
    assert apply("contrast", frames, FIXED)[:, 0, 0].tolist() == [[0, 24], [176, 214]]


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("posterize", (0, 15, 16, 255), (0, 0, 16, 240)),  # 4 bits
        ("solarize", (0, 128, 255), (0, 128, 255)),  # from 256 on: none
        ("solarize_add", (0, 17, 18, 127, 128), (110, 127, 128, 237, 128)),
        ("brightness", (0, 10, 134, 135), (0, 19, 254, 255)),
    ],
)
def test_level_10_by_hand(name: str, given: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert torch.equal(apply(name, values(*given), FIXED), values(*expected))


def test_lower_levels_by_hand() -> None:
    """Level 5: 2 bits, inverted from 128 on, a factor of 1, a box of 20 pixels to each side."""
    config = replace(FIXED, magnitude=5)
    assert torch.equal(apply("posterize", values(63, 64, 200), config), values(0, 64, 192))
    assert torch.equal(apply("solarize", values(0, 127, 128, 255), config), values(0, 127, 127, 0))
    frames = make_frames(2, 3, 16, 16)
    for name in ("color", "contrast", "brightness", "sharpness"):
        assert torch.equal(apply(name, frames, config), frames)
    box = apply("cutout", torch.full((1, 3, 256, 256), 9, dtype=torch.uint8), config)
    assert (box == 0).sum() == 3 * 40 * 40


def test_operations_are_drawn_equally_often_and_fixed_applies_half_of_them() -> None:
    """Of 12000 rows, 11 in 12 draw an operation; fixed applies it with a probability of 0.2 to 0.8."""
    draws = torch.rand((12_000, 1, NUM_DRAWS), generator=torch.Generator().manual_seed(0))
    frames = torch.tensor([100, 101, 160], dtype=torch.uint8).expand(12_000, 1, 3, 1, 3).contiguous()
    frames[..., 0, :, :] //= 2
    real = torch.ones((12_000, 1), dtype=torch.bool)
    changed = {}
    for config in (AS_CODED, replace(FIXED, magnitude=9)):
        out = randaugment(frames, real, config, draws)
        changed[config.variant] = (out != frames).flatten(1).any(1)
    # nothing comes of: no operation, equalize of so few pixels, sharpness and cutout of one line, solarize of values
    # below 230, and, as coded, posterize
    assert changed["as_coded"].float().mean() == pytest.approx(6 / 12, abs=0.02)
    assert changed["fixed"].float().mean() == pytest.approx(7 / 12 / 2, abs=0.02)
    applied = changed["fixed"] & changed["as_coded"]
    for chance in (0.25, 0.75):
        near = (draws[:, 0, 1] - chance).abs() < 0.25
        among = near & changed["as_coded"]
        assert applied[among].float().mean() == pytest.approx(0.2 + 0.6 * chance, abs=0.03)


def test_first_and_last_draw_are_operations_of_the_table() -> None:
    chosen: dict[float, Callable[[Tensor], Tensor]] = {0.0: lambda x: apply("autocontrast", x), 1 - 2**-24: lambda x: x}
    frames = make_frames(1, 3, 8, 8)
    for number, expected in chosen.items():
        draws = torch.full((1, 1, NUM_DRAWS), number)
        out = randaugment(frames[None], torch.ones((1, 1), dtype=torch.bool), AS_CODED, draws)[0]
        assert torch.equal(out, expected(frames))


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"magnitude of 'fixed' must be 0 to 10; got 20"):
        RandAugment(variant="fixed")
    with pytest.raises(ValueError, match=r"magnitude of 'as_coded' must be 0 or more; got -1"):
        RandAugment(magnitude=-1)
    with pytest.raises(ValueError, match="num_layers must be at least 0"):
        RandAugment(num_layers=-1)


def test_presets_have_holds_numbers() -> None:
    assert HOLD == Augment(
        zoom=(0.9, 1.33), flip=0.5, randaugment=RandAugment(num_layers=2, magnitude=20, variant="as_coded")
    )
    assert HOLD.randaugment.factor == pytest.approx(3.7)
    assert HOLD_FIXED.flip == 0
    assert Augment().randaugment.num_layers == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_pixels() -> None:
    labels = {FRAME_SIZE: torch.tensor([[72, 96], [80, 72]] * 12)}
    video = Video.from_frames(torch.stack([make_frames(3, 3, 80, 96, seed=i) for i in range(24)]))
    video = replace(video, labels=labels)
    for config in (HOLD, HOLD_FIXED):
        here = augment_batch({"clip": video}, config, torch.Generator().manual_seed(0), size=(64, 64))["clip"]
        there = augment_batch({"clip": video.to("cuda")}, config, torch.Generator().manual_seed(0), size=(64, 64))
        assert (there["clip"].frames.cpu() != here.frames).float().mean() < 1e-3
