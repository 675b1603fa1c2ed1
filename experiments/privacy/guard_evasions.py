"""What does a guard miss of a server that knows it, and what leaks meanwhile?

The server of Pasquini et al., `Unleashing the tiger <https://arxiv.org/abs/2012.02670>`_, hijacks
the bottom of a client, by `jsplit.privacy.hijack`. Here it hides: it mixes its cotangent with the
honest one, sends it in some steps or windows alone, after an honest start, beneath noise, without
the mean over records, tiny, or much larger in a few steps. `jsplit.guarding` judges windows of 20
steps as it does over the network. Beside the rate stands how well the client's pictures are rebuilt
after the last step: the MSE over that of the mean of public records (1: as by a guess).

`--cases honest` are runs without any attack that are hard on the guard: labels at random, a rare
class, shifted pictures, small batches, a large learning rate, by Adam and by SGD.

    python experiments/privacy/guard_evasions.py
    python experiments/privacy/guard_evasions.py --cases honest --split u_shaped
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.common import report
from experiments.common.harness import positive
from experiments.common.report import write_rows
from experiments.privacy.inputs import bottom, halves
from jsplit.guarding import Alarms, Evidence, Guard, begin, judge, note
from jsplit.privacy import hijack

SIZE = (4, 4, 16)  # of an activation of a digit
FLAT, DOWN = 256, 32
CHANNELS = 2
COLUMNS = (
    "split",
    "server",
    "suspicious",
    "of",
    "alarm after",
    "MSE / chance",
    "right",
)


class Hide(NamedTuple):
    """How the server hides, as arrays, so that all ways are one program.

    Attributes:
        share: of its own cotangent, brought to the norm of the honest one.
        centred: 1: without the mean over records.
        noise: of mean 0, in norms of the honest one.
        scale: of all that it sends.
    """

    share: float = 1.0
    centred: float = 0.0
    noise: float = 0.0
    scale: float = 1.0


class Case(NamedTuple):
    """A run.

    Attributes:
        hide: how the server hides.
        when: in which steps it does not send the honest cotangent.
        sgd: whether the client's optimizer is SGD, which a norm matters to.
        rate: of the client's optimizer, times that of the others.
        batch: records of a step.
        data: "plain", "random" labels, "rare" (nine of ten of one class) or "shifted".
    """

    hide: Hide = Hide()
    when: Callable[[int], bool] = lambda step: True
    sgd: bool = False
    rate: float = 1.0
    batch: int = 64
    data: str = "plain"


def never(step: int) -> bool:
    return False


def every(count: int, step: int) -> bool:
    return step % count == 0


def windows(on: int, of: int, step: int) -> bool:
    return step // 20 % of < on


CASES = {
    "honest": Case(when=never),
    "hijack": Case(),
    "mixed 50 %": Case(Hide(0.5)),
    "mixed 25 %": Case(Hide(0.25)),
    "mixed 10 %": Case(Hide(0.1)),
    "1 step of 2": Case(when=partial(every, 2)),
    "1 step of 4": Case(when=partial(every, 4)),
    "1 step of 10": Case(when=partial(every, 10)),
    "1 window of 2": Case(when=partial(windows, 1, 2)),
    "3 windows of 4": Case(when=partial(windows, 3, 4)),
    "after 100 honest steps": Case(when=lambda step: step >= 100),
    "beneath noise of 3 norms": Case(Hide(noise=3.0)),
    "centred": Case(Hide(centred=1.0)),
    "centred, mixed 50 %": Case(Hide(0.5, centred=1.0)),
    "tiny (1e-8)": Case(Hide(scale=1e-8)),
    "honest, client by SGD": Case(when=never, sgd=True),
    "1 step of 20, 20 norms, client by SGD": Case(
        Hide(scale=20.0), partial(every, 20), sgd=True
    ),
}
HONEST = {
    "labels at random": Case(when=never, data="random"),
    "a rare class": Case(when=never, data="rare"),
    "shifted pictures": Case(when=never, data="shifted"),
    "30 times the rate": Case(when=never, rate=30.0),
    "by SGD": Case(when=never, sgd=True),
    "batches of 8": Case(when=never, batch=8),
    "batches of 2": Case(when=never, batch=2),
}


def linear(key: jax.Array, *shape: int) -> dict[str, jax.Array]:
    weight = jax.random.normal(key, shape) * (2 / shape[0]) ** 0.5
    return {"weight": weight, "bias": jnp.zeros(shape[1])}


def through(layer: dict[str, jax.Array], h: jax.Array) -> jax.Array:
    return h.reshape(len(h), -1) @ layer["weight"] + layer["bias"]


def handed(h: jax.Array) -> jax.Array:
    return h[..., :CHANNELS]


PART = bottom("conv 2", widths=(8, 16))
OWN = hijack(
    *(SIZE, (8, 8), handed),
    inputs=["smashed", "public"],
    width=8,
    data_range=(-1, 1),
    positive=True,  # what comes has been through a relu
    learning_rate=2e-3,
    learning_rate_judge=2e-3,
)


class Both(NamedTuple):
    """What client and server carry: their parameters, and what their optimizers remember."""

    client: dict
    server: dict
    own: dict
    memories: tuple


def start(u_shape: bool, optimizer, x, public) -> Both:
    keys = jax.random.split(jax.random.key(0), 4)
    client = {"bottom": PART.init(keys[0], x)[0]}
    server = {"first": linear(keys[1], FLAT, 64), "second": linear(keys[2], 64, DOWN)}
    last = linear(keys[3], DOWN if u_shape else FLAT, 10)
    (client if u_shape else server)["last"] = last
    h = PART.apply(client["bottom"], {}, None, x)[0]
    own = OWN.segment.init(keys[3], h, public)[1]
    memories = optimizer.init(client), optax.adam(1e-3).init(server)
    return Both(client, server, own, memories)


def hidden(hide: Hide, on, honest, mine, key):
    """What the server sends."""
    norm = jnp.sqrt((honest**2).mean())
    mine = mine - hide.centred * mine.mean(0)
    mine = mine * norm / jnp.sqrt((mine**2).mean() + 1e-30)
    noise = hide.noise * norm * jax.random.normal(key, mine.shape)
    sent = hide.scale * ((1 - hide.share) * honest + hide.share * mine + noise)
    return jnp.where(on, sent, honest)


@cache
def program(u_shape: bool, sgd: bool):
    """A step of both, and the window's tally after it."""
    optimizer = optax.sgd(1.0) if sgd else optax.adam(1.0)

    def loss(output, label):
        return optax.softmax_cross_entropy_with_integer_labels(output, label).mean()

    @jax.jit
    def step(both: Both, tally, hide: Hide, on, rate, x, label, public, key):
        client, server, own, (of_client, of_server) = both
        h, pull = jax.vjp(lambda p: PART.apply(p, {}, None, x)[0], client["bottom"])
        update, answers = {}, ()
        if u_shape:

            def body(server, h):
                return through(
                    server["second"], jax.nn.relu(through(server["first"], h))
                )

            down, back = jax.vjp(body, server, h)
            update, gave = jax.grad(
                lambda last, d: loss(through(last, d), label), (0, 1)
            )(client["last"], down)
            of_body, honest = back(gave)
            answers = down, gave
        else:
            of_body, honest = jax.grad(
                lambda s, h: loss(through(s["last"], h), label), (0, 1)
            )(server, h)
        keys = jax.random.split(key)
        value, given, own = jax.vjp(
            lambda h: OWN.segment.apply({}, own, keys[0], h, public), h, has_aux=True
        )
        mine = given(jnp.zeros_like(value))[0]
        returned = hidden(hide, on, honest, mine, keys[1])
        tally = note(tally, h, returned, *answers)
        update = {"bottom": pull(returned)[0]} | ({"last": update} if u_shape else {})
        update, of_client = optimizer.update(update, of_client, client)
        client = jax.tree.map(lambda p, u: p + rate * u, client, update)
        of_body, of_server = optax.adam(1e-3).update(of_body, of_server, server)
        server = jax.tree.map(jnp.add, server, of_body)
        return Both(client, server, own, (of_client, of_server)), tally

    @jax.jit
    def looked(both: Both, x, label):
        """The rebuilt records, and the share of labels that the model has right."""
        client, server = both.client, both.server
        h = PART.apply(client["bottom"], {}, None, x)[0]
        guess = OWN.reconstructed(both.own, h).clip(-1, 1)
        if u_shape:
            h = through(server["second"], jax.nn.relu(through(server["first"], h)))
        last = (client if u_shape else server)["last"]
        return guess, (through(last, h).argmax(-1) == label).mean()

    return optimizer, step, looked


