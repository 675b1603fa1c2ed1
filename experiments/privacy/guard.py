"""How often does a guard at the client miss a server that trains its bottom to leak?

And how often does it raise a false alarm? The server of Pasquini et al., `Unleashing the tiger
<https://arxiv.org/abs/2012.02670>`_ (FSHA), trains an autoencoder on public records and a critic
that tells its codes from the client's values, and sends the client the critic's cotangent: as
WGAN-GP, or as the logistic game of a GAN. In a U-shape its body goes on to learn beside, so that
the client's loss falls. Erdogan et al., `SplitGuard <https://arxiv.org/abs/2108.09052>`_, find it
by batches of false labels; `jsplit.privacy.guard` changes nothing of the training. Its thresholds
were chosen on seeds 0 and 1; the seeds here are others.

The networks are dense, and in so few steps these critics do not yet rebuild records (MSE above that
of the mean record): it is the cotangents of the attack that are found or missed, from its first
step on. Honest servers that are hard for the guard stand beside (deep bodies, dropout, BatchNorm, a
rare class, labels far from 0), and one that adds the critic's cotangent to the honest one.
`--cases relu` has a bottom that ends in a ReLU, and a server that hides the critic's cotangent
behind large random numbers at the places that the ReLU drops.

    python experiments/privacy/guard.py
    python experiments/privacy/guard.py --data digits credit_default.npz \\
        pneumoniamnist.npz
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jsplit
from experiments.common import report
from experiments.common.harness import positive, records
from experiments.common.report import write_rows
from jsplit.guarding import Alarms
from jsplit.privacy import Evidence, Guard, guard, rate, watch

BATCH, CUT, LIMIT = 64, 32, 4000
SEEDS = (10, 11, 12, 13, 14)
CLASSES = optax.softmax_cross_entropy_with_integer_labels
COLUMNS = (
    "data",
    "split",
    "server",
    "suspicious",
    "of",
    "rate",
    "interval",
    "runs",
    "by",
)


PLAIN = ("dense", "classes", "leaky")


class Case(NamedTuple):
    """A server.

    Attributes:
        split: "vanilla" or "u_shaped".
        server: "honest", or a critic: "wgan", "gan", "added" (wgan, to the honest one),
            "hidden" (wgan, drowned at the dead places of a ReLU).
        body: "dense" or what `Body` knows.
        task: "classes", "rare" (one class against the rest, by slow SGD) or "regression".
        end: of the bottom, "leaky" or "relu".
    """

    split: str
    server: str
    body: str = "dense"
    task: str = "classes"
    end: str = "leaky"

    @property
    def name(self) -> str:
        more = [x for x in (self.body, self.task, self.end) if x not in PLAIN]
        return " ".join([self.server, *more])


EASY = [
    Case(split, server)
    for split in ("vanilla", "u_shaped")
    for server in ("honest", "wgan", "gan", "added")
]
HARD = [
    *[Case("u_shaped", "honest", b) for b in ("deep4", "deep8", "norm", "dropout")],
    Case("u_shaped", "honest", task="rare"),
    Case("u_shaped", "honest", task="regression"),
    Case("vanilla", "honest", task="rare"),
    Case("vanilla", "honest", task="regression"),
]
RELU = [
    Case(split, server, end="relu")
    for split in ("vanilla", "u_shaped")
    for server in ("honest", "wgan", "hidden")
]


class Body(nnx.Module):
    """Dense layers of 64, the last of 32: two of them, or as many as `kind` says."""

    def __init__(self, kind: str, rngs: nnx.Rngs):
        count = int(kind[4:]) if kind.startswith("deep") else 2
        sizes = [CUT, *[64] * (count - 1), 32]
        pairs = zip(sizes, sizes[1:], strict=False)
        self.layers = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in pairs])
        self.norm = nnx.BatchNorm(64, rngs=rngs) if kind == "norm" else None
        self.drop = nnx.Dropout(0.5, rngs=rngs) if kind == "dropout" else None

    def __call__(self, up: jax.Array) -> jax.Array:
        for number, layer in enumerate(self.layers):
            up = layer(up)
            if not number and self.norm is not None:
                up = self.norm(up)
            up = nnx.relu(up)
            if not number and self.drop is not None:
                up = self.drop(up)
        return up


def weights(key: jax.Array, sizes: Sequence[int]) -> list:
    keys, draw = jax.random.split(key, len(sizes) - 1), jax.nn.initializers.he_uniform()
    pairs = zip(keys, sizes, sizes[1:], strict=False)
    return [(draw(k, (a, b)), jnp.zeros(b)) for k, a, b in pairs]


def dense(params: list, h: jax.Array, last: bool = False) -> jax.Array:
    """Dense layers, a leaky relu after each, and after the last one as well or not."""
    for number, (weight, bias) in enumerate(params, start=1):
        h = h @ weight + bias
        if last or number < len(params):
            h = jax.nn.leaky_relu(h, 0.1)
    return h


def layers(sizes: Sequence[int], inputs: str, name: str, last: bool) -> jsplit.Segment:
    return jsplit.segment(
        lambda params, h: dense(params, h, last),
        init=lambda key, *_: weights(key, sizes),
        inputs=[inputs],
        name=name,
    )


@jax.custom_vjp
def turned(x: jax.Array) -> jax.Array:
    """The same value, whose cotangent is turned round: one loss trains both players."""
    return x


turned.defvjp(lambda x: (x, None), lambda _, g: (-g,))


@jax.custom_vjp
def drowned(x: jax.Array) -> jax.Array:
    """The same value, whose cotangent is large random numbers where the value is 0."""
    return x


def _drown(x: jax.Array, g: jax.Array) -> tuple[jax.Array]:
    # Other numbers in each step, though a rule of derivatives has no key.
    key = jax.random.key(jax.lax.bitcast_convert_type(x.sum(), jnp.int32))
    size = 10 * jnp.sqrt((g**2).mean())
    return (jnp.where(x == 0, size * jax.random.normal(key, x.shape), g),)


drowned.defvjp(lambda x: (x, x), _drown)


def critic(width: int, value: str, game: str) -> jsplit.Segment:
    """The attacker's losses by record: of its autoencoder, and of its critic against the client."""

    def init(key: jax.Array, *_: jax.Array):
        sizes = ([width, 128, CUT], [CUT, 128, width], [CUT, 128, 128, 1])
        keys = jax.random.split(key, 3)
        return [weights(k, s) for k, s in zip(keys, sizes, strict=True)]

    def apply(params, h: jax.Array, public: jax.Array) -> jax.Array:
        encoder, decoder, judge = params
        code = dense(encoder, public, last=True)
        rebuilt = 10 * ((dense(decoder, code) - public) ** 2).mean(-1)

        def says(x: jax.Array) -> jax.Array:
            return dense(judge, x)[..., 0]

        code = jax.lax.stop_gradient(code)
        seen = drowned(h) if game == "hidden" else h
        fake, real = says(turned(seen)), says(code)
        if game == "gan":
            return rebuilt + jax.nn.softplus(fake) + jax.nn.softplus(-real)
        middle = jax.lax.stop_gradient((h + code) / 2)
        slope = jnp.sqrt((jax.vmap(jax.grad(says))(middle) ** 2).sum(-1) + 1e-12)
        return rebuilt + fake - real + 10 * (slope - 1) ** 2

    return jsplit.segment(apply, init=init, inputs=[value, "public"], name="critic")


