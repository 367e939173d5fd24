"""The PyTorch script that people start from: a Dataset, a DataLoader, an eager loop.

    python -m compare.record.plain_torch speedrun-mnist 0     the preset's network and settings, seed 0

It shares the preset's settings with the tracks, and the training images, but none of their code: initial weights, order
of the images, loops and optimizer are PyTorch's own. It prints its test accuracy as a line of JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from compare import presets
from compare.benchmark.baseline_torch import NETWORKS
from compare.config import Config
from compare.data import load
from compare.training.steps import plan


class Images(Dataset[tuple[Tensor, int]]):
    """Images and labels, one by one, as torchvision's own datasets give them."""

    def __init__(self, x: np.ndarray, y: np.ndarray, transform: Any):
        self.x, self.y, self.transform = x, y, transform

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.x[number, :, :, 0])), int(self.y[number])


def train(config: Config) -> float:
    """Train as the preset says, and return the accuracy on all test images."""
    torch.manual_seed(config.seed)
    data = load(config.dataset, data_dir=config.data_dir, val_size=config.val_size, seed=config.seed)
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(data.mean, data.std)])
    loader = DataLoader(
        Images(data.train_x, data.train_y, transform), batch_size=config.batch_size, shuffle=True, drop_last=True
    )
    test_loader = DataLoader(Images(data.test_x, data.test_y, transform), batch_size=config.eval_batch_size)
    network = NETWORKS[config.model](**config.model_args)
    network(next(iter(test_loader))[0])  # lazy layers find their sizes
    criterion = nn.CrossEntropyLoss(**config.loss_args)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=config.lr, momentum=0.9, nesterov=True, **config.optimizer_args
    )
    steps = plan(config, len(data.train_x)).steps
    warmup = config.schedule_args.get("warmup", 0.3)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.lr, total_steps=steps, pct_start=warmup, cycle_momentum=False
    )
    network.train()
    step = 0
    while step < steps:
        for images, labels in loader:
            optimizer.zero_grad()
            loss = criterion(network(images), labels)
            loss.backward()
            optimizer.step()
            scheduler.step()
            step += 1
            if step == steps:
                break
    network.eval()
    correct = 0
    with torch.no_grad():
        for images, labels in test_loader:
            correct += int((network(images).argmax(dim=1) == labels).sum())
    return correct / len(data.test_y)


if __name__ == "__main__":
    print(json.dumps({"test_accuracy": train(presets.seeded(sys.argv[1], int(sys.argv[2])))}), flush=True)
