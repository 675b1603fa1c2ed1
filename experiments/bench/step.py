"""What does a step of split training cost, beside one of the whole model in the same process?

A small MLP and a CNN (with BatchNorm and at a larger batch: by default not on a CPU), cut once in
the `vanilla` configuration, SGD with momentum, one batch, float32. The contestants take turns,
block by block (A B C A B C ...), so that a noisy machine disturbs all alike; every ratio is taken
within a round, and the median over the rounds is reported. Bounds asked of jsplit: `fused` at
most 1.03 times the whole model in one jit, `messages` at most 1.15 times on a CNN whose step
takes at least 10 ms, and at most 200 microseconds more on a small MLP.

Beside them runs the split as one would write it by hand in plain JAX, three jits a step.
`messages` runs four: its server sends the cotangent before it computes the gradients of its
weights, and two programs need less memory at a time than one, which on a CPU, where memory is
mapped anew for every large program, is a good part of a step.

PyTorch, where it is installed, trains the same sizes whole and split as other split-learning
codes write it: two optimizers, `detach().requires_grad_()` at the cut, and the returned gradient
into `backward`. All of it as it is, no bound.

    python experiments/bench/step.py [--seconds 150] [--models mlp cnn cnn_norm] [--rounds 200]
    [--out results/bench_step.json]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import flax
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
BLOCK = 0.05  # seconds that a block of steps should take
CONTESTANTS = (
    "whole",
    "by hand",
    "fused",
    "messages",
    "messages recompute",
    "torch whole",
    "torch split",
)


class Ratio(NamedTuple):
    """`of / to` within each round, or `of - to` in microseconds; `bound` by model, where there is
    one.
    """

    of: str
    to: str
    unit: str
    bound: Mapping[str, float]


RATIOS = (
    Ratio(
        "fused",
        "whole",
        "times",
        {"mlp": 1.03, "cnn": 1.03, "cnn_norm": 1.03, "cnn_large": 1.03},
    ),
    Ratio(
        "messages", "whole", "times", {"cnn": 1.15, "cnn_norm": 1.15, "cnn_large": 1.15}
    ),
    Ratio("messages", "whole", "us more", {"mlp": 200.0}),
    Ratio("by hand", "whole", "times", {}),
    Ratio("messages", "by hand", "times", {}),
    Ratio("messages recompute", "messages", "times", {}),
    Ratio("torch split", "torch whole", "times", {}),
    Ratio("messages", "torch split", "times", {}),
    Ratio("fused", "torch split", "times", {}),
)


# The models: Flax, cut at `smashed`, and the two halves of the same thing in PyTorch.


class MLP(nnx.Module):
    """784-128 | 64-10."""

    def __init__(self, rngs: nnx.Rngs):
        self.low, self.mid, self.high = (
            nnx.Linear(a, b, rngs=rngs)
            for a, b in ((784, 128), (128, 64), (64, CLASSES))
        )

    def __call__(self, image):
        h = jsplit.cut(nnx.relu(self.low(image)), "smashed")
        return self.high(nnx.relu(self.mid(h)))


class CNN(nnx.Module):
    """conv32-conv32-pool | conv64-conv64-pool-dense256-10, with or without BatchNorm after each
    convolution.
    """

    def __init__(self, rngs: nnx.Rngs, norm: bool = False):
        widths = [(3, 32), (32, 32), (32, 64), (64, 64)]
        self.convs = nnx.List([nnx.Conv(a, b, (3, 3), rngs=rngs) for a, b in widths])
        self.norms = nnx.List(
            [nnx.BatchNorm(b, rngs=rngs) for _, b in widths] if norm else []
        )
        self.dense, self.out = (
            nnx.Linear(8 * 8 * 64, 256, rngs=rngs),
            nnx.Linear(256, CLASSES, rngs=rngs),
        )

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
    bottom = torch.nn.Sequential(torch.nn.Linear(784, 128), torch.nn.ReLU())
    return bottom, torch.nn.Sequential(
        torch.nn.Linear(128, 64), torch.nn.ReLU(), torch.nn.Linear(64, CLASSES)
    )


def torch_cnn(norm: bool = False) -> tuple:
    def stage(a: int, b: int) -> list:
        convs = [torch.nn.Conv2d(x, b, 3, padding="same") for x in (a, b)]
        return [
            m
            for c in convs
            for m in (c, *[torch.nn.BatchNorm2d(b)] * norm, torch.nn.ReLU())
        ] + [torch.nn.MaxPool2d(2)]

    ends = [
        torch.nn.Flatten(),
        torch.nn.Linear(8 * 8 * 64, 256),
        torch.nn.ReLU(),
        torch.nn.Linear(256, CLASSES),
    ]
    return torch.nn.Sequential(*stage(3, 32)), torch.nn.Sequential(
        *stage(32, 64), *ends
    )


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
USUAL = {
    "cpu": ("mlp", "cnn")
}  # what is run unless asked otherwise; on other devices all


# The contestants: each a function that takes a number of steps, waits for the last, and returns
# its loss.

Run = Callable[[int], float]


def cross_entropy(logits, label):
    return optax.softmax_cross_entropy_with_integer_labels(logits, label)


def whole(model: Model, batch: dict) -> Run:
    """Plain Flax and Optax: the whole model, one jit, donated state."""
    graph, params, rest = nnx.split(model.net(nnx.Rngs(SEED)), nnx.Param, ...)
    params, rest = (
        nnx.to_pure_dict(params),
        nnx.to_pure_dict(rest),
    )  # plain dicts: the quickest to hand to a jitted function
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
    """The same two halves as one would write them in plain JAX: three jits a step, nothing
    checked, recorded or encoded.
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
        params, rest = jax.tree.map(
            lambda x: jax.numpy.array(x, copy=True), part.init(key)
        )
        first.append((params, rest, optimizer.init(params)))
    return repeat(step, tuple(first), batch)