class Problem(NamedTuple):
    """What is trained on.

    Attributes:
        record: the client's and the attacker's, [record, number].
        label: of them.
        outputs: how many numbers the model gives.
        loss: by record.
    """

    record: np.ndarray
    label: np.ndarray
    outputs: int
    loss: Callable


@cache
def problem(data: str, task: str, seed: int) -> Problem:
    train = records(data, limit=LIMIT, seed=seed).train
    record = np.asarray(train["record"], "float32").reshape(len(train["label"]), -1)
    label = np.asarray(train["label"]).astype("int32").reshape(-1)
    if task == "rare":
        return Problem(record, (label == label.max()).astype("int32"), 2, CLASSES)
    if task == "regression":
        far = 100 + 10 * label.astype("float32")
        return Problem(record, far, 1, lambda o, y: (o[:, 0] - y) ** 2)
    return Problem(record, label, int(label.max()) + 1, CLASSES)


def topology(case: Case, on: Problem) -> jsplit.Topology:
    width = on.record.shape[1]
    bottom = layers([width, 64, CUT], "record", "up", last=True)
    if case.end == "relu":
        bottom = jsplit.segment(
            lambda params, x: jax.nn.relu(dense(params, x)),
            init=lambda key, *_: weights(key, [width, 64, CUT]),
            inputs=["record"],
            name="up",
        )
    if case.split == "vanilla":
        top = layers([CUT, 64, on.outputs], "up", "output", last=False)
        honest = jsplit.vanilla(bottom, top, loss=on.loss)
    else:
        body = Body(case.body, nnx.Rngs(0))
        honest = jsplit.u_shaped(
            bottom,
            jsplit.segment(body, inputs=["up"], name="down"),
            layers([32, on.outputs], "down", "output", last=False),
            loss=on.loss,
        )
    if case.server == "honest":
        return honest
    [value] = [c.name for c in honest.crossings if c.sender == "client"]
    game = "wgan" if case.server == "added" else case.server
    own = jsplit.Node("critic", critic(width, value, game), "server", [value, "public"])
    losses = [jsplit.Loss("own", lambda each: each, "server", ["critic"])]
    added = case.server == "added"
    keeps = [n for n in honest.segments if n.party == "server"]
    if added:
        losses += [loss for loss in honest.losses if loss.party == "server"]
    elif case.split == "vanilla":
        keeps = []
    else:
        # It answers, and learns to from the client's cotangent, and passes on nothing of it.
        keeps = [
            jsplit.Node(n.name, n.segment, "server", n.inputs, detached=[value])
            for n in keeps
        ]
    return honest.replace("server", [own, *keeps], losses=losses, holds="public")


