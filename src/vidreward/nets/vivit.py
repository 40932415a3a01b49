"""ViViT with a factorised encoder, as HOLD-R reads a few frames and a goal.

Every frame becomes one token by a spatial transformer; a temporal transformer reads the tokens of the history and, as
one more time step, of the goal. No other part tells the goal from a frame.

Paper: Arnab et al., "ViViT: A Video Vision Transformer", ICCV 2021, arXiv 2103.15691, model 2. As HOLD configures it:
hold-rewards `scenic/projects/func_dist/model.py` (Apache-2.0), see docs/methods/hold_r.md. Numbers that must agree
with flax: LayerNorm's epsilon 1e-6, the tanh approximation of GELU, stochastic depth without rescaling.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from vidreward.nets.init import lecun_normal_

LAYER_NORM_EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class ViViTConfig:
    """Size of a ViViT."""

    width: int
    """Channels of every token."""
    num_heads: int
    mlp_dim: int
    """Hidden units of each block's MLP."""
    num_spatial_layers: int
    """Blocks that read the patches of one frame."""
    num_temporal_layers: int
    """Blocks that read one token a frame."""
    patch_size: int
    """Side of the square patches, in pixels; the frame's height and width are multiples of it."""
    drop_path: float = 0.3
    """Stochastic depth: how often the last block of each transformer is skipped in training; linear from 0."""
    position_std: float = 0.02
    """Standard deviation of the position embeddings at the start. 0.02 is HOLD's, whose networks start from published
    weights; a small one that starts from nothing hardly leaves the mean for thousands of steps, and learns with 1."""

    def __post_init__(self) -> None:
        for name in ("width", "num_heads", "mlp_dim", "num_spatial_layers", "num_temporal_layers", "patch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"vivit.{name} must be at least 1; got {getattr(self, name)}")
        if self.width % self.num_heads:
            raise ValueError(f"vivit.width {self.width} must be a multiple of vivit.num_heads {self.num_heads}")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"vivit.drop_path must be in [0, 1); got {self.drop_path}")
        if not 0 < self.position_std < math.inf:
            raise ValueError(f"vivit.position_std must be more than 0; got {self.position_std}")


TINY = ViViTConfig(
    width=64,
    num_heads=4,
    mlp_dim=128,
    num_spatial_layers=2,
    num_temporal_layers=2,
    patch_size=8,
    drop_path=0.0,
    position_std=1.0,
)
"""Seconds on a CPU, for tests."""
SMALL = ViViTConfig(
    width=96,
    num_heads=3,
    mlp_dim=192,
    num_spatial_layers=3,
    num_temporal_layers=2,
    patch_size=8,
    drop_path=0.1,
    position_std=1.0,
)
"""For frames of 64 px on a CPU."""
BASE = ViViTConfig(width=768, num_heads=12, mlp_dim=3072, num_spatial_layers=12, num_temporal_layers=4, patch_size=16)
LARGE = ViViTConfig(width=1024, num_heads=16, mlp_dim=4096, num_spatial_layers=24, num_temporal_layers=4, patch_size=16)
"""The released HOLD-R."""


class Attention(nn.Module):
    """Multi-head self-attention; queries, keys and values come from one linear layer, in this order."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        # each of the three has a fan-out of its own
        for weight in (*self.qkv.weight.chunk(3), self.out.weight):
            nn.init.xavier_uniform_(weight)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Float[Tensor, "M N D"]) -> Float[Tensor, "M N D"]:
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))  # (M, N, 3, heads, D / heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Pre-norm transformer block.

    Args:
        drop_path: Probability that a branch is skipped in training, drawn for each example and branch. A branch that
            is kept is not scaled up, in training or later (HOLD's; other libraries divide by 1 - p).
    """

    def __init__(self, width: int, num_heads: int, mlp_dim: int, drop_path: float) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.attention = Attention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.mlp = nn.Sequential(nn.Linear(width, mlp_dim), nn.GELU(approximate="tanh"), nn.Linear(mlp_dim, width))
        for layer in (self.mlp[0], self.mlp[2]):
            assert isinstance(layer, nn.Linear)
            nn.init.xavier_uniform_(layer.weight)
            nn.init.normal_(layer.bias, std=1e-6)

    def forward(self, x: Float[Tensor, "M N D"], frames_per_example: int) -> Float[Tensor, "M N D"]:
        x = x + self._drop(self.attention(self.norm1(x)), frames_per_example)
        return x + self._drop(self.mlp(self.norm2(x)), frames_per_example)

    def _drop(self, branch: Float[Tensor, "M N D"], frames_per_example: int) -> Float[Tensor, "M N D"]:
        if not self.training or self.drop_path == 0:
            return branch
        keep = torch.rand(len(branch) // frames_per_example, 1, 1, device=branch.device) >= self.drop_path
        return branch * keep.repeat_interleave(frames_per_example, 0)


class Encoder(nn.Module):
    """Read a set of tokens, each known by its place, to the one that is put in front of them.

    Args:
        config: Sizes of the blocks.
        num_layers: Blocks.
        num_tokens: Tokens it is given, without the one in front.
    """

    def __init__(self, config: ViViTConfig, *, num_layers: int, num_tokens: int) -> None:
        super().__init__()
        self.cls = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embedding = nn.Parameter(torch.empty(1, num_tokens + 1, config.width))
        nn.init.normal_(self.pos_embedding, std=config.position_std)
        rates = [config.drop_path * layer / max(1, num_layers - 1) for layer in range(num_layers)]
        self.blocks = nn.ModuleList(Block(config.width, config.num_heads, config.mlp_dim, rate) for rate in rates)
        self.norm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)

    def forward(self, tokens: Float[Tensor, "M N D"], frames_per_example: int = 1) -> Float[Tensor, "M D"]:
        """Encode M sets of tokens; in training, `frames_per_example` sets in a row skip the same branches."""
        x = torch.cat([self.cls.to(tokens.dtype).expand(len(tokens), -1, -1), tokens], 1) + self.pos_embedding
        for block in self.blocks:
            x = block(x, frames_per_example)
        return self.norm(x[:, 0])


