"""The time of a training step in PyTorch, for the networks and batches of `sordino devices step`.

One line of JSON for each step timed: {"network", "batch", "threads", "device", "ms": [..]}. Inputs are made before the
clock starts; a step is forward, cross-entropy, backward and Adam, and ends when its loss is a number here.
"""

import argparse
import json
import time

import torch
from torch import nn
from torch.nn import functional as F


class FullyConnected(nn.Sequential):
    """600-1024-512-256-128-100 with Tanh."""

    def __init__(self):
        widths = [600, 1024, 512, 256, 128, 100]
        layers = []
        for inputs, outputs in zip(widths, widths[1:]):
            layers += [nn.Linear(inputs, outputs), nn.Tanh()]
        super().__init__(*layers[:-1])

    row, classes = (600,), 100


class SmallCnn(nn.Sequential):
    """Two convolutions with pooling, two linear layers."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(64 * 8 * 8, 128), nn.ReLU(), nn.Linear(128, 10),
        )

    row, classes = (3, 32, 32), 10


class Dense(nn.Module):
    """DenseNet-BC, depth 100, growth 12, compression one half."""

    row, classes = (3, 32, 32), 10

    class Layer(nn.Module):
        def __init__(self, channels, growth):
            super().__init__()
            self.norm1, self.conv1 = nn.BatchNorm2d(channels), nn.Conv2d(channels, 4 * growth, 1, bias=False)
            self.norm2 = nn.BatchNorm2d(4 * growth)
            self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

        def forward(self, x):
            y = self.conv1(F.relu(self.norm1(x)))
            return torch.cat([x, self.conv2(F.relu(self.norm2(y)))], 1)

    def __init__(self, depth=100, growth=12):
        super().__init__()
        n_layers, channels = (depth - 4) // 6, 2 * growth
        parts = [nn.Conv2d(3, channels, 3, padding=1, bias=False)]
        for block in range(3):
            for _ in range(n_layers):
                parts.append(Dense.Layer(channels, growth))
                channels += growth
            if block < 2:
                parts += [nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2)]
                channels //= 2
        parts += [nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)]
        self.parts = nn.Sequential(*parts)

    def forward(self, x):
        return self.parts(x)


class ResNet9(nn.Module):
    """Page's nine layers for fast trainings, with pools of 2x2 to the end."""

    row, classes = (3, 32, 32), 10

    def __init__(self, width=64):
        super().__init__()
        self.first = self.block(3, width)
        self.second, self.third, self.fourth = (self.block(n * width, 2 * n * width) for n in (1, 2, 4))
        self.beside_second = nn.Sequential(self.block(2 * width, 2 * width), self.block(2 * width, 2 * width))
        self.beside_fourth = nn.Sequential(self.block(8 * width, 8 * width), self.block(8 * width, 8 * width))
        self.last = nn.Linear(8 * width, 10)

    @staticmethod
    def block(inputs, outputs):
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())

    def forward(self, x):
        x = F.max_pool2d(self.second(self.first(x)), 2)
        x = x + self.beside_second(x)
        x = F.max_pool2d(self.third(x), 2)
        x = F.max_pool2d(self.fourth(x), 2)
        x = x + self.beside_fourth(x)
        return self.last(F.max_pool2d(F.max_pool2d(x, 2), 2).flatten(1))


class ResNet18(nn.Module):
    """ResNet-18 for 32x32: a first convolution of 3x3, no pool behind it, four stages of two blocks."""

    row, classes = (3, 32, 32), 10

    class Block(nn.Module):
        def __init__(self, inputs, outputs, stride):
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
            self.norm1, self.norm2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
            self.beside = nn.Identity()
            if stride != 1 or inputs != outputs:
                self.beside = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))

        def forward(self, x):
            return F.relu(self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))) + self.beside(x))

    def __init__(self, width=64):
        super().__init__()
        parts, channels = [nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()], width
        for stage in range(4):
            for block in range(2):
                outputs = width << stage
                parts.append(ResNet18.Block(channels, outputs, 2 if stage and not block else 1))
                channels = outputs
        self.parts = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))

    def forward(self, x):
        return self.parts(x)


NETWORKS = {"fcn": FullyConnected, "cnn": SmallCnn, "densenet-bc": Dense, "resnet-9": ResNet9, "resnet-18": ResNet18}


def times(name, batch, steps, device):
    torch.manual_seed(0)
    network = NETWORKS[name]().to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    x = torch.rand((batch, *network.row), device=device)
    y = torch.arange(batch, device=device) % network.classes
    ms = []
    for step in range(-3, steps):
        start = time.perf_counter()
        optimizer.zero_grad()
        loss = F.cross_entropy(network(x), y)
        loss.backward()
        optimizer.step()
        loss.item()
        if step >= 0:
            ms.append(1e3 * (time.perf_counter() - start))
    return ms


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=NETWORKS, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    ms = times(given.network, given.batch, given.steps, given.device)
    print(json.dumps({
        "network": given.network, "batch": given.batch, "threads": given.threads, "device": given.device,
        "torch": torch.__version__, "parameters": sum(p.numel() for p in NETWORKS[given.network]().parameters()), "ms": ms,
    }))


if __name__ == "__main__":
    main()
