"""The plain side: a loop as tutorials write it: JPEG pictures, a DataLoader, transforms of PIL images, float32."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms

from vidreward.augment import Augment
from vidreward.data.collate import collate
from vidreward.optimizers import make_optimizer
from vidreward.reward_model import LearnedRewardModel
from vidreward.train_config import FitConfig
from vidreward.types import Episode, Pick, Video

Sample = tuple[int, dict[str, tuple[Sequence[int], Tensor]]]


def write_jpegs(episodes: Sequence[Episode], folder: Path) -> None:
    """Write every frame as a picture of its own, as data sets of frames are handed out."""
    for number, episode in enumerate(episodes):
        (folder / str(number)).mkdir(parents=True, exist_ok=True)
        for index, frame in enumerate(episode.iterate()):
            Image.fromarray(frame.transpose(1, 2, 0)).save(folder / str(number) / f"{index}.jpg", quality=95)


class JpegClips(Dataset[Sample]):
    """Load the frames a model asks for and change them, picture by picture, with one draw for all of a sample."""

    def __init__(self, folder: Path, episodes: Sequence[Episode], model: LearnedRewardModel, size: int) -> None:
        self.folder = folder
        self.infos = [episode.info for episode in episodes]
        self.sample = model.sample
        self.augment = model.augment
        self.size = size

    def __len__(self) -> int:
        return len(self.infos)

    def __getitem__(self, number: int) -> Sample:
        rng = np.random.default_rng(int(torch.randint(2**31, ())))
        draws = Draws(self.augment, rng)
        picks = self.sample(self.infos[number], rng)
        return number, {
            name: (pick.index, torch.stack([self._load(number, index, draws) for index in pick.index]))
            for name, pick in picks.items()
        }

    def _load(self, number: int, index: int, draws: Draws) -> Tensor:
        with Image.open(self.folder / str(number) / f"{index}.jpg") as picture:
            return transforms.pil_to_tensor(draws.apply(picture.convert("RGB"), self.size))


class Draws:
    """One draw of `Augment`'s zoom and colours, applied with torchvision's functions."""

    def __init__(self, augment: Augment, rng: np.random.Generator) -> None:
        self.zoom = rng.uniform(*augment.zoom, 2)
        self.place = rng.random(2)
        self.flips = rng.random() < augment.flip
        self.brightness, self.contrast, self.saturation = (
            1 + strength * rng.uniform(-1, 1) for strength in (augment.brightness, augment.contrast, augment.saturation)
        )
        self.hue = augment.hue * rng.uniform(-1, 1)

    def apply(self, picture: Image.Image, size: int) -> Image.Image:
        height, width = (int(side / zoom) for side, zoom in zip(picture.size[::-1], self.zoom, strict=True))
        top, left = int(self.place[0] * (picture.height - height)), int(self.place[1] * (picture.width - width))
        picture = transforms.resized_crop(picture, top, left, height, width, [size, size], InterpolationMode.BILINEAR)
        if self.flips:
            picture = transforms.hflip(picture)
        picture = transforms.adjust_brightness(picture, self.brightness)
        picture = transforms.adjust_contrast(picture, self.contrast)
        picture = transforms.adjust_saturation(picture, self.saturation)
        return transforms.adjust_hue(picture, self.hue)


class PlainLoop:
    """Train a model whose network is plain."""

    def __init__(
        self, model: LearnedRewardModel, folder: Path, episodes: Sequence[Episode], fit: FitConfig, size: int
    ) -> None:
        self.model = model.train()
        self.device = next(model.parameters()).device
        self.episodes = episodes
        self.fit = fit
        self.clips = JpegClips(folder, episodes, model, size)
        self.optimizer = make_optimizer(model.parameters(), fit.optimizer, lr=fit.lr)

    def train(self, num_steps: int, num_workers: int) -> None:
        """Do steps, the clips in random order."""
        order = [int(torch.randint(len(self.clips), ())) for _ in range(num_steps * self.fit.batch_size)]
        batches = DataLoader(self.clips, self.fit.batch_size, sampler=order, num_workers=num_workers, collate_fn=list)
        for samples in batches:
            self.optimizer.zero_grad()
            loss, _ = self.model.loss(dict(self._videos(samples)))
            loss.backward()
            self.optimizer.step()

    def _videos(self, samples: list[Sample]) -> Iterator[tuple[str, Video]]:
        episodes = [self.episodes[number] for number, _ in samples]
        for name in samples[0][1]:
            picks = [Pick(index=sample[name][0]) for _, sample in samples]
            frames = [sample[name][1].numpy() for _, sample in samples]
            yield name, collate(name, episodes, picks, frames).to(self.device)