class ViViT(nn.Module):
    """Map a few uint8 frames, the goal last, to a vector.

    Args:
        config: Widths and depths.
        num_frames: Time steps, the goal included.
        frame_size: Height and width, multiples of the patch.
        num_outputs: Width of the linear head, which starts at zero.

    Raises:
        ValueError: The frames cannot be cut into patches.

    Example:
        >>> network = ViViT(TINY, num_frames=4, frame_size=(32, 32))
        >>> network(torch.zeros(2, 4, 3, 32, 32, dtype=torch.uint8)).tolist()
        [[0.0], [0.0]]
    """

    def __init__(
        self, config: ViViTConfig, *, num_frames: int, frame_size: tuple[int, int], num_outputs: int = 1
    ) -> None:
        super().__init__()
        self.frame_size = frame_size
        self.num_frames = num_frames
        self.grid = count_patches(frame_size, config.patch_size)
        self.embedding = nn.Conv2d(3, config.width, config.patch_size, config.patch_size)
        lecun_normal_(self.embedding.weight)
        assert self.embedding.bias is not None
        nn.init.zeros_(self.embedding.bias)
        self.spatial = Encoder(config, num_layers=config.num_spatial_layers, num_tokens=self.grid[0] * self.grid[1])
        self.temporal = Encoder(config, num_layers=config.num_temporal_layers, num_tokens=num_frames)
        self.fc = nn.Linear(config.width, num_outputs)
        nn.init.zeros_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    def encode_frames(self, frames: UInt8[Tensor, "M 3 H W"], frames_per_example: int = 1) -> Float[Tensor, "M D"]:
        """Encode each frame by itself: all of the work that does not depend on the goal or the neighbours.

        Args:
            frames: RGB 0-255.
            frames_per_example: Frames in a row that belong to one example and skip the same branches in training.

        Raises:
            ValueError: The frames have another size than the network's.
        """
        if frames.shape[-2:] != self.frame_size:
            raise ValueError(
                f"this ViViT reads frames of {self.frame_size[0]}x{self.frame_size[1]}; got "
                f"{frames.shape[-2]}x{frames.shape[-1]}; resize them"
            )
        x = self.embedding(frames.to(self.embedding.weight.dtype) * (2 / 255) - 1)  # (M, D, h, w)
        return self.spatial(x.flatten(2).transpose(1, 2), frames_per_example)

    def decide(self, tokens: Float[Tensor, "B T D"]) -> Float[Tensor, "B K"]:
        """Read the tokens of each example's frames, oldest first, goal last.

        Returns:
            float32 vectors (B, num_outputs).
        """
        x = self.temporal(tokens)
        if self.training:
            return self.fc(x).float()
        # a score of 40 in bfloat16 has steps of 0.25: neighbouring frames would tie
        with torch.autocast(x.device.type, enabled=False):
            return self.fc(x.float())

    def forward(self, frames: UInt8[Tensor, "B T 3 H W"]) -> Float[Tensor, "B K"]:
        """Encode the frames of each example, oldest first, goal last, and read them together."""
        tokens = self.encode_frames(frames.flatten(0, 1), frames.shape[1])
        return self.decide(tokens.unflatten(0, frames.shape[:2]))


def count_patches(frame_size: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """Return how many patches fit along height and width.

    Raises:
        ValueError: They do not fit without rest.
    """
    height, width = frame_size
    if height % patch_size or width % patch_size or min(frame_size) < 1:
        raise ValueError(
            f"frames of {height}x{width} cannot be cut into patches of {patch_size}x{patch_size}; choose a frame size "
            f"(data.size) that is a multiple of {patch_size}, or another patch_size"
        )
    return height // patch_size, width // patch_size