def repeat(step: Callable, state: Any, batch: dict) -> Run:
    def run(steps: int) -> float:
        nonlocal state
        for _ in range(steps):
            state, loss = step(state, batch)
        jax.block_until_ready((state, loss))
        return float(loss)

    return run


def torch_run(model: Model, batch: dict, *, divided: bool) -> Run:
    """PyTorch as it is usually written, the whole model or cut in two."""
    device = (
        "cuda"
        if torch.cuda.is_available() and jax.default_backend() != "cpu"
        else "cpu"
    )
    torch.manual_seed(SEED)
    torch.backends.cudnn.benchmark = (
        True  # XLA picks its convolutions by trying them, too
    )
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = (
        True  # as XLA does by default
    )
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
    """One thread or all, whichever is quicker now: on busy cores PyTorch's threads wait for each
    other most of the time.
    """

    def cost(threads: int) -> float:
        torch.set_num_threads(threads)
        return min(timed(run, 1) for _ in range(WARM))

    torch.set_num_threads(min((1, len(os.sched_getaffinity(0))), key=cost))


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


# Run.


def example(model: Model) -> dict[str, jax.Array]:
    image, label = jax.random.split(jax.random.key(SEED))
    return {
        "image": jax.random.normal(image, (model.batch, *model.shape)),
        "label": jax.random.randint(label, (model.batch,), 0, CLASSES),
    }


def timed(run: Run, steps: int) -> float:
    """Seconds a step."""
    start = time.perf_counter()
    run(steps)
    return (time.perf_counter() - start) / steps


