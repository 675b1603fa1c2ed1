"""How much of its input does an activation give away? Pasquini et al. 2021, Erdogan et al. 2022.

A network of two convolutions and a dense layer learns digits in a vanilla split. After each of
the three a server attacks what came: by a decoder that learned on public records, by UnSplit's
inversion from the form of the bottom alone (`https://arxiv.org/abs/2108.09033`, first layer), and
by a classifier of a property that nobody asked for, whether a digit is even. Then the server
hijacks the training (FSHA, `https://arxiv.org/abs/2012.02670`, whose authors print 0.0728 after
2,000 steps of MNIST in (-1, 1), on a scale of their own).

    python experiments/privacy/inputs.py
    # MNIST, for its layout see data.py; some minutes on two cores
    python experiments/privacy/inputs.py --data mnist.npz --limit 6000 --hijack 2000
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jsplit
from experiments.common import report
from experiments.common.harness import positive, records
from experiments.privacy.labels import cells
from jsplit.privacy import (
    Score,
    Traffic,
    decoder_attack,
    distance_correlation,
    fsha,
    property_inference,
    unsplit_inversion,
)

COLUMNS = (
    "what",
    "attack",
    "measure",
    "value",
    "interval",
    "SSIM",
    "control",
    "chance",
    "seconds",
)
FORM = ("NHWC", "HWIO", "NHWC")
CUTS = ("conv 1", "conv 2", "dense")
RANGE = {"data_range": (0, 1)}


def conv(h: jax.Array, weight: jax.Array, stride: int) -> jax.Array:
    return jax.lax.conv_general_dilated(
        h, weight, (stride, stride), "SAME", dimension_numbers=FORM
    )


def bottom(cut: str, activation=jax.nn.relu, widths=(8, 16), last: int = 64):
    """The layers up to a cut."""
    depth = CUTS.index(cut) + 1

    def init(key: jax.Array, x: jax.Array):
        keys, he = jax.random.split(key, 3), jax.nn.initializers.he_normal()
        size = -(-x.shape[1] // 2) * -(-x.shape[2] // 2) * widths[1]
        shapes = [(3, 3, 1, widths[0]), (3, 3, *widths), (size, last)]
        pairs = zip(keys[:depth], shapes, strict=False)
        return [(he(k, s), jnp.zeros(s[-1])) for k, s in pairs]

    def apply(params, x: jax.Array) -> jax.Array:
        h = x[..., None]
        for (weight, bias), stride in zip(params, (1, 2, 0), strict=False):
            made = conv(h, weight, stride) if stride else h.reshape(len(h), -1) @ weight
            h = activation(made + bias)
        return h

    return jsplit.segment(apply, init=init, inputs=["record"], name="smashed")


def top():
    """One linear layer."""

    def init(key: jax.Array, h: jax.Array):
        return jax.random.normal(key, (h[0].size, 10)) / h[0].size ** 0.5

    return jsplit.segment(
        lambda w, h: h.reshape(len(h), -1) @ w, init=init, inputs=["smashed"]
    )


def trained(part: jsplit.Segment, x: np.ndarray, label: np.ndarray, steps: int):
    """What the client sends of any records, after and before a training."""
    topology = jsplit.vanilla(
        part, top(), loss=optax.softmax_cross_entropy_with_integer_labels
    )
    trainer = jsplit.fused(topology, optax.adam(2e-3))
    rng = np.random.default_rng(0)
    first = state = trainer.init(0, {"record": x[:128], "label": label[:128]})
    for _ in range(steps):
        here = rng.choice(len(x), 128)
        state, _ = trainer.step(state, {"record": x[here], "label": label[here]})

    def sent(state: jsplit.TrainState):
        params = state.parties["client"].params["smashed"]
        return jax.jit(lambda x: part.apply(params, {}, None, x, train=False)[0])

    return sent(state), sent(first)


def seen(h: jax.Array) -> Traffic:
    return Traffic("server", np.zeros(len(h), int), received={"smashed": h})


def passive(data: dict, steps: int) -> list[tuple[str, Score]]:
    """A decoder and a property at each cut, and UnSplit after the first layer."""
    (x, y), (public, known) = data["private"], data["public"]
    found = []
    for cut in CUTS:
        after, before = trained(bottom(cut), x, y, steps)
        given = seen(after(x)), x, public
        found.append((cut, decoder_attack(*given, after, **RANGE).score))
        score = property_inference(
            *(seen(after(x)), y % 2, after(public), known % 2),
            untrained=(before(public), seen(before(x))),
            target="even",
        )
        found.append((cut, score))
    for name, function in (("tanh", jnp.tanh), ("relu", jax.nn.relu)):
        part, few = bottom("conv 1", function), x[:16]
        after, _ = trained(part, x, y, steps)
        score = unsplit_inversion(seen(after(few)), few, part, **RANGE).score
        found.append((f"conv 1, {name}", score))
    return found


def hijacked(
    data: dict, steps: int, quick: bool, weight: float = 0.0
) -> list[tuple[str, Score]]:
    """FSHA, and for few steps on small pictures at higher rates.

    With a weight the client adds NoPeek's penalty to its loss.
    """
    x, public = (2 * data[name][0] - 1 for name in ("private", "public"))
    widths = (16, 32) if quick else (32, 64)
    options: dict = {}
    if quick:
        options = {"learning_rate": 1e-3, "learning_rate_judge": 1e-3}
        options["optimizer"] = optax.adam(1e-3)
    if weight:
        options["penalty"] = lambda x, h: weight * distance_correlation(x, h)
    score = fsha(
        *(bottom("conv 2", widths=widths), x, public),
        data_range=(-1, 1),
        width=widths[0],
        steps=steps,
        **options,
    ).score
    return [(f"conv 2, {steps} steps, NoPeek {weight:g}", score)]


def halves(name: str, limit: int) -> dict:
    """Pictures in (0, 1) with their labels, one half private and one public."""
    part = records(name, limit=limit).train
    x = part["record"][..., 0]
    # In (0, 1), whatever the file's own scale.
    x = ((x - x.min()) / (x.max() - x.min())).astype("float32")
    half, label = len(x) // 2, part["label"]
    return {
        "private": (x[:half], label[:half]),
        "public": (x[half:], label[half:]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", default="digits", help="of pictures")
    parser.add_argument("--limit", type=positive, default=2000, help="records")
    parser.add_argument("--steps", type=positive, default=200, help="of training")
    parser.add_argument("--hijack", type=int, default=300, help="steps of FSHA, or 0")
    parser.add_argument("--nopeek", type=float, default=0.0, help="the client's weight")
    parser.add_argument(
        "--only", choices=["passive", "hijack"], help="of the attacks, by default all"
    )
    parser.add_argument("--out", type=Path, default=Path("results/inputs.json"))
    options = parser.parse_args()
    # A hijack tells how far it is.
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("jax").setLevel(logging.WARNING)
    data = halves(options.data, options.limit)
    only, quick = options.only, data["private"][0].shape[1] < 16
    rows = passive(data, options.steps) if only in (None, "passive") else []
    if options.hijack and only in (None, "hijack"):
        rows += hijacked(data, options.hijack, quick, options.nopeek)
    report.table(
        options.data, COLUMNS, [cells(*row, beside="SSIM", digits=4) for row in rows]
    )
    kept = [
        {"what": what, "attack": s.attack, "measure": s.measure, "value": s.value}
        | {"interval": s.interval, "control": s.control, "chance": s.chance}
        | {"seconds": s.budget.seconds, "more": dict(s.more)}
        for what, s in rows
    ]
    report.write_rows(options.out, kept)


if __name__ == "__main__":
    main()
