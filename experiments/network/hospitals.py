"""Does a federation that loses a party end where the undisturbed run ends, over mutual TLS?

Vepakomma et al., `Split learning for health <https://arxiv.org/abs/1812.00564>`_, 2018, Figures 2b
and 2c together: two labs measure different things of the same 569 samples (size and shape of
nuclei), a server has the middle of the network, and the hospital has the diagnoses, the last layers
and the loss. No record, no label and no id leaves its owner; labs and hospital only dial out, and
what goes from one of them to another passes the server sealed.

Makes certificates and the agreement, starts the four as processes of their own, shows them live,
kills one with signal 9, starts it again, and compares all parameters with those of one process that
was never disturbed.

    python experiments/network/hospitals.py [--steps 600] [--checkpoint 50]
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


# What the parties bring. In earnest each has a file with its own part alone.


class Layers(nnx.Module):
    """Two dense layers; what each party has is one of these, of its own sizes."""

    def __init__(self, widths: Sequence[int], seed: int):
        inputs, hidden, outputs = widths
        rngs = nnx.Rngs(seed)
        self.first = nnx.Linear(inputs, hidden, rngs=rngs)
        self.second = nnx.Linear(hidden, outputs, rngs=rngs)

    def __call__(self, *inputs):
        h = jax.numpy.concatenate(inputs, axis=-1)
        return self.second(nnx.relu(self.first(h)))


def records() -> tuple[dict[str, np.ndarray], list[str], dict[str, np.ndarray]]:
    """Training records by field, their ids, and test records."""
    data = load("breast_cancer")
    fields = ("size", "shape", "malignant")
    train = {f: data.train[f] for f in fields}
    test = {f: data.test[f] for f in fields}
    return train, [f"sample-{i:04}" for i in range(len(train["size"]))], test


def segments(widths: Mapping[str, int]) -> dict[str, jsplit.Segment]:
    """The four models, by party."""
    sizes = {
        "size_lab": (widths["size"], WIDTH, WIDTH),
        "shape_lab": (widths["shape"], WIDTH, WIDTH),
        "server": (2 * WIDTH, 2 * WIDTH, WIDTH),
        "hospital": (WIDTH, WIDTH, 2),
    }
    reads = {
        "size_lab": ["size"],
        "shape_lab": ["shape"],
        "server": ["from_size", "from_shape"],
        "hospital": ["body"],
    }
    return {
        party: jsplit.segment(Layers(sizes[party], seed), inputs=reads[party])
        for seed, party in enumerate(PARTIES)
    }


def topology() -> jsplit.Topology:
    """Who computes what, and where the loss is."""
    train, _, _ = records()
    own = segments({field: train[field].shape[-1] for field in ("size", "shape")})
    loss = jsplit.Loss(
        "loss",
        optax.softmax_cross_entropy_with_integer_labels,
        "hospital",
        ["output", "malignant"],
    )
    nodes = [
        jsplit.Node("from_size", own["size_lab"], "size_lab"),
        jsplit.Node("from_shape", own["shape_lab"], "shape_lab"),
        jsplit.Node("body", own["server"], "server"),
        jsplit.Node("output", own["hospital"], "hospital"),
        loss,
    ]
    return jsplit.Topology(nodes, FIELDS)


def optimizers() -> dict[str, optax.GradientTransformation]:
    return {party: optax.adam(rate) for party, rate in RATES.items()}


def part(party: str) -> dict[str, Any]:
    """What one party brings to training; the command `jsplit train` asks for it."""
    train, ids, _ = records()
    return _part(party, train, ids)


def test_part(party: str) -> dict[str, Any]:
    """What one party brings to a prediction, for `jsplit predict`."""
    _, _, test = records()
    return _part(party, test, [f"test-{i:04}" for i in range(len(test["size"]))])


def _part(
    party: str, fields: Mapping[str, np.ndarray], ids: Sequence[str]
) -> dict[str, Any]:
    # Each party has its records in an order of its own, as it would be in earnest; that the same
    # sample is in the same place of a batch everywhere is what the ids are for.
    order = np.random.default_rng(len(party)).permutation(len(ids))
    return {
        "own": topology(),
        "data": {field: fields[field][order] for field in FIELDS[party]},
        # Who holds no records needs no ids, and must not have the key of those who do.
        "ids": [ids[i] for i in order] if FIELDS[party] else None,
        "optimizer": optimizers()[party],
    }


def agreed(steps: int, every: int, port: int) -> jsplit.party.Agreement:
    train, _, _ = records()
    batch = {field: x[:BATCH] for field, x in train.items()}
    return jsplit.party.agreement(
        topology(),
        batch,
        steps=steps,
        addresses={"server": f"127.0.0.1:{port}"},
        checkpoint=every,
        patience=120.0,
    )


# The processes.


class Processes:
    """The four processes, and what they say."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.running: dict[str, subprocess.Popen] = {}
        self.notes: list[str] = []
        # Four processes that each reserve most of an accelerator's memory would not start.
        self.env = os.environ | {"JAX_PLATFORMS": "cpu"}

    def start(self, party: str, task: str, function: str, *more: str) -> None:
        """Start a party with the command that its owner would type."""
        command = [sys.executable, "-m", "jsplit.command", task, "agreement.json"]
        command += [party, f"{Path(__file__).resolve()}:{function}"]
        command += ["--certs", "certs", "--checkpoint", f"state/{party}", *more]
        command += ["--ids-key", "ids.key"] if FIELDS[party] else []
        with open(self.folder / f"{party}.out", "ab") as out:
            self.running[party] = subprocess.Popen(
                command, cwd=self.folder, env=self.env, stdout=out, stderr=out
            )

    def train(self, party: str) -> None:
        self.start(party, "train", "part", "--log", f"{party}.jsonl")
        self.note(f"{party} started")

    def kill(self, party: str) -> None:
        self.running[party].kill()
        self.running[party].wait()

    def alive(self) -> bool:
        return any(process.poll() is None for process in self.running.values())

    def last(self, party: str) -> dict[str, Any]:
        """The last whole line that a party has logged."""
        file = self.folder / f"{party}.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        # The line at the end may be half written, by a process that was killed or is writing.
        return json.loads(lines[-1]) if lines and lines[-1].endswith("}") else {}

    def note(self, text: str) -> None:
        self.notes.append(f"{time.strftime('%H:%M:%S')}  {text}")

    def table(self, steps: int) -> Table:
        """What each party does now."""
        table = Table(
            title=f"of {steps} steps",
            caption="\n".join(self.notes[-6:]),
            caption_justify="left",
        )
        table.add_column("party")
        for name in ("pid", "step", "epoch", "loss", "B sent", "B got"):
            table.add_column(name, justify="right")
        table.add_column("work ms", justify="right")
        table.add_column("wait ms", justify="right")
        for party, process in self.running.items():
            said, code = self.last(party), process.poll()
            losses = said.get("losses", {}).values()
            table.add_row(
                party,
                str(process.pid) if code is None else f"end {code}",
                f"{said.get('step', 0)}",
                str(said.get("epoch", "")),
                ", ".join(f"{x:.4f}" for x in losses),
                str(said.get("sent", "")),
                str(said.get("received", "")),
                f"{1e3 * said.get('compute', 0):.1f}",
                f"{1e3 * said.get('wait', 0):.1f}",
            )
        return table

    def close(self) -> None:
        for party, process in self.running.items():
            if process.poll() is None:
                self.kill(party)