def drawn(case: Case, x, label, rng) -> tuple[np.ndarray, np.ndarray]:
    """A batch of the client's."""
    if case.data == "rare":
        share = np.where(label == 0, 0.9 / (label == 0).sum(), 0.1 / (label != 0).sum())
        rows = rng.choice(len(x), case.batch, p=share / share.sum())
    else:
        rows = rng.integers(len(x), size=case.batch)
    x, label = x[rows], label[rows]
    if case.data == "random":
        label = rng.integers(10, size=case.batch)
    if case.data == "shifted":
        x = np.stack([np.roll(one, rng.integers(-1, 2, 2), (0, 1)) for one in x])
    return x, label


def run(case: Case, u_shape: bool, steps: int, seed: int):
    """The evidence of all windows, the MSE over chance, and the share that is right."""
    data = halves("digits", 2000)
    (x, label), (public, _) = data["private"], data["public"]
    x, public, label = 2 * x - 1, 2 * public - 1, np.asarray(label).reshape(-1)
    optimizer, step, looked = program(u_shape, case.sgd)
    rng, rule = np.random.default_rng(seed), Guard()
    both = start(u_shape, optimizer, x[: case.batch], public[: case.batch])
    h = jnp.zeros((case.batch, *SIZE))
    gave = jnp.zeros((case.batch, DOWN)) if u_shape else None
    empty = tally = begin(h, gave)
    rate = case.rate * (0.05 if case.sgd else 2e-3)
    found: list[Evidence] = []
    for number in range(steps):
        mine, theirs = drawn(case, x, label, rng)
        other = public[rng.integers(len(public), size=case.batch)]
        key = jax.random.key(1000 * seed + number)
        given = jnp.float32(rate), mine, theirs, other, key
        on = jnp.bool_(case.when(number))
        both, tally = step(
            both, tally, jax.tree.map(jnp.float32, case.hide), on, *given
        )
        if (number + 1) % rule.window == 0:
            ends = number + 1 - rule.window, number
            found.append(judge(tally, rule, "up", *ends, answered=u_shape))
            tally = empty
    guess, right = looked(both, x, label)
    floor = float(((x - public.mean(0)) ** 2).mean())
    return found, float(((np.asarray(guess) - x) ** 2).mean()) / floor, float(right)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument(
        "--split", choices=["vanilla", "u_shaped", "both"], default="both"
    )
    parser.add_argument("--steps", type=positive, default=400)
    parser.add_argument(
        "--seeds", type=positive, default=1, help="how many, from 10 on"
    )
    parser.add_argument("--cases", choices=["evasions", "honest"], default="evasions")
    parser.add_argument("--only", nargs="+", help="of the cases, by name")
    parser.add_argument("--out", type=Path, default=Path("results/guard_evasions.json"))
    options = parser.parse_args()
    splits = ["vanilla", "u_shaped"] if options.split == "both" else [options.split]
    cases = HONEST if options.cases == "honest" else CASES
    names = [n for n in cases if options.only is None or n in options.only]
    rows, kept = [], []
    for split in splits:
        for name in names:
            for seed in range(10, 10 + options.seeds):
                found, error, right = run(
                    cases[name], split == "u_shaped", options.steps, seed
                )
                alarms = Alarms(Guard())
                at = next((e.last + 1 for e in found if alarms.add(e)), None)
                foul = sum(e.suspicious for e in found)
                after = "-" if at is None else f"{at} steps"
                row = [split, name, str(foul), str(len(found)), after]
                rows.append([*row, f"{error:.2f}", f"{right:.2f}"])
                print(*rows[-1], sep="  ", flush=True)
                told = {"statistics": [(e.test, e.statistic) for e in found]}
                kept.append(dict(zip(COLUMNS, rows[-1], strict=True)) | told)
    report.table("a guard that is evaded", COLUMNS, rows)
    write_rows(options.out, kept)


if __name__ == "__main__":
    main()
