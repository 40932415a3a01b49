"""The benchmark of augmentation: both sides give the same pixels, and it runs."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from vidreward.augment import HOLD, augment_batch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.mark.parametrize("method", ["hold_c", "hold_r"])
def test_both_sides_give_the_same_pixels(method: str) -> None:
    """But for the odd pixel whose grey lies between two whole numbers; PIL's differ, and look alike."""
    from PIL import Image

    from augment_speed import as_batch, augment_pictures, draw
    from plain_augment import augment
    from videos import make_frames

    num_rows, num_frames = (1, 6) if method == "hold_c" else (6, 4)
    rng = np.random.default_rng(0)
    rows = np.stack([np.stack(list(make_frames(num_frames, 288, 320, rng))) for _ in range(num_rows)])
    out = augment_batch(as_batch(rows, method, CPU), HOLD, torch.Generator().manual_seed(3), size=(256, 256))
    found = torch.cat([video.frames for video in out.values()], 1).permute(0, 1, 3, 4, 2).numpy()
    for i, (places, layers) in enumerate(zip(*draw(3, num_rows), strict=True)):
        images = list(rows[i].transpose(0, 2, 3, 1))
        expected = np.stack(augment(images, 256, places, layers))
        assert (expected != found[i]).mean() < 1e-3
        pictures = [Image.fromarray(np.ascontiguousarray(image)) for image in images]
        by_pil = np.stack(augment_pictures(pictures, 256, places, layers))
        if not {int(number) for number in layers[:, 0] * 12} & {6}:  # around the mean, not white
            assert np.corrcoef(by_pil.ravel(), found[i].ravel())[0, 1] > 0.9


@pytest.mark.parametrize("by", ["NumPy", "PIL"])
def test_the_measurement_runs(by: str) -> None:
    from augment_speed import augmenting

    for method in ("hold_c", "hold_r"):
        result = augmenting(
            CPU,
            method=method,  # type: ignore[arg-type]
            by=by,  # type: ignore[arg-type]
            loaded=(40, 60),
            size=32,
            num_rows=2,
            num_batches=1,
            num_repetitions=1,
        )
        assert 0 < result.lowest <= result.ratio <= result.highest < math.inf
        assert result.target == (5 if by == "NumPy" else None)
