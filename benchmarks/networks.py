"""The plain side: torchvision's ResNet-18 in float32, contiguous, with the weights of the library's network."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torchvision.models import resnet18

from vidreward.nets.resnet import ResNet


class PlainNetwork(nn.Module):
    """Compute what `ResNet` computes, without its layout and precision."""

    def __init__(self, network: ResNet) -> None:
        super().__init__()
        self.trunk = resnet18(num_classes=network.fc.out_features)
        self.trunk.conv1 = nn.Conv2d(3 * network.num_images, 64, 7, 2, 3, bias=False)
        self.trunk.load_state_dict(network.state_dict())
        self.train(network.training)

    def forward(self, images: UInt8[Tensor, "M C H W"], num_clips: int = 1) -> Float[Tensor, "M D"]:
        return self.trunk(images.to(torch.float32) * (2 / 255) - 1)
