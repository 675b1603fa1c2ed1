"""The networks of SplitBench in PyTorch, in parts where they are cut, with the weights of Flax.

Layers are those of common/models.py and common/harness.py, padding as XLA's included, so that of
the same seed both systems start from the same weights and, without dropout, give the same logits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.bench.networks import torch
from experiments.common.models import DROPOUT, SMALLEST

Tree = Mapping[Any, Any]


def linear(weights: Tree, before: Sequence[int] = ()) -> Any:
    """A dense layer.

    Args:
        weights: `kernel` [inputs, outputs], and `bias` where there is one.
        before: shape of what was flattened, [*space, channels], if it was: Flax has the
            channels last, PyTorch first.
    """
    kernel = np.asarray(weights["kernel"])
    if len(before) > 1:
        outputs = kernel.shape[-1]
        apart = kernel.reshape(*before, outputs)
        kernel = np.moveaxis(apart, -2, 0).reshape(-1, outputs)
    layer = torch.nn.Linear(*kernel.shape, bias="bias" in weights)
    copied(layer.weight, kernel.T)
    if "bias" in weights:
        copied(layer.bias, weights["bias"])
    return layer


def convolution(weights: Tree, space: Sequence[int]) -> list:
    """A convolution of width 3 that halves each axis, padded as XLA's "SAME" does."""
    kernel = np.asarray(weights["kernel"])
    axes, (inputs, outputs) = len(space), kernel.shape[-2:]
    # XLA pads an even axis at its end alone; PyTorch lists the last axis first.
    pads = [side for n in reversed(space) for side in (n % 2, 1)]
    pad = getattr(torch.nn, f"ConstantPad{axes}d")(tuple(pads), 0.0)
    kind = getattr(torch.nn, f"Conv{axes}d")
    layer = kind(inputs, outputs, 3, stride=2, bias="bias" in weights)
    copied(layer.weight, np.transpose(kernel, (axes + 1, axes, *range(axes))))
    if "bias" in weights:
        copied(layer.bias, weights["bias"])
    return [pad, layer]


def norm(weights: Tree, axes: int) -> Any:
    """BatchNorm after an axis of channels and so many of space."""
    scale = np.asarray(weights["scale"])
    # Flax keeps 0.9 of the old mean, which PyTorch calls a momentum of 0.1.
    layer = getattr(torch.nn, f"BatchNorm{max(axes, 1)}d")(len(scale), momentum=0.1)
    copied(layer.weight, scale)
    copied(layer.bias, weights["bias"])
    return layer


def copied(parameter: Any, value: Any) -> None:
    with torch.no_grad():
        parameter.copy_(torch.from_numpy(np.array(value, np.float32)))


def dense(weights: Tree, before: Sequence[int] = ()) -> list:
    """`Dense` of common/models.py."""
    layers = [linear(weights["linear"], before), norm(weights["norm"], 0)]
    return [*layers, torch.nn.ReLU(), torch.nn.Dropout(DROPOUT)]


def bottom(weights: Tree, shape: Sequence[int]) -> Any:
    """`Bottom` of common/models.py, of records [*space, channels]."""
    *space, channels = shape
    layers, number = [], 0
    while space and max(space) > SMALLEST:
        own = weights["layers"][number]
        layers += convolution(own["conv"], space)
        layers += [norm(own["norm"], len(space)), torch.nn.ReLU()]
        channels = np.shape(own["conv"]["kernel"])[-1]
        space, number = [(n + 1) // 2 for n in space], number + 1
    layers += [torch.nn.Flatten(), *dense(weights["dense"], (*space, channels))]
    return torch.nn.Sequential(*layers)


def top(weights: Tree) -> list:
    """`Top` of common/models.py, in the two parts that a cut at `deep` makes."""
    first = [*dense(weights["first"]), linear(weights["second"]), torch.nn.ReLU()]
    return [torch.nn.Sequential(*first), linear(weights["last"])]


def halves(weights: Tree, shape: Sequence[int]) -> tuple[Any, Any]:
    """A network of common/harness.py, cut after its first layer."""
    relu, layers = torch.nn.ReLU, weights["layers"]
    if "dense" not in weights:
        first, *others = [layers[i] for i in sorted(layers, key=int)]
        high = [part for own in others for part in (relu(), linear(own))]
        low = [torch.nn.Flatten(), linear(first, shape)]
        return torch.nn.Sequential(*low), torch.nn.Sequential(*high)
    *space, _ = shape
    parts, channels = [], 0
    for i in sorted(layers, key=int):
        parts.append(convolution(layers[i], space))
        channels = np.shape(layers[i]["kernel"])[-1]
        space = [(n + 1) // 2 for n in space]
    high = [part for own in parts[1:] for part in (relu(), *own)]
    high += [relu(), torch.nn.Flatten(), linear(weights["dense"], (*space, channels))]
    high += [relu(), linear(weights["last"])]
    return torch.nn.Sequential(*parts[0]), torch.nn.Sequential(*high)


def tensor(x: np.ndarray) -> Any:
    """Records as PyTorch has them, channels before space; labels as 64-bit integers."""
    if x.dtype.kind in "iu":
        return torch.from_numpy(np.array(x, np.int64))
    x = np.moveaxis(x, -1, 1) if x.ndim > 2 else x
    return torch.from_numpy(np.array(x, np.float32))


def split_step(
    bottoms: Sequence[Any],
    tops: Sequence[Any],
    optimizers: Sequence[Any],
    inputs: Sequence[Any],
    label: Any,
) -> Any:
    """One step as split-learning codes write it: every party's optimizer in one loop.

    Args:
        bottoms: one for each input.
        tops: what follows on the joined outputs, cut between each two.
        optimizers: of all parties.
        inputs: records of each field.
        label: [batch].
    """
    for optimizer in optimizers:
        optimizer.zero_grad()
    # Pairs of what a party sent and what the other received: the graph ends in between,
    # and the gradient is handed back by hand.
    sent = [part(x) for part, x in zip(bottoms, inputs, strict=True)]
    pairs = [(h, h.detach().requires_grad_()) for h in sent]
    h = (
        torch.cat([received for _, received in pairs], dim=-1)
        if len(pairs) > 1
        else pairs[0][1]
    )
    for part in tops[:-1]:
        out = part(h)
        h = out.detach().requires_grad_()
        pairs.append((out, h))
    loss = torch.nn.functional.cross_entropy(tops[-1](h), label)
    loss.backward()
    for out, received in reversed(pairs):
        out.backward(received.grad)
    for optimizer in optimizers:
        optimizer.step()
    return loss
