"""How much does a server read that only watches? SDAR, Zhu et al. 2025, arXiv 2310.10483.

Digits are learned in a vanilla split or in a U-shape. The server keeps to the protocol; it has
labelled public records, the form of the bottom and its own segment in each step. The authors
print, on CIFAR-10 with a ResNet-20, an MSE of 0.0228 at their level 7 (0.0081 at level 4) and
97.3 % of labels in a U-shape. That was not repeated: no GPU was at hand, and pictures here have
one channel. `--published` takes the authors' rates and weights, which are for many more steps.

    python experiments/privacy/simulation.py
    python experiments/privacy/simulation.py --shape u
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import jax
import numpy as np
import optax

import jsplit
from experiments.common import report
from experiments.common.harness import positive
from experiments.privacy.inputs import COLUMNS, CUTS, bottom, halves, top
from experiments.privacy.labels import cells
from jsplit.privacy import Traffic, Watched, sdar, views, watch

# For some hundred steps; the authors' are for twenty thousand.
QUICK = {"learning_rates": (2e-3, 1e-3, 2e-3, 1e-5), "adversarial": (0.1, 1e-5)}


def middle(width: int = 32):
    """The body of a U-shape: one dense layer."""

    def init(key: jax.Array, h: jax.Array):
        return jax.random.normal(key, (h[0].size, width)) * (2 / h[0].size) ** 0.5

    return jsplit.segment(
        lambda w, h: jax.nn.relu(h.reshape(len(h), -1) @ w),
        init=init,
        inputs=["smashed"],
        name="middle",
    )


def head():
    """The client's last layer."""

    def init(key: jax.Array, h: jax.Array):
        return jax.random.normal(key, (h.shape[1], 10)) / h.shape[1] ** 0.5

    return jsplit.segment(lambda w, h: h @ w, init=init, inputs=["middle"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", default="digits", help="of pictures")
    parser.add_argument("--limit", type=positive, default=2000, help="records")
    parser.add_argument("--cut", choices=CUTS, default="conv 2")
    parser.add_argument("--shape", choices=["vanilla", "u"], default="vanilla")
    parser.add_argument("--steps", type=positive, default=300)
    parser.add_argument(
        "--published", action="store_true", help="the authors' rates and weights"
    )
    options = parser.parse_args()
    data = halves(options.data, options.limit)
    (x, y), (public, known) = data["private"], data["public"]
    part, loss = bottom(options.cut), optax.softmax_cross_entropy_with_integer_labels
    u_shape = options.shape == "u"
    own, last = (middle(), head()) if u_shape else (top(), None)
    parts = (part, own, last) if last else (part, own)
    build = jsplit.u_shaped if u_shape else jsplit.vanilla
    topology = build(*parts, loss=loss)
    trainer = jsplit.record(jsplit.fused(topology, optax.adam(2e-3)))
    node = "middle" if u_shape else "output"

    def training() -> Iterator[Watched]:
        rng = np.random.default_rng(0)
        state = trainer.init(0, {"record": x[:64], "label": y[:64]})
        for _ in range(options.steps):
            rows = rng.choice(len(x), 64)
            params = state.parties["server"].params[node]
            batch = {"record": x[rows], "label": y[rows]}
            state, seen = watch(trainer, state, [batch], "server")
            yield Watched(seen, params)
        params = state.parties["client"].params["smashed"]
        h, _ = part.apply(params, {}, None, x, train=False)
        fields = {} if u_shape else {"label": y}
        seen = Traffic("server", np.zeros(len(x), int), {"smashed": h}, fields=fields)
        yield Watched(seen, state.parties["server"].params[node])

    found = sdar(
        *(training(), x, public, known, part, own),
        head=last,
        truth=y,
        view=views(topology)["server"],
        data_range=(0, 1),
        **({} if options.published else QUICK),
    )
    what = f"{options.shape}, {options.cut}, {options.steps} steps"
    rows = [(what, s) for s in (found.inversion.score, found.labels) if s]
    report.table(
        options.data, COLUMNS, [cells(*row, beside="SSIM", digits=4) for row in rows]
    )


if __name__ == "__main__":
    main()
