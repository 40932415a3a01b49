"""Vectors that original implementations produced."""

from pathlib import Path

import numpy as np
from numpy import ndarray

GOLDEN = Path(__file__).parent / "golden"


def golden(name: str) -> dict[str, ndarray]:
    with np.load(GOLDEN / name, allow_pickle=False) as arrays:
        return dict(arrays)