def windows(
    case: Case, data: str, steps: int, rule: Guard
) -> tuple[list[tuple[Evidence, ...]], float, float]:
    """The evidence of all windows by run, seconds of training, and of the guard."""
    first = problem(data, case.task, SEEDS[0])
    slow = optax.sgd(0.01) if case.task == "rare" else optax.adam(1e-3)
    trainer = jsplit.record(jsplit.fused(topology(case, first), slow))
    found: list[tuple[Evidence, ...]] = []
    training = guarding = 0.0
    for seed in SEEDS:
        on, rng = problem(data, case.task, seed), np.random.default_rng(seed)
        half = len(on.label) // 2  # the other half is the attacker's

        def batch(on=on, rng=rng, half=half):
            mine, theirs = rng.integers(half, size=(2, BATCH))
            fields = {"record": on.record[mine], "label": on.label[mine]}
            if case.server != "honest":
                fields["public"] = on.record[half + theirs]
            return fields

        state = trainer.init(seed, batch())
        began = time.perf_counter()
        _, seen = watch(trainer, state, (batch() for _ in range(steps)), "client")
        middle = time.perf_counter()
        found.append(guard(seen, rule))
        training += middle - began
        guarding += time.perf_counter() - middle
    return found, training, guarding


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--data", nargs="+", default=["digits"])
    parser.add_argument("--steps", type=positive, default=400, help="of each seed")
    parser.add_argument("--window", type=positive, default=20, help="steps of a window")
    parser.add_argument(
        "--cases", choices=["easy", "hard", "relu", "all"], default="all"
    )
    parser.add_argument("--out", type=Path, default=Path("results/guard.json"))
    options = parser.parse_args()
    groups = {"easy": EASY, "hard": HARD, "relu": RELU}
    cases = groups.get(options.cases, [*EASY, *HARD, *RELU])
    rule, rows, kept = Guard(window=options.window), [], []
    for data in options.data:
        for case in cases:
            runs, training, guarding = windows(case, data, options.steps, rule)
            found = [e for run in runs for e in run]
            alarms = [e.suspicious for e in found]
            part = rate(sum(alarms), len(alarms))
            values = [e.statistic for e in found]
            stopped = sum(Alarms(rule).any(run) for run in runs)
            tests = Counter(e.test for e in found if e.suspicious)
            low, high = part.interval
            name = Path(data).stem
            rows.append(
                [
                    *(name, case.split, case.name, str(sum(alarms)), str(len(alarms))),
                    *(f"{part.value:.2f}", f"{low:.3f}-{high:.3f}"),
                    f"{stopped} of {len(runs)}",
                    ", ".join(f"{n} {test}" for test, n in tests.items()) or "-",
                ]
            )
            steps = len(SEEDS) * options.steps
            cost = f"{1e3 * training / steps:.2f} ms a step, guard {1e3 * guarding / steps:.2f} ms"
            print(*rows[-1], cost, sep="  ", flush=True)
            kept.append(
                {"data": name, **case._asdict(), "tests": [e.test for e in found]}
                | {"runs with an alarm": stopped, "runs": len(runs)}
                | {"suspicious": sum(alarms), "windows": len(alarms)}
                | {"interval": part.interval, "statistics": values}
                | {"seconds": training, "guard seconds": guarding}
            )
    report.table("suspicious windows, and runs with an alarm", COLUMNS, rows)
    write_rows(options.out, kept)


if __name__ == "__main__":
    main()
