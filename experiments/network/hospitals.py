"""Four parties in processes of their own, over mutual TLS, on real data; one is killed on the way and started again.

Question: does a federation that loses a party end where the undisturbed run ends? Vepakomma et al. 2018, Figures 2b and 2c
together: two labs measure different things of the same 569 samples (size and shape of nuclei), a server has the middle of the
network, and the hospital has the diagnoses, the last layers and the loss. No record, no label and no id leaves its owner;
labs and hospital only dial out, and what goes from one of them to another passes the server sealed.

`python experiments/network/hospitals.py` makes certificates and the agreement, starts the four, shows them live, kills one with
signal 9, starts it again, and compares all parameters with those of one process that was never disturbed.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from rich.live import Live
from rich.table import Table

import jsplit
from experiments.common.data import load
from jsplit.party.compute.local import Local
from jsplit.party.contract.records import Records, places_of
from jsplit.party.durable import newest

PARTIES = ("size_lab", "shape_lab", "server", "hospital")
VICTIM = "shape_lab"
BATCH, WIDTH = 32, 16
RATES = {"size_lab": 1e-3, "shape_lab": 2e-3, "server": 1e-3, "hospital": 3e-3}
FIELDS = {
    "size_lab": ["size"],
    "shape_lab": ["shape"],
    "server": [],
    "hospital": ["malignant"],
}


class Layers(nnx.Module):
    """Two dense layers; what each party has is one of these, of its own sizes."""

    def __init__(self, widths: Sequence[int], seed: int):
        rngs = nnx.Rngs(seed)
        self.first, self.second = (
            nnx.Linear(a, b, rngs=rngs)
            for a, b in zip(widths, widths[1:], strict=False)
        )

    def __call__(self, *inputs):
        h = jax.numpy.concatenate(inputs, axis=-1)
        return self.second(nnx.relu(self.first(h)))


def records() -> tuple[dict[str, np.ndarray], list[str], dict[str, np.ndarray]]:
    """Training records by field, their ids, and test records."""
    data = load("breast_cancer")
    fields = ("size", "shape", "malignant")
    train, test = ({f: part[f] for f in fields} for part in (data.train, data.test))
    return train, [f"sample-{i:04}" for i in range(len(train["size"]))], test


def segments(widths: Mapping[str, int]) -> dict[str, jsplit.Segment]:
    """The four models. In earnest each party has a file with its own alone."""
    shapes = {
        "size_lab": ((widths["size"], WIDTH, WIDTH), ["size"]),
        "shape_lab": ((widths["shape"], WIDTH, WIDTH), ["shape"]),
        "server": ((2 * WIDTH, 2 * WIDTH, WIDTH), ["from_size", "from_shape"]),
        "hospital": ((WIDTH, WIDTH, 2), ["body"]),
    }
    return {
        p: jsplit.segment(Layers(w, i), inputs=reads)
        for i, (p, (w, reads)) in enumerate(shapes.items())
    }


def topology() -> jsplit.Topology:
    train, _, _ = records()
    s = segments({f: train[f].shape[-1] for f in ("size", "shape")})
    loss = jsplit.Loss(
        "loss",
        optax.softmax_cross_entropy_with_integer_labels,
        "hospital",
        ["output", "malignant"],
    )
    nodes = [
        jsplit.Node("from_size", s["size_lab"], "size_lab"),
        jsplit.Node("from_shape", s["shape_lab"], "shape_lab"),
        jsplit.Node("body", s["server"], "server"),
        jsplit.Node("output", s["hospital"], "hospital"),
        loss,
    ]
    return jsplit.Topology(nodes, FIELDS)


def optimizers() -> dict[str, optax.GradientTransformation]:
    return {p: optax.adam(rate) for p, rate in RATES.items()}


def part(party: str, which: int = 0) -> dict[str, Any]:
    """What one party brings; the command `jsplit train` asks for it."""
    train, ids, test = records()
    data = {f: (train, test)[which][f] for f in FIELDS[party]}
    names = ids if which == 0 else [f"test-{i:04}" for i in range(len(test["size"]))]
    turned = np.random.default_rng(len(party)).permutation(
        len(names)
    )  # each party has its own order; ids put it right
    return {
        "own": topology(),
        "data": {f: x[turned] for f, x in data.items()},
        "ids": [names[i] for i in turned],
        "optimizer": optimizers()[party],
    }


def test_part(party: str) -> dict[str, Any]:
    return part(party, 1)


def agreed(steps: int, every: int, port: int) -> jsplit.party.Agreement:
    train, _, _ = records()
    batch = {f: x[:BATCH] for f, x in train.items()}
    return jsplit.party.agreement(
        topology(),
        batch,
        steps=steps,
        addresses={"server": f"127.0.0.1:{port}"},
        checkpoint=every,
        patience=120.0,
    )


class Federation:
    """The processes, and what they say."""

    def __init__(self, folder: Path):
        self.folder, self.processes, self.notes = folder, {}, []
        self.env = os.environ | {"JAX_PLATFORMS": "cpu"}

    def start(
        self, party: str, task: str = "train", function: str = "part", *more: str
    ) -> None:
        command = [
            sys.executable,
            "-m",
            "jsplit.command",
            task,
            "agreement.json",
            party,
            f"{Path(__file__).resolve()}:{function}",
        ]
        command += ["--certs", "certs", "--checkpoint", f"state/{party}", *more]
        command += ["--log", f"{party}.jsonl"] if task == "train" else []
        with open(self.folder / f"{party}.out", "ab") as out:
            self.processes[party] = subprocess.Popen(
                command, cwd=self.folder, env=self.env, stdout=out, stderr=out
            )

    def last(self, party: str) -> dict[str, Any]:
        file = self.folder / f"{party}.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return json.loads(lines[-1]) if lines and lines[-1].endswith("}") else {}

    def note(self, text: str) -> None:
        self.notes.append(f"{time.strftime('%H:%M:%S')}  {text}")

    def table(self, steps: int) -> Table:
        table = Table(
            title=f"of {steps} steps",
            caption="\n".join(self.notes[-6:]),
            caption_justify="left",
        )
        for column in (
            "party",
            "pid",
            "step",
            "epoch",
            "loss",
            "B sent",
            "B got",
            "work ms",
            "wait ms",
        ):
            table.add_column(column, justify="right" if column != "party" else "left")
        for p, process in self.processes.items():
            m = self.last(p)
            loss = ", ".join(f"{x:.4f}" for x in m.get("losses", {}).values())
            code = process.poll()
            table.add_row(
                p,
                str(process.pid) if code is None else f"end {code}",
                f"{m.get('step', 0)}",
                str(m.get("epoch", "")),
                loss,
                str(m.get("sent", "")),
                str(m.get("received", "")),
                f"{1e3 * m.get('compute', 0):.1f}",
                f"{1e3 * m.get('wait', 0):.1f}",
            )
        return table

    def close(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()


def train(federation: Federation, steps: int, deadline: float) -> None:
    """Start all, kill one after a third of the steps, start it again after a pause, wait for the end."""
    end = time.monotonic() + deadline
    for p in PARTIES:
        federation.start(p)
        federation.note(f"{p} started")
    killed = restarted = False
    with Live(federation.table(steps), refresh_per_second=4) as live:
        while any(process.poll() is None for process in federation.processes.values()):
            if time.monotonic() > end:
                raise TimeoutError(
                    f"the federation did not end within {deadline:g} s; see {federation.folder}"
                )
            if not killed and federation.last(VICTIM).get("step", 0) > steps // 3:
                federation.processes[VICTIM].kill()
                federation.processes[VICTIM].wait()
                killed, at = True, time.monotonic()
                federation.note(
                    f"{VICTIM} killed with signal 9 at step {federation.last(VICTIM)['step']}"
                )
            if killed and not restarted and time.monotonic() - at > 2:
                federation.start(VICTIM)
                restarted = True
                federation.note(
                    f"{VICTIM} started again; all go back to the newest checkpoint that all have"
                )
            live.update(federation.table(steps))
            time.sleep(0.1)
        live.update(federation.table(steps))
    if any(process.returncode for process in federation.processes.values()):
        raise RuntimeError(f"a party ended with an error; see {federation.folder}")


def undisturbed(agreement: jsplit.party.Agreement) -> Mapping[str, jsplit.PartyState]:
    """The same training in one process: same records, same order, no network."""
    fields, ids, _ = records()
    trainer = jsplit.messages(topology(), optimizers())
    everything = Records(fields, ids)
    count, seed = len(ids), agreement["seed"]
    state = trainer.init(seed, everything.take(places_of(0, count, BATCH, seed)))
    for step in range(agreement["steps"]):
        state, _ = trainer.step(
            state, everything.take(places_of(step, count, BATCH, seed))
        )
    return state.parties


def predictions(federation: Federation) -> float:
    """Accuracy on the test records: a forward pass over the network, by the same four parties."""
    _, _, test = records()
    count = len(test["size"])
    for p in PARTIES:
        federation.start(
            p, "predict", "test_part", "--records", str(count), "--out", f"{p}.npz"
        )
    for process in federation.processes.values():
        process.wait(120)
    # without labels the hospital has no records in a prediction, so its outputs are in the order of ids
    outputs = np.load(federation.folder / "hospital.npz")["output"]
    return float((outputs.argmax(-1) == test["malignant"]).mean())


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument(
        "--checkpoint", type=int, default=50, help="steps between two checkpoints"
    )
    parser.add_argument("--out", type=Path, default=Path("results/hospitals"))
    parser.add_argument(
        "--deadline", type=float, default=300.0, help="seconds after which it gives up"
    )
    options = parser.parse_args(arguments)
    folder = options.out / time.strftime("%Y%m%d-%H%M%S")
    folder.mkdir(parents=True)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    agreement = agreed(options.steps, options.checkpoint, port)
    jsplit.party.write(folder / "agreement.json", agreement)
    jsplit.party.certs(folder / "certs", PARTIES)
    federation = Federation(folder)
    try:
        train(federation, options.steps, options.deadline)
        whole, found = undisturbed(agreement), {}
        for p in PARTIES:
            local = Local(agreement, p, topology(), optimizers()[p])
            fields = {f: x[:1] for f, x in records()[0].items() if f in FIELDS[p]}
            state = newest(
                folder / "state" / p, p, agreement.schema, local.init(fields)
            )
            pairs = zip(
                jax.tree.leaves(state.params),
                jax.tree.leaves(whole[p].params),
                strict=True,
            )
            found[p] = max(
                float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in pairs
            )
        accuracy = predictions(federation)
    finally:
        federation.close()
    for p, difference in found.items():
        print(
            f"{p:10} parameters {'identical, bit for bit' if difference == 0 else f'differ by {difference:g}'}"
        )
    print(f"accuracy on the test records, predicted over the network: {accuracy:.3f}")
    row = {
        "steps": options.steps,
        "difference": found,
        "accuracy": accuracy,
        "epochs": federation.last("server")["epoch"],
    }
    (folder / "hospitals.json").write_text(json.dumps(row, indent=1))
    print(f"wrote {folder}/hospitals.json, and what every party said beside it")
    return row


if __name__ == "__main__":
    main()
