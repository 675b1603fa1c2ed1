"""What does a clinic's whole training take more, when its server is another process?

The task of xrays.py over gRPC with mutual TLS: the hospital has images and labels, the server the
middle of the network. Both read one agreement; the hospital decides which epoch is the best and
when to end, and the server learns no number.

Without a party it makes the agreement and the certificates, starts both parties, trains the same
in one process by the same batches, and says whether all numbers are equal to the bit. With one it
is that party alone, as on a machine of its own, given the same words and the folder `--out`.

    python experiments/clinic/xrays_network.py [--data pneumoniamnist.npz] [--epochs 20]
    python experiments/clinic/xrays_network.py hospital --data pneumoniamnist.npz
    python experiments/clinic/xrays_network.py server --sizes 28 4708 624
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import optax
from flax import nnx

import jsplit
from experiments.clinic.xrays import BATCH, Arrays, ResNet, auc, read
from experiments.network.delayed_link import free_port, on_cpu

PARTIES = ("hospital", "server")


def sizes_of(parts: list[Arrays]) -> tuple[int, int, int]:
    """All that the server must be told of the records: side of an image, and counts."""
    records, _, test = parts
    return records["image"].shape[1], len(records["label"]), len(test["label"])


# All that a party needs beside the model and the file; a test counts these lines.
def network(side: int, count: int, epochs: int, width: int) -> tuple:
    """The topology and the optimizer, which both know; the server has no record."""
    image = np.zeros((1, side, side, 1), np.float32)
    net = ResNet(width, rngs=nnx.Rngs(0))
    segments = jsplit.split(net, image, cuts=["head", "body"])
    loss = optax.softmax_cross_entropy_with_integer_labels
    topology = jsplit.u_shaped(*segments.values(), loss=loss, client="hospital")
    measure = jsplit.Metric("auc", auc, "hospital", ["output", "label"])
    steps = count // BATCH
    rate = optax.warmup_cosine_decay_schedule(0.0, 3e-3, steps // 2, epochs * steps)
    return topology.add(measure), optax.adamw(rate)


def hospital(parts: list[Arrays], epochs: int, width: int, out: Path) -> dict:
    """Train, keep the best, and measure it on the test records."""
    records, validation, test = parts
    topology, optimizer = network(*sizes_of(parts)[:2], epochs, width)
    agreed = jsplit.party.read(out / "agreement.json")
    sure = {"credentials": jsplit.party.credentials(out / "certs", "hospital")}
    me = (agreed, "hospital", topology)
    watched = {"monitor": "val_auc", "mode": "max", "patience": 5}
    balanced = {"validation": validation, "class_weight": "balanced"}
    kept = {"optimizer": optimizer, "folder": out / "hospital"}
    fitted = jsplit.party.fit(*me, records, **sure, **kept, **balanced, **watched)
    print(fitted.history)
    fitted.history.plot().savefig(out / "history.png")
    count, best = len(test["label"]), out / "hospital" / "best"
    test = test | {"counts": np.ones(count, np.float32)}
    of_test = {"records": count, "checkpoint": best}
    found = jsplit.party.evaluate(*me, test, **sure, **of_test)
    row = {"best": fitted.history.best, "auc": found.metrics["auc"]}
    return row | {"rows": [dict(x) for x in fitted.history.rows]}


def server(sizes: Sequence[int], epochs: int, width: int, out: Path) -> None:
    """The server's part, which ends when the hospital says so."""
    topology, optimizer = network(*sizes[:2], epochs, width)
    agreed = jsplit.party.read(out / "agreement.json")
    sure = {"credentials": jsplit.party.credentials(out / "certs", "server")}
    me = (agreed, "server", topology)
    jsplit.party.fit(*me, **sure, optimizer=optimizer, folder=out / "server")
    of_test = {"records": sizes[2], "checkpoint": out / "server" / "best"}
    jsplit.party.evaluate(*me, **sure, **of_test)


# What both agree on, made once by one of them.
def agree(parts: list[Arrays], epochs: int, width: int, out: Path, server: str) -> None:
    """Write the agreement and the certificates."""
    records, validation, _ = parts
    counts = {"records": len(records["label"]), "validation": len(validation["label"])}
    topology, _ = network(*sizes_of(parts)[:2], epochs, width)
    first = {name: x[:BATCH] for name, x in records.items()}
    how = {"weight": "counts", "epochs": jsplit.party.epochs(epochs, **counts)}
    reach = {"addresses": {"server": server}, "patience": 600.0}
    agreed = jsplit.party.agreement(topology, first, **how, **reach)
    jsplit.party.write(out / "agreement.json", agreed)
    jsplit.party.certs(out / "certs", agreed.parties)


