"""Vision transformer as HOLD-C uses it: timm's backbone, its class token, and a linear head of our own.

Paper: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, arXiv 2010.11929; HOLD starts from weights
trained on ImageNet-21k (docs/methods/hold_c.md). The backbone is timm's (Apache-2.0) and keeps its parameter names, so
that timm's weights load. Numbers that must agree with flax: LayerNorm's epsilon 1e-6, the tanh approximation of GELU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from vidreward.nets.init import lecun_normal_
from vidreward.nets.vivit import LAYER_NORM_EPS, count_patches

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """Size of a vision transformer."""

    width: int
    """Channels of every token."""
    num_heads: int
    mlp_dim: int
    """Hidden units of each block's MLP."""
    num_layers: int
    patch_size: int
    """Side of the square patches, in pixels; the frame's height and width are multiples of it."""
    position_std: float = 0.02
    """Standard deviation of the position embeddings at the start. 0.02 is HOLD's, whose networks start from published
    weights; a small one that starts from nothing hardly leaves the mean for thousands of steps, and learns with 1."""

    def __post_init__(self) -> None:
        for name in ("width", "num_heads", "mlp_dim", "num_layers", "patch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"vit.{name} must be at least 1; got {getattr(self, name)}")
        if self.width % self.num_heads:
            raise ValueError(f"vit.width {self.width} must be a multiple of vit.num_heads {self.num_heads}")
        if not 0 < self.position_std < math.inf:
            raise ValueError(f"vit.position_std must be more than 0; got {self.position_std}")


TINY = ViTConfig(width=32, num_heads=2, mlp_dim=64, num_layers=2, patch_size=8, position_std=1.0)
"""Seconds on a CPU, for tests."""
SMALL = ViTConfig(width=96, num_heads=3, mlp_dim=192, num_layers=3, patch_size=8, position_std=1.0)
"""For frames of 64 px on a CPU."""
BASE = ViTConfig(width=768, num_heads=12, mlp_dim=3072, num_layers=12, patch_size=16)
"""ViT-B/16; which size HOLD used is not published."""


class ViT(nn.Module):
    """Map uint8 images to vectors.

    Args:
        config: Widths and depths.
        frame_size: Height and width, multiples of the patch.
        num_outputs: Width of the linear head; no activation, no normalisation.

    Raises:
        ValueError: The frames cannot be cut into patches.

    Example:
        >>> ViT(TINY, frame_size=(32, 32), num_outputs=4)(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape
        torch.Size([2, 4])
    """

    def __init__(self, config: ViTConfig, *, frame_size: tuple[int, int], num_outputs: int) -> None:
        super().__init__()
        count_patches(frame_size, config.patch_size)
        self.frame_size = frame_size
        self.backbone = make_backbone(config, frame_size)
        self.fc = nn.Linear(config.width, num_outputs)
        lecun_normal_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    def forward(self, images: UInt8[Tensor, "M 3 H W"]) -> Float[Tensor, "M K"]:
        """Encode uint8 images.

        Returns:
            float32 vectors (M, num_outputs).

        Raises:
            ValueError: The images have another size than the network's.
        """
        if images.shape[-2:] != self.frame_size:
            raise ValueError(
                f"this ViT reads frames of {self.frame_size[0]}x{self.frame_size[1]}; got "
                f"{images.shape[-2]}x{images.shape[-1]}; resize them"
            )
        x = self.backbone(images.to(self.fc.weight.dtype) * (2 / 255) - 1)
        if self.training:
            return self.fc(x).float()
        # distances in bfloat16 have steps of 1/256 of themselves: neighbouring frames would tie
        with torch.autocast(x.device.type, enabled=False):
            return self.fc(x.float())


def make_backbone(config: ViTConfig, frame_size: tuple[int, int]) -> VisionTransformer:
    """Make timm's vision transformer without its head, initialised as HOLD's in flax."""
    # importing timm takes seconds, which only those who use it should wait
    from timm.models.vision_transformer import VisionTransformer

    backbone = VisionTransformer(
        img_size=frame_size,
        patch_size=config.patch_size,
        num_classes=0,
        embed_dim=config.width,
        depth=config.num_layers,
        num_heads=config.num_heads,
        mlp_ratio=(config.mlp_dim + 0.5) / config.width,  # timm rounds width * mlp_ratio down
        norm_layer=partial(nn.LayerNorm, eps=LAYER_NORM_EPS),
        act_layer=partial(nn.GELU, approximate="tanh"),
        weight_init="jax",
    )
    assert backbone.cls_token is not None and backbone.pos_embed is not None
    nn.init.zeros_(backbone.cls_token)
    nn.init.normal_(backbone.pos_embed, std=config.position_std)
    for name, weight in backbone.named_parameters():
        if name.endswith("attn.qkv.weight"):
            for part in weight.chunk(3):  # in flax, queries, keys and values each have a fan-out of their own
                nn.init.xavier_uniform_(part)
    return backbone
