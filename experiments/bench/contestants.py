"""The contestants of the benchmarks of a step: models in Flax and PyTorch, whole and split.

Each contestant is a function that takes a number of steps, waits for the last, and returns its
loss, so that all are timed alike and none is timed computing something else.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import nnx

import jsplit

try:
    import torch
except ImportError:  # not a dependency: without it its rows are absent
    torch = None

SEED = 0
CLASSES = 10
RATE, MOMENTUM = 1e-3, 0.9
WARM = 3  # steps before the first block; the losses after them must agree

# The models: Flax, cut at `smashed`, and the two halves of the same thing in PyTorch.


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


class Model(NamedTuple):
    """A network in both frameworks, and what it is fed."""

    net: Callable[[nnx.Rngs], nnx.Module]
    torch: Callable[[], tuple]
    shape: tuple[int, ...]
    batch: int


MODELS = {
    "mlp": Model(MLP, torch_mlp, (784,), 64),
    "cnn": Model(CNN, torch_cnn, (32, 32, 3), 64),
    "cnn_norm": Model(
        partial(CNN, norm=True), partial(torch_cnn, norm=True), (32, 32, 3), 64
    ),
    "cnn_large": Model(CNN, torch_cnn, (32, 32, 3), 1024),
}
# What is run unless asked otherwise; on other devices all.
USUAL = {"cpu": ("mlp", "cnn")}


# The contestants.

Run = Callable[[int], float]


def cross_entropy(logits, label):
    return optax.softmax_cross_entropy_with_integer_labels(logits, label)


def whole(model: Model, batch: dict) -> Run:
    """Plain Flax and Optax: the whole model, one jit, donated state."""
    graph, params, rest = nnx.split(model.net(nnx.Rngs(SEED)), nnx.Param, ...)
    # Plain dicts are the quickest to hand to a jitted function.
    params, rest = nnx.to_pure_dict(params), nnx.to_pure_dict(rest)
    optimizer = optax.sgd(RATE, MOMENTUM)

    def loss_of(params, rest, batch):
        net = nnx.merge(graph, params, rest)
        loss = cross_entropy(net(batch["image"]), batch["label"]).mean()
        return loss, nnx.to_pure_dict(nnx.split(net, nnx.Param, ...)[2])

    @partial(jax.jit, donate_argnums=0)
    def step(state, batch):
        params, rest, memory = state
        (loss, rest), gradient = jax.value_and_grad(loss_of, has_aux=True)(
            params, rest, batch
        )
        updates, memory = optimizer.update(gradient, memory, params)
        return (optax.apply_updates(params, updates), rest, memory), loss

    return repeat(step, (params, rest, optimizer.init(params)), batch)


def split(
    interpreter: Callable[..., jsplit.Trainer], model: Model, batch: dict, **options
) -> Run:
    """The same model through `jsplit.fused` or `jsplit.messages`."""
    parts = jsplit.split(model.net(nnx.Rngs(SEED)), batch["image"])
    topology = jsplit.vanilla(parts["smashed"], parts["output"], loss=cross_entropy)
    trainer = interpreter(topology, optax.sgd(RATE, MOMENTUM), **options)

    def step(state, batch):
        state, info = trainer.step(state, batch)
        return state, info.loss

    return repeat(step, trainer.init(jax.random.key(SEED), batch), batch)


def by_hand(model: Model, batch: dict) -> Run:
    """The same two halves as one would write them in plain JAX, in three jits a step.

    Nothing is checked, recorded or encoded.
    """
    bottom, top = jsplit.split(model.net(nnx.Rngs(SEED)), batch["image"]).values()
    optimizer, key = optax.sgd(RATE, MOMENTUM), jax.random.key(SEED)

    @jax.jit
    def forward(params, rest, image):
        h, pull, rest = jax.vjp(
            lambda params: bottom.apply(params, rest, key, image), params, has_aux=True
        )
        return h, pull, rest

    def update(gradient, memory, params):
        updates, memory = optimizer.update(gradient, memory, params)
        return optax.apply_updates(params, updates), memory

    @partial(jax.jit, donate_argnums=0)
    def server(state, h, label):
        params, rest, memory = state

        def loss_of(params, h):
            logits, new = top.apply(params, rest, key, h)
            return cross_entropy(logits, label).mean(), new

        (loss, rest), (gradient, cotangent) = jax.value_and_grad(
            loss_of, (0, 1), has_aux=True
        )(params, h)
        params, memory = update(gradient, memory, params)
        return (params, rest, memory), loss, cotangent

    @partial(jax.jit, donate_argnums=(1, 2))
    def backward(pull, memory, params, cotangent):
        return update(pull(cotangent)[0], memory, params)

    def step(state, batch):
        (params, rest, memory), own = state
        h, pull, rest = forward(params, rest, batch["image"])
        own, loss, cotangent = server(own, h, batch["label"])
        params, memory = backward(pull, memory, params, cotangent)
        return ((params, rest, memory), own), loss

    first = []
    for part in (bottom, top):
        # Copied, since the steps donate them and an nnx module's own values are the same arrays.
        params, rest = jax.tree.map(
            lambda x: jax.numpy.array(x, copy=True), part.init(key)
        )
        first.append((params, rest, optimizer.init(params)))
    return repeat(step, tuple(first), batch)


def repeat(step: Callable, state: Any, batch: dict) -> Run:
    """A run that goes on from where it stopped."""

    def run(steps: int) -> float:
        nonlocal state
        for _ in range(steps):
            state, loss = step(state, batch)
        jax.block_until_ready((state, loss))
        return float(loss)

    return run


def torch_run(model: Model, batch: dict, *, divided: bool) -> Run:
    """PyTorch as it is usually written, the whole model or cut in two."""
    on_gpu = torch.cuda.is_available() and jax.default_backend() != "cpu"
    device = "cuda" if on_gpu else "cpu"
    torch.manual_seed(SEED)
    # XLA, too, picks its convolutions by trying them, and computes in TF32 by default.
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cuda.matmul.allow_tf32 = True
    image = np.array(batch["image"])
    image = torch.from_numpy(
        image.transpose(0, 3, 1, 2).copy() if image.ndim == 4 else image
    ).to(device)
    label = torch.from_numpy(np.array(batch["label"], np.int64)).to(device)
    client, server = (part.to(device) for part in model.torch())
    criterion = torch.nn.CrossEntropyLoss()

    def sgd(part):
        return torch.optim.SGD(part.parameters(), lr=RATE, momentum=MOMENTUM)

    net = torch.nn.Sequential(client, server)
    optimizer, client_optimizer, server_optimizer = sgd(net), sgd(client), sgd(server)

    def whole_step():
        optimizer.zero_grad()
        loss = criterion(net(image), label)
        loss.backward()
        optimizer.step()
        return loss

    def split_step():
        client_optimizer.zero_grad()
        server_optimizer.zero_grad()
        smashed = client(image)
        received = smashed.detach().requires_grad_()
        loss = criterion(server(received), label)
        loss.backward()
        server_optimizer.step()
        smashed.backward(received.grad)
        client_optimizer.step()
        return loss

    def run(steps: int) -> float:
        for _ in range(steps):
            loss = split_step() if divided else whole_step()
        if device == "cuda":
            torch.cuda.synchronize()
        return loss.item()

    return run


def choose_threads(run: Run) -> None:
    """Give PyTorch one thread or all, whichever is quicker now."""
    # On busy cores its threads wait for each other most of the time.

    def cost(threads: int) -> float:
        torch.set_num_threads(threads)
        return min(timed(run, 1) for _ in range(WARM))

    torch.set_num_threads(min((1, len(os.sched_getaffinity(0))), key=cost))


def timed(run: Run, steps: int) -> float:
    """Seconds a step."""
    start = time.perf_counter()
    run(steps)
    return (time.perf_counter() - start) / steps


def contestants(model: Model, batch: dict) -> dict[str, Run]:
    runs = {
        "whole": whole(model, batch),
        "by hand": by_hand(model, batch),
        "fused": split(jsplit.fused, model, batch),
        "messages": split(jsplit.messages, model, batch),
        "messages recompute": split(
            jsplit.messages, model, batch, backward="recompute"
        ),
    }
    if torch is not None:
        runs |= {
            "torch whole": torch_run(model, batch, divided=False),
            "torch split": torch_run(model, batch, divided=True),
        }
        choose_threads(runs["torch whole"])
    return runs
