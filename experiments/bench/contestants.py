"""The contestants of the benchmarks of a step: models in Flax and PyTorch, whole and split.

Each contestant is a function that takes a number of steps, waits for the last, and returns its
loss, so that all are timed alike and none is timed computing something else.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

import jsplit
from experiments.bench.networks import Model, torch

SEED = 0
RATE, MOMENTUM = 1e-3, 0.9
WARM = 3  # steps before the first block; the losses after them must agree

# As plain JAX trains: the state is donated, and nobody looks for NaN.
BARE = {"donate": True, "nonfinite": "allow"}

# The contestants.

Run = Callable[[int], float]


def cross_entropy(logits, label):
    return optax.softmax_cross_entropy_with_integer_labels(logits, label)


def whole(model: Model, batch: dict, *, faster: bool = False) -> Run:
    """Plain Flax and Optax: the whole model, one jit, donated state.

    With `faster` its convolutions are in the forms that jsplit gives its own.
    """
    graph, params, rest = nnx.split(model.net(nnx.Rngs(SEED)), nnx.Param, ...)
    # Plain dicts are the quickest to hand to a jitted function.
    params, rest = nnx.to_pure_dict(params), nnx.to_pure_dict(rest)
    optimizer = optax.sgd(RATE, MOMENTUM)

    def loss_of(params, rest, batch):
        net = nnx.merge(graph, params, rest)
        loss = cross_entropy(net(batch["image"]), batch["label"]).mean()
        return loss, nnx.to_pure_dict(nnx.split(net, nnx.Param, ...)[2])

    def step(state, batch):
        params, rest, memory = state
        (loss, rest), gradient = jax.value_and_grad(loss_of, has_aux=True)(
            params, rest, batch
        )
        updates, memory = optimizer.update(gradient, memory, params)
        return (optax.apply_updates(params, updates), rest, memory), loss

    step = jsplit.faster_convolutions(step) if faster else step
    step = jax.jit(step, donate_argnums=0)
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


def in_a_loop(model: Model, batch: dict, nonfinite: str) -> Run:
    """`jsplit.fused`, whose steps are the turns of a loop in one program.

    With `nonfinite="refuse"` each looks at what it leaves; nothing is waited for, so what
    it takes longer is the check alone.
    """
    parts = jsplit.split(model.net(nnx.Rngs(SEED)), batch["image"])
    topology = jsplit.vanilla(parts["smashed"], parts["output"], loss=cross_entropy)
    trainer = jsplit.fused(topology, optax.sgd(RATE, MOMENTUM), nonfinite=nonfinite)
    state, loss = trainer.init(jax.random.key(SEED), batch), 0.0

    @partial(jax.jit, donate_argnums=0)
    def steps(state, batch, count):
        def one(_, carry):
            state, info = trainer.step(carry[0], batch)
            # Read, or the compiler would drop the check.
            fine = True if info.finite is None else info.finite.all()
            return state, jax.numpy.where(fine, info.loss, jax.numpy.nan)

        return jax.lax.fori_loop(0, count, one, (state, jax.numpy.zeros(())))

    def run(count: int) -> float:
        nonlocal state, loss
        state, loss = steps(state, batch, count)
        jax.block_until_ready(state)
        return float(loss)

    return run


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
    # Channels first, but for a plain vector.
    image = torch.from_numpy(
        np.moveaxis(image, -1, 1).copy() if image.ndim > 2 else image
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
        "whole, faster": whole(model, batch, faster=True),
        "by hand": by_hand(model, batch),
        "fused": split(jsplit.fused, model, batch, **BARE),
        "messages": split(jsplit.messages, model, batch, **BARE),
        "fused, by default": split(jsplit.fused, model, batch),
        "messages, by default": split(jsplit.messages, model, batch),
        "fused, in a loop": in_a_loop(model, batch, "allow"),
        "fused, in a loop, checked": in_a_loop(model, batch, "refuse"),
        "messages recompute": split(
            jsplit.messages, model, batch, backward="recompute", **BARE
        ),
    }
    if torch is not None:
        runs |= {
            "torch whole": torch_run(model, batch, divided=False),
            "torch split": torch_run(model, batch, divided=True),
        }
        choose_threads(runs["torch whole"])
    return runs
