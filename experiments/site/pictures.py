"""Draws the pictures of the site: what do the configurations look like, and is split whole?

`python experiments/site/pictures.py` writes them all into docs/pictures, as SVG, in about two
minutes of CPU time. Each is drawn from what was computed here, with the seeds below; a page that
shows one says so. `--out` writes elsewhere, `--only home` draws one.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from flax import nnx
from matplotlib.figure import Figure
from sklearn.datasets import load_breast_cancer, load_digits

import jsplit
from experiments.common.vision import resnet, shapes

OUT = Path(__file__).parents[2] / "docs" / "pictures"
WHOLE, SPLIT = "#E69F00", "#0072B2"
loss_of = optax.softmax_cross_entropy_with_integer_labels


class Net(nnx.Module):
    """Two dense layers, with BatchNorm between them or without."""

    def __init__(self, inputs: int, classes: int, normed: bool):
        rngs = nnx.Rngs(0)
        self.stem = nnx.Linear(inputs, 32, rngs=rngs)
        self.norm = nnx.BatchNorm(32, rngs=rngs) if normed else lambda h: h
        self.head = nnx.Linear(32, classes, rngs=rngs)

    def __call__(self, record):
        h = jsplit.cut(nnx.relu(self.norm(self.stem(record))), "smashed")
        return self.head(h)


def plain_losses(net: nnx.Module, optimizer, batches: list[dict]) -> np.ndarray:
    """The loss of every step in plain Flax and Optax."""
    kept = nnx.Optimizer(net, optimizer, wrt=nnx.Param)

    @nnx.jit
    def train(net, kept, batch):
        def mean(net):
            return loss_of(net(batch["record"]), batch["label"]).mean()

        loss, gradient = nnx.value_and_grad(mean)(net)
        kept.update(net, gradient)
        return loss

    return np.array([float(train(net, kept, batch)) for batch in batches])


def home() -> dict[str, Figure]:
    """Who holds what, and the losses of the same network trained whole and split.

    Two pictures: side by side on a wide screen, one below the other on a narrow one.
    """
    record, label = load_breast_cancer(return_X_y=True)
    record = ((record - record.mean(0)) / record.std(0)).astype("float32")
    order = np.random.default_rng(0).permutation(len(label))
    rows = [order[i : i + 64] for _ in range(6) for i in range(0, 512, 64)]
    batches = [{"record": record[r], "label": label[r]} for r in rows]
    optimizer = optax.sgd(0.05, momentum=0.9)

    parts = jsplit.split(Net(30, 2, normed=True), batches[0])
    topology = jsplit.vanilla(*parts.values(), loss=loss_of, client="hospital")
    trainer = jsplit.messages(topology, optimizer)
    state, split = trainer.init(jax.random.key(0), batches[0]), []
    for batch in batches:
        state, info = trainer.step(state, batch)
        split.append(float(info.loss))
    whole = plain_losses(Net(30, 2, normed=True), optimizer, batches)

    drawn = Figure(figsize=(6, 4.4), layout="constrained")
    axes = drawn.subplots()
    style = {"linewidth": 5, "alpha": 0.6}
    axes.plot(whole, color=WHOLE, label="whole, in plain Flax and Optax", **style)
    axes.plot(split, color=SPLIT, linewidth=1.6, label="split, hospital and server")
    apart = np.abs(split - whole).max()
    alike = f"apart by at most {apart:.0e}" if apart else "the same, bit for bit"
    axes.set_title(f"losses of {len(rows)} steps: {alike}")
    axes.set(xlabel="step", ylabel="training loss", ylim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return {"home_parties": jsplit.figure(topology), "home": drawn}


def part(*inputs: str) -> jsplit.Segment:
    """A segment by its inputs; a drawing needs no more."""
    return jsplit.segment(
        lambda w, *x: x[0] * w, init=lambda key, *x: 1.0, inputs=inputs or None
    )


def configurations() -> dict[str, Figure]:
    """The six configurations, with the names that the page uses."""
    bottoms = {"lab": part("blood"), "clinic": part("scan")}
    losses_by_task = {"prognosis": loss_of, "therapy": loss_of}
    chain = {"clinic": part("scan"), "relay": part(), "server": part()}
    made = {
        "vanilla": jsplit.vanilla(
            part("scan"), part(), loss=loss_of, client="hospital"
        ),
        "u_shaped": jsplit.u_shaped(
            part("scan"), part(), part(), loss=loss_of, client="hospital"
        ),
        "vertical": jsplit.vertical(bottoms, part(), loss=loss_of),
        "extended_vanilla": jsplit.extended_vanilla(
            bottoms, part(), part(), loss=loss_of, intermediary="institute"
        ),
        "multitask": jsplit.multitask(
            bottoms, {task: part() for task in losses_by_task}, losses=losses_by_task
        ),
        "multihop": jsplit.multihop(chain, loss=loss_of),
    }
    return {name: jsplit.figure(topology) for name, topology in made.items()}


def plan() -> Figure:
    """Every place to cut a ResNet-18: the work of a client against the bytes of a step."""
    image = jax.ShapeDtypeStruct((32, 224, 224, 3), jnp.float32)
    found = jsplit.plan(
        shapes(resnet, 18),
        image,
        client=jsplit.Device(flops=50e9, memory=16e9),
        server=jsplit.Device(flops=10e12),
        link=jsplit.Network(bits=100e6, latency=0.02),
    )
    return found.figure()


def clients() -> Figure:
    """Accuracy by round: four algorithms, ten clients with different mixtures of digits."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    x, y = (digits.data[order] / 16).astype("float32"), digits.target[order]
    train, test = {"record": x[:1400], "label": y[:1400]}, {"record": x[1400:]}
    people = jsplit.population.dirichlet(train["label"], clients=10, alpha=0.3)
    drawn = [people.round(train, n, batch=16, epochs=1) for n in range(15)]

    def trainer(topology: jsplit.Topology) -> jsplit.Trainer:
        return jsplit.fused(topology, optax.sgd(0.1))

    parts = jsplit.split(Net(64, 10, normed=False), x[:16])
    split = trainer(jsplit.vanilla(*parts.values(), loss=loss_of))
    whole = trainer(jsplit.whole(Net(64, 10, normed=False), loss=loss_of))
    rounds = jsplit.rounds
    contestants = {
        "turns, weights handed on": rounds.take_turns(split, "client"),
        "SplitFed, version 1": rounds.splitfed(split, "client", version=1),
        "parallel, shared bottom": rounds.parallel(split, "client", bottoms="shared"),
        "federated averaging": rounds.fedavg(whole),
    }
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, algorithm in contestants.items():
        state, found = algorithm.init(jax.random.key(0), drawn[0]), []
        for each in drawn:
            state, _ = algorithm.step(state, each)
            output = algorithm.predict(state, test)["output"]
            found.append(float((output.argmax(-1) == y[1400:]).mean()))
        # SplitFed, version 1, is federated averaging of a model in halves: one line hides
        # the other unless it is thinner.
        style = {"linewidth": 6, "alpha": 0.4} if name == "federated averaging" else {}
        axes.plot(
            range(1, len(found) + 1), found, marker="o", ms=3, label=name, **style
        )
    axes.set(xlabel="round", ylabel="accuracy on 397 digits", ylim=(0, 1))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    return figure


PICTURES: dict[str, Callable[[], Figure | dict[str, Figure]]] = {
    "home": home,
    "configurations": configurations,
    "plan": plan,
    "clients": clients,
}


def main() -> None:
    """Draw what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--only", choices=PICTURES, nargs="*", default=[*PICTURES])
    options = parser.parse_args()
    # Without dates and random names a picture that did not change is the same file.
    matplotlib.rcParams["svg.hashsalt"] = "jsplit"
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        drawn = PICTURES[name]()
        for file, figure in (
            {name: drawn} if isinstance(drawn, Figure) else drawn
        ).items():
            figure.savefig(options.out / f"{file}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