# What the two parties are compared with.
def in_one_process(parts: list[Arrays], epochs: int, width: int, out: Path) -> dict:
    """The same training by `jsplit.fit`, of the batches that the parties take."""
    records, validation, test = parts
    side, count, _ = sizes_of(parts)
    topology, optimizer = network(side, count, epochs, width)
    agreed = jsplit.party.read(out / "agreement.json")
    balanced = count / (2 * np.bincount(records["label"]))
    counts = balanced[records["label"]].astype(np.float32)
    ids = [f"{place:09}" for place in range(count)]  # sorted, the order that they have
    batch = jsplit.party.batches(agreed, records | {"counts": counts}, ids)
    steps = count // BATCH

    def epoch(number: int) -> Iterator[tuple]:
        for step in range(number * steps, (number + 1) * steps):
            taken = dict(batch(step))
            weight = taken.pop("counts")
            yield taken, weight

    def batches(fields: Arrays) -> list[Arrays]:
        starts = range(0, len(fields["label"]), BATCH)
        return [{n: x[i : i + BATCH] for n, x in fields.items()} for i in starts]

    trainer = jsplit.messages(topology, optimizer)
    asked = {"monitor": "val_auc", "mode": "max", "patience": 5, "key": agreed.seed}
    asked |= {"epochs": epochs, "validation": batches(validation)}
    fitted = jsplit.fit(trainer, epoch, **asked)
    info = trainer.evaluate(fitted.best, batches(test))
    row = {"best": fitted.history.best, "auc": info.metrics["auc"]}
    return row | {"rows": [dict(x) for x in fitted.history.rows]}


def both(words: Sequence[str], sizes: Sequence[int], out: Path) -> dict:
    """Both parties in processes of their own; what the hospital has found."""
    command = [sys.executable, __file__]
    # Each writes into a file: a process that fills its pipe stands still.
    given = {"hospital": [], "server": ["--sizes", *map(str, sizes)]}
    started = {}
    try:
        for party, more in given.items():
            with open(out / f"{party}.log", "w") as log:
                started[party] = subprocess.Popen(
                    [*command, party, *words, *more],
                    stdout=log,
                    stderr=log,
                    env=on_cpu(),
                )
        for party, process in started.items():
            if process.wait():
                said = (out / f"{party}.log").read_text()
                raise RuntimeError(f"`{party}` ended with an error: {said[-2000:]}")
    finally:
        for process in started.values():
            process.kill()
            process.wait()
    return json.loads((out / "hospital.json").read_text())


def main(arguments: Sequence[str] | None = None) -> dict:
    """Run a party, or both and the same in one process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("party", nargs="?", choices=PARTIES)
    parser.add_argument("--data", type=Path, help="an .npz file of MedMNIST")
    parser.add_argument(
        "--sizes", type=int, nargs=3, help="at the server, in its place"
    )
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--records", type=int, help="of each part, at most")
    parser.add_argument("--out", type=Path, default=Path("results/xrays_network"))
    words = sys.argv[1:] if arguments is None else [*arguments]
    asked = parser.parse_args(words)
    size = asked.epochs, asked.width, asked.out
    if asked.party == "server":
        server(asked.sizes, *size)
        return {}
    parts = [{n: x[: asked.records] for n, x in p.items()} for p in read(asked.data)]
    if asked.party == "hospital":
        row = hospital(parts, *size)
        (asked.out / "hospital.json").write_text(json.dumps(row))
        return row
    asked.out.mkdir(parents=True, exist_ok=True)
    if not (asked.out / "agreement.json").is_file():
        agree(parts, *size, f"127.0.0.1:{free_port()}")
    row, whole = both(words, sizes_of(parts), asked.out), in_one_process(parts, *size)
    print(f"test AUC of the best epoch, {row['best']}: {row['auc']:.4f}")
    print(f"equal to one process, to the bit: {row == whole}")
    return row | {"equal": row == whole}


if __name__ == "__main__":
    main()