def train(processes: Processes, steps: int, deadline: float) -> None:
    """Start all, kill one after a third of the steps, start it again, wait for the end."""
    end = time.monotonic() + deadline
    for party in PARTIES:
        processes.train(party)
    killed_at: float | None = None
    restarted = False
    with Live(processes.table(steps), refresh_per_second=4) as live:
        while processes.alive():
            now = time.monotonic()
            if now > end:
                raise TimeoutError(
                    f"the federation did not end within {deadline:g} s; see {processes.folder}"
                )
            step = processes.last(VICTIM).get("step", 0)
            if killed_at is None and step > steps // 3:
                processes.kill(VICTIM)
                processes.note(f"{VICTIM} killed with signal 9 at step {step}")
                killed_at = now
            # A pause, so that the others notice that it is gone, and are seen to wait.
            if killed_at is not None and not restarted and now - killed_at > 2:
                processes.train(VICTIM)
                processes.note("all go back to the newest checkpoint that all have")
                restarted = True
            live.update(processes.table(steps))
            time.sleep(0.1)
        live.update(processes.table(steps))
    if any(process.returncode for process in processes.running.values()):
        raise RuntimeError(f"a party ended with an error; see {processes.folder}")


# What it is compared with.


def undisturbed(agreement: jsplit.party.Agreement, steps: int) -> jsplit.TrainState:
    """The same training in one process: same records, same order, no network."""
    fields, ids, _ = records()
    batch = jsplit.party.batches(agreement, fields, ids)
    trainer = jsplit.messages(topology(), optimizers())
    state = trainer.init(agreement["seed"], batch(0))
    for step in range(steps):
        state, _ = trainer.step(state, batch(step))
    return state


