"""VGG and ResNet at full size, for images of any size: the networks of the paper's tables.

Layers have the names of the papers, and parameter counts equal the published ones to the unit.
Either can be made without values, `shapes(vgg, 19)`, for what needs shapes only: cutting and
costing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
from flax import nnx

# convolutions in each of the five blocks (Simonyan and Zisserman,
# https://arxiv.org/abs/1409.1556, Table 1)
VGG = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
# blocks in each of the four stages (He et al., https://arxiv.org/abs/1512.03385, Table 1)
RESNET = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
}
PUBLISHED = {  # parameters, with 1000 classes at 224 x 224
    ("vgg", 11): 132_863_336,
    ("vgg", 13): 133_047_848,
    ("vgg", 16): 138_357_544,
    ("vgg", 19): 143_667_240,
    ("resnet", 18): 11_689_512,
    ("resnet", 34): 21_797_672,
    ("resnet", 50): 25_557_032,
}

Conv3 = partial(nnx.Conv, kernel_size=(3, 3))
Plain = partial(nnx.Conv, use_bias=False)


class VGGNet(nnx.Module):
    """Blocks of 3 x 3 convolutions with a bias and a ReLU, a maximum over 2 x 2 after each, three
    dense layers.
    """

    def __init__(
        self, blocks: tuple[int, ...], classes: int, size: int, *, rngs: nnx.Rngs
    ):
        self.blocks, width = blocks, 3
        for b, count in enumerate(blocks, start=1):
            for i in range(1, count + 1):
                out = min(64 * 2 ** (b - 1), 512)
                setattr(self, f"conv{b}_{i}", Conv3(width, out, rngs=rngs))
                width = out
        self.fc6 = nnx.Linear(width * (size // 32) ** 2, 4096, rngs=rngs)
        self.fc7 = nnx.Linear(4096, 4096, rngs=rngs)
        self.fc8 = nnx.Linear(4096, classes, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, image: jax.Array) -> jax.Array:
        h = image
        for b, count in enumerate(self.blocks, start=1):
            for i in range(1, count + 1):
                h = nnx.relu(getattr(self, f"conv{b}_{i}")(h))
            h = nnx.max_pool(h, (2, 2), (2, 2))
        h = self.dropout(nnx.relu(self.fc6(h.reshape(h.shape[0], -1))))
        return self.fc8(self.dropout(nnx.relu(self.fc7(h))))


class Block(nnx.Module):
    """Two 3 x 3 convolutions or, as a bottleneck, 1 x 1, 3 x 3 and 1 x 1; around them the input,
    projected if sizes differ.
    """

    def __init__(
        self, inputs: int, width: int, stride: int, bottleneck: bool, *, rngs: nnx.Rngs
    ):
        out = 4 * width if bottleneck else width
        # In a bottleneck the stride is at the 3 x 3 convolution, as in torchvision ("v1.5"); the
        # paper has it at the first.
        sizes = [(inputs, width, 3, stride), (width, out, 3, 1)]
        if bottleneck:
            sizes = [(inputs, width, 1, 1), (width, width, 3, stride)]
            sizes.append((width, out, 1, 1))
        self.convs, self.norms = nnx.List(), nnx.List()
        for a, b, k, s in sizes:
            padding = k // 2
            conv = Plain(a, b, (k, k), strides=s, padding=padding, rngs=rngs)
            self.convs.append(conv)
            self.norms.append(nnx.BatchNorm(b, momentum=0.9, rngs=rngs))
        project = norm = None
        if stride > 1 or inputs != out:
            project = Plain(inputs, out, (1, 1), strides=stride, rngs=rngs)
            norm = nnx.BatchNorm(out, momentum=0.9, rngs=rngs)
        # Assigned once: an attribute that was None cannot become a module later.
        self.project, self.project_norm = project, norm

    def __call__(self, x: jax.Array) -> jax.Array:
        h = x
        for i, (conv, norm) in enumerate(
            zip(self.convs, self.norms, strict=True), start=1
        ):
            h = norm(conv(h))
            h = nnx.relu(h) if i < len(self.convs) else h
        return nnx.relu(h + (self.project_norm(self.project(x)) if self.project else x))


class ResNet(nnx.Module):
    """A stem, four stages of residual blocks, the mean over space, one dense layer."""

    def __init__(
        self, stages: tuple[int, ...], bottleneck: bool, classes: int, *, rngs: nnx.Rngs
    ):
        self.conv1 = Plain(3, 64, (7, 7), strides=2, padding=3, rngs=rngs)
        self.norm1 = nnx.BatchNorm(64, momentum=0.9, rngs=rngs)
        self.stages, inputs = len(stages), 64
        for s, count in enumerate(stages):
            width, stage = 64 * 2**s, nnx.List()
            for i in range(count):
                stage.append(
                    Block(
                        inputs,
                        width,
                        2 if s > 0 and i == 0 else 1,
                        bottleneck,
                        rngs=rngs,
                    )
                )
                inputs = 4 * width if bottleneck else width
            setattr(self, f"stage{s + 1}", stage)
        self.fc = nnx.Linear(inputs, classes, rngs=rngs)

    def stem(self, image: jax.Array) -> jax.Array:
        h = nnx.relu(self.norm1(self.conv1(image)))
        return nnx.max_pool(h, (3, 3), (2, 2), padding=((1, 1), (1, 1)))

    def stage(self, number: int, h: jax.Array) -> jax.Array:
        for block in getattr(self, f"stage{number}"):
            h = block(h)
        return h

    def __call__(self, image: jax.Array) -> jax.Array:
        h = self.stem(image)
        for number in range(1, self.stages + 1):
            h = self.stage(number, h)
        # The mean over space is why one ResNet takes images of any size; VGG's first dense layer
        # does not.
        return self.fc(h.mean((1, 2)))


def vgg(
    depth: int = 19, classes: int = 1000, size: int = 224, *, rngs: nnx.Rngs
) -> VGGNet:
    """VGG-11, 13, 16 or 19 for images [batch, size, size, 3], `size` a multiple of 32."""
    return VGGNet(VGG[depth], classes, size, rngs=rngs)


def resnet(
    depth: int = 50, classes: int = 1000, size: int = 224, *, rngs: nnx.Rngs
) -> ResNet:
    """ResNet-18, 34 or 50 for images [batch, size, size, 3]; the network is the same for any
    `size`.
    """
    return ResNet(RESNET[depth], depth >= 50, classes, rngs=rngs)


def shapes(make: Callable[..., nnx.Module], *args: int, **options: int) -> nnx.Module:
    """The same module with shapes in the place of values."""
    return nnx.eval_shape(lambda: make(*args, **options, rngs=nnx.Rngs(0)))