def measure(
    model: Model, seconds: float, rounds: int
) -> tuple[dict[str, list[float]], int]:
    """Seconds a step of every contestant in every round, and the steps of a block."""
    start = time.perf_counter()
    runs = contestants(model, example(model))
    losses = {name: run(WARM) for name, run in runs.items()}
    for name, loss in losses.items():
        if (
            not name.startswith("torch")
            and abs(loss - losses["whole"]) > 1e-3 * losses["whole"]
        ):
            raise RuntimeError(
                f"`{name}` computes something else: its loss is {loss}, that of the whole model {losses['whole']}."
            )
    steps = max(2, round(BLOCK / timed(runs["whole"], WARM)))
    times: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for number in range(rounds):
        for name in (
            names[number % len(names) :] + names[: number % len(names)]
        ):  # each goes first in turn
            runs[name](1)  # wakes what slept while the others ran
            times[name].append(timed(runs[name], steps))
        if time.perf_counter() - start > seconds and number >= 2:
            break
    return times, steps


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def rows_of(
    name: str, model: Model, times: Mapping[str, list[float]], steps: int
) -> tuple[list[dict], list[dict]]:
    """Milliseconds a step by contestant, and the ratios."""
    common = {"model": name, "batch": model.batch, "rounds": len(times["whole"])}
    absolute = [
        {
            **common,
            "contestant": who,
            "steps_per_block": steps,
            "unit": "ms per step",
            **spread([1e3 * t for t in values]),
        }
        for who, values in times.items()
    ]
    relative = []
    for r in RATIOS:
        if r.of in times and r.to in times:
            pairs = zip(times[r.of], times[r.to], strict=True)
            values = spread(
                [a / b if r.unit == "times" else 1e6 * (a - b) for a, b in pairs]
            )
            bound = r.bound.get(name)
            within = None if bound is None else values["median"] <= bound
            relative.append(
                {
                    **common,
                    "of": r.of,
                    "to": r.to,
                    "unit": r.unit,
                    **values,
                    "bound": bound,
                    "within": within,
                }
            )
    return absolute, relative


def machine() -> dict[str, Any]:
    versions = {
        "python": platform.python_version(),
        "jax": jax.__version__,
        "flax": flax.__version__,
    }
    device = jax.devices()[0]
    return {
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "backend": jax.default_backend(),
        "device": device.device_kind,
        **versions,
        "optax": optax.__version__,
        "jsplit": version("jsplit"),
        "torch": torch.__version__ if torch else None,
    }


def show(absolute: Sequence[dict], relative: Sequence[dict]) -> None:
    print(
        f"\n{absolute[0]['model']}, batch {absolute[0]['batch']}, {absolute[0]['rounds']} rounds of blocks",
        end="",
    )
    print(
        f" of {absolute[0]['steps_per_block']} steps\n  {'':36}{'median':>12}{'min':>12}{'max':>12}"
    )
    for row in absolute:
        print(
            f"  {row['contestant'] + ', ms a step':36}{row['median']:12.3f}{row['min']:12.3f}{row['max']:12.3f}"
        )
    for row in relative:
        what = (
            f"{row['of']} / {row['to']}"
            if row["unit"] == "times"
            else f"{row['of']} - {row['to']}, us"
        )
        bound = (
            ""
            if row["bound"] is None
            else f"  at most {row['bound']:g}: {'yes' if row['within'] else 'NO'}"
        )
        print(
            f"  {what:36}{row['median']:12.3f}{row['min']:12.3f}{row['max']:12.3f}{bound}"
        )


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=150,
        help="time for everything, compilation included",
    )
    parser.add_argument(
        "--models",
        nargs="+",
        choices=MODELS,
        help="by default mlp and cnn on a CPU, else all",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=200,
        help="at most so many; at least three are run",
    )
    parser.add_argument("--out", type=Path, default=Path("results/bench_step.json"))
    options = parser.parse_args(argv)
    os.environ.setdefault(
        "XLA_PYTHON_CLIENT_PREALLOCATE", "false"
    )  # PyTorch needs a share of the accelerator's memory
    names = options.models or USUAL.get(jax.default_backend(), tuple(MODELS))

    result: dict[str, Any] = {"machine": machine(), "rows": [], "ratios": []}
    deadline = time.perf_counter() + options.seconds
    for i, name in enumerate(names):
        share = (deadline - time.perf_counter()) / (
            len(names) - i
        )  # what one model leaves over goes to the next
        times, steps = measure(MODELS[name], share, options.rounds)
        absolute, relative = rows_of(name, MODELS[name], times, steps)
        show(absolute, relative)
        result["rows"] += absolute
        result["ratios"] += relative

    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1))
    return result


if __name__ == "__main__":
    main()