def differences(folder: Path, steps: int, whole: jsplit.TrainState) -> dict[str, float]:
    """By party, how far the parameters on its disk are from those of the undisturbed run."""
    found: dict[str, float] = {}
    for party in PARTIES:
        # A checkpoint of a party is what `jsplit.save` writes, in a folder named by its step.
        like = jsplit.TrainState({party: whole.parties[party]})
        own = jsplit.restore(folder / "state" / party / f"{steps:012}", like)
        leaves = zip(
            jax.tree.leaves(own.parties[party].params),
            jax.tree.leaves(whole.parties[party].params),
            strict=True,
        )
        found[party] = max(
            float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in leaves
        )
    return found


def predictions(processes: Processes) -> float:
    """Accuracy on the test records: a forward pass over the network, by the same four parties."""
    _, _, test = records()
    count = len(test["size"])
    for party in PARTIES:
        more = ("--records", str(count), "--out", f"{party}.npz")
        processes.start(party, "predict", "test_part", *more)
    for process in processes.running.values():
        process.wait(120)
    # Without labels the hospital has no records in a prediction, so its outputs are in the order of
    # ids, and that is the order of `test`.
    outputs = np.load(processes.folder / "hospital.npz")["output"]
    return float((outputs.argmax(-1) == test["malignant"]).mean())


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument(
        "--checkpoint", type=int, default=50, help="steps between two checkpoints"
    )
    parser.add_argument("--out", type=Path, default=Path("results/hospitals"))
    parser.add_argument(
        "--deadline", type=float, default=300.0, help="seconds after which it gives up"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = parse(arguments)
    folder = options.out / time.strftime("%Y%m%d-%H%M%S")
    folder.mkdir(parents=True)
    agreement = agreed(options.steps, options.checkpoint, free_port())
    jsplit.party.write(folder / "agreement.json", agreement)
    jsplit.party.certs(folder / "certs", PARTIES)
    make_key = [sys.executable, "-m", "jsplit.command", "ids-key", folder / "ids.key"]
    subprocess.run(make_key, check=True)

    processes = Processes(folder)
    try:
        train(processes, options.steps, options.deadline)
        whole = undisturbed(agreement, options.steps)
        found = differences(folder, options.steps, whole)
        accuracy = predictions(processes)
    finally:
        processes.close()

    for party, difference in found.items():
        same = f"differ by {difference:g}" if difference else "identical, bit for bit"
        print(f"{party:10} parameters {same}")
    print(f"accuracy on the test records, predicted over the network: {accuracy:.3f}")
    row = {
        "steps": options.steps,
        "difference": found,
        "accuracy": accuracy,
        "epochs": processes.last("server")["epoch"],
    }
    (folder / "hospitals.json").write_text(json.dumps(row, indent=1))
    print(f"wrote {folder}/hospitals.json, and what every party said beside it")
    return row


if __name__ == "__main__":
    main()
