"""The networks of the benchmarks of a step, each twice: in Flax, cut once, and in PyTorch.

The two have the same layers and sizes; PyTorch's come in the two halves that the cut makes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from flax import nnx

import jsplit

try:
    import torch
except ImportError:  # not a dependency: without it its rows are absent
    torch = None

CLASSES = 10


class MLP(nnx.Module):
    """784-128 | 64-10."""

    def __init__(self, rngs: nnx.Rngs):
        self.low = nnx.Linear(784, 128, rngs=rngs)
        self.mid = nnx.Linear(128, 64, rngs=rngs)
        self.high = nnx.Linear(64, CLASSES, rngs=rngs)

    def __call__(self, image):
        h = jsplit.cut(nnx.relu(self.low(image)), "smashed")
        return self.high(nnx.relu(self.mid(h)))


class CNN(nnx.Module):
    """conv32-conv32-pool | conv64-conv64-pool-dense256-10, with BatchNorm after each or without."""

    def __init__(self, rngs: nnx.Rngs, norm: bool = False):
        widths = [(3, 32), (32, 32), (32, 64), (64, 64)]
        self.convs = nnx.List([nnx.Conv(a, b, (3, 3), rngs=rngs) for a, b in widths])
        self.norms = nnx.List(
            [nnx.BatchNorm(b, rngs=rngs) for _, b in widths] if norm else []
        )
        self.dense = nnx.Linear(8 * 8 * 64, 256, rngs=rngs)
        self.out = nnx.Linear(256, CLASSES, rngs=rngs)

    def layer(self, i: int, h):
        h = self.convs[i](h)
        return nnx.relu(self.norms[i](h) if self.norms else h)

    def __call__(self, image):
        h = self.layer(1, self.layer(0, image))
        h = jsplit.cut(nnx.max_pool(h, (2, 2), (2, 2)), "smashed")
        h = self.layer(3, self.layer(2, h))
        h = nnx.max_pool(h, (2, 2), (2, 2))
        return self.out(nnx.relu(self.dense(h.reshape(h.shape[0], -1))))


def torch_mlp() -> tuple:
    """`MLP` in two halves."""
    linear, relu = torch.nn.Linear, torch.nn.ReLU
    bottom = torch.nn.Sequential(linear(784, 128), relu())
    top = torch.nn.Sequential(linear(128, 64), relu(), linear(64, CLASSES))
    return bottom, top


def torch_cnn(norm: bool = False) -> tuple:
    """`CNN` in two halves."""

    def stage(inputs: int, width: int) -> list:
        layers = []
        for channels in (inputs, width):
            layers.append(torch.nn.Conv2d(channels, width, 3, padding="same"))
            if norm:
                layers.append(torch.nn.BatchNorm2d(width))
            layers.append(torch.nn.ReLU())
        return [*layers, torch.nn.MaxPool2d(2)]

    dense = torch.nn.Linear(8 * 8 * 64, 256)
    out = torch.nn.Linear(256, CLASSES)
    ends = [torch.nn.Flatten(), dense, torch.nn.ReLU(), out]
    bottom = torch.nn.Sequential(*stage(3, 32))
    return bottom, torch.nn.Sequential(*stage(32, 64), *ends)


# A residual network for 32 x 32 pixels (He et al. 2016), with the widths of ResNet-18.


class Block(nnx.Module):
    """Two convolutions and a shortcut, which is a 1x1 convolution where sizes change."""

    def __init__(self, inputs: int, width: int, stride: int, rngs: nnx.Rngs):
        conv = partial(nnx.Conv, use_bias=False, rngs=rngs)
        self.first = conv(inputs, width, (3, 3), strides=stride, padding=1)
        self.second = conv(width, width, (3, 3), padding=1)
        self.norms = nnx.List([nnx.BatchNorm(width, rngs=rngs) for _ in range(2)])
        changes = stride != 1 or inputs != width
        self.short = conv(inputs, width, (1, 1), strides=stride) if changes else None
        self.short_norm = nnx.BatchNorm(width, rngs=rngs) if changes else None

    def __call__(self, h):
        x = h if self.short is None else self.short_norm(self.short(h))
        h = nnx.relu(self.norms[0](self.first(h)))
        return nnx.relu(self.norms[1](self.second(h)) + x)


_STAGES = ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2))


class ResNet18(nnx.Module):
    """ResNet-18 for CIFAR: a 3x3 stem, four stages of two blocks, cut after the first."""

    def __init__(self, rngs: nnx.Rngs):
        self.stem = nnx.Conv(3, 64, (3, 3), padding=1, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(64, rngs=rngs)
        self.stages = nnx.List(
            [
                nnx.List([Block(a, b, s, rngs), Block(b, b, 1, rngs)])
                for a, b, s in _STAGES
            ]
        )
        self.out = nnx.Linear(512, CLASSES, rngs=rngs)

    def __call__(self, image):
        h = nnx.relu(self.norm(self.stem(image)))
        for number, stage in enumerate(self.stages):
            for block in stage:
                h = block(h)
            if number == 0:
                h = jsplit.cut(h, "smashed")
        return self.out(h.mean((1, 2)))


def torch_resnet18() -> tuple:
    """`ResNet18` in two halves."""

    class TorchBlock(torch.nn.Module):
        def __init__(self, inputs: int, width: int, stride: int):
            super().__init__()
            conv = partial(torch.nn.Conv2d, bias=False)
            norm, relu = torch.nn.BatchNorm2d, torch.nn.ReLU
            self.body = torch.nn.Sequential(
                conv(inputs, width, 3, stride=stride, padding=1),
                norm(width),
                relu(),
                conv(width, width, 3, padding=1),
                norm(width),
            )
            changes = stride != 1 or inputs != width
            short = [conv(inputs, width, 1, stride=stride), norm(width)]
            self.short = torch.nn.Sequential(*(short if changes else []))

        def forward(self, h):
            return torch.relu(self.body(h) + self.short(h))

    stem = [torch.nn.Conv2d(3, 64, 3, padding=1, bias=False), torch.nn.BatchNorm2d(64)]
    stages = [
        block
        for a, b, s in _STAGES
        for block in (TorchBlock(a, b, s), TorchBlock(b, b, 1))
    ]
    ends = [
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(512, CLASSES),
    ]
    bottom = torch.nn.Sequential(*stem, torch.nn.ReLU(), *stages[:2])
    return bottom, torch.nn.Sequential(*stages[2:], *ends)


# Layers one after the other: a heart's signal of twelve leads, and a scanner's volume.

_SIGNAL = ((12, 32, 7), (32, 64, 5), (64, 64, 5), (64, 128, 3))
_VOLUME = ((1, 16, 3), (16, 32, 3), (32, 64, 3))
_Sizes = tuple[tuple[int, int, int], ...]


class Stack(nnx.Module):
    """Convolutions with BatchNorm, each halved by max pooling, cut after the first.

    Args:
        sizes: of each layer: inputs, width, and window along every axis.
        rank: how many axes of space there are.
    """

    def __init__(self, sizes: _Sizes, rank: int, rngs: nnx.Rngs):
        self.rank = rank
        self.convs = nnx.List(
            [nnx.Conv(a, b, (k,) * rank, rngs=rngs) for a, b, k in sizes]
        )
        self.norms = nnx.List([nnx.BatchNorm(b, rngs=rngs) for _, b, _ in sizes])
        self.out = nnx.Linear(sizes[-1][1], CLASSES, rngs=rngs)

    def __call__(self, image):
        h, half = image, (2,) * self.rank
        for number, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            h = nnx.max_pool(nnx.relu(norm(conv(h))), half, half)
            if number == 0:
                h = jsplit.cut(h, "smashed")
        return self.out(h.mean(range(1, 1 + self.rank)))


def torch_stack(sizes: _Sizes, rank: int) -> tuple:
    """`Stack` in two halves."""
    conv, norm, pool, mean = (
        getattr(torch.nn, f"{name}{rank}d")
        for name in ("Conv", "BatchNorm", "MaxPool", "AdaptiveAvgPool")
    )

    def layer(inputs: int, width: int, window: int) -> list:
        first = conv(inputs, width, window, padding="same")
        return [first, norm(width), torch.nn.ReLU(), pool(2)]

    first, *others = [layer(*one) for one in sizes]
    layers = [module for layer in others for module in layer]
    ends = [mean(1), torch.nn.Flatten(), torch.nn.Linear(sizes[-1][1], CLASSES)]
    return torch.nn.Sequential(*first), torch.nn.Sequential(*layers, *ends)


class Model(NamedTuple):
    """A network in both frameworks, and what it is fed."""

    net: Callable[..., nnx.Module]
    torch: Callable[[], tuple]
    shape: tuple[int, ...]
    batch: int


MODELS = {
    "mlp": Model(MLP, torch_mlp, (784,), 64),
    "cnn": Model(CNN, torch_cnn, (32, 32, 3), 64),
    "cnn_norm": Model(
        partial(CNN, norm=True), partial(torch_cnn, norm=True), (32, 32, 3), 64
    ),
    "resnet18": Model(ResNet18, torch_resnet18, (32, 32, 3), 32),
    "ecg": Model(
        partial(Stack, _SIGNAL, 1), partial(torch_stack, _SIGNAL, 1), (1000, 12), 64
    ),
    "volume": Model(
        partial(Stack, _VOLUME, 3), partial(torch_stack, _VOLUME, 3), (32, 32, 32, 1), 8
    ),
    "cnn_large": Model(CNN, torch_cnn, (32, 32, 3), 1024),
}
# What is run unless asked otherwise; on other devices all.
USUAL = {"cpu": ("mlp", "cnn", "cnn_norm", "resnet18", "ecg", "volume")}
