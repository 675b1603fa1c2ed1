"""How fast does a clinic train a language model with a server over a line between institutions?

Two processes, each with its own part of the weights, over gRPC with mutual TLS; between them a line
of so many bits a second and so long a way. experiments/paper/llm.py asks, and `part` is what each
party brings to `jsplit train`.
"""

from __future__ import annotations

import atexit
import json
import math
import resource
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import jsplit
from experiments.common import clinic
from experiments.network.delayed_link import DelayedLink, free_port, on_cpu

HERE = Path(__file__).resolve()
PARTIES = (clinic.CLINIC, "server")
PATIENCE = 900.0  # seconds; a party that compiles on a busy machine is not away


def megabytes() -> float:
    """The most memory that this process has held."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in units of 1024 bytes, macOS in bytes.
    return most / (1e6 if sys.platform == "darwin" else 1e6 / 1024)


def part(party: str) -> dict:
    """What a party brings to the agreement in its folder; `jsplit train` asks for it."""
    task = clinic.Task(**json.loads(Path("task.json").read_text()))
    parts = clinic.filled(task, clinic.divided(task), [party], 1)
    peak = Path(f"{party}.megabytes")
    atexit.register(lambda: peak.write_text(f"{megabytes()}"))
    brings = {"own": clinic.topology(parts), "optimizer": clinic.OPTIMIZER}
    # The server has no records at all.
    return brings | ({"data": task.fields} if party == clinic.CLINIC else {})


def prepare(folder: Path, task: clinic.Task, port: int, steps: int) -> None:
    """The agreement, the certificates and the task of a run, in its folder."""
    folder.mkdir(parents=True)
    topology = clinic.topology(clinic.divided(task))
    agreed = jsplit.party.agreement(
        topology,
        task.fields(0),
        steps=steps,
        addresses={"server": f"127.0.0.1:{port}"},
        checkpoint=steps,
        patience=PATIENCE,
    )
    jsplit.party.write(folder / "agreement.json", agreed)
    jsplit.party.certs(folder / "certs", agreed.parties)
    (folder / "task.json").write_text(json.dumps(asdict(task)))


def run(folder: Path, address: str, deadline: float) -> dict[str, list[dict]]:
    """Both processes to their end; by party, what it has logged of every step."""
    processes: dict[str, subprocess.Popen] = {}
    try:
        for party in PARTIES:
            command = [sys.executable, "-m", "jsplit.command", "train"]
            command += ["agreement.json", party, f"{HERE}:part", "--certs", "certs"]
            command += ["--log", f"{party}.jsonl", "--address", f"server={address}"]
            with open(folder / f"{party}.out", "w") as out:
                processes[party] = subprocess.Popen(
                    command, cwd=folder, stdout=out, stderr=out, env=on_cpu()
                )
        for party, process in processes.items():
            if process.wait(deadline):
                said = (folder / f"{party}.out").read_text()
                raise RuntimeError(f"`{party}` ended with an error: {said[-1000:]}")
    finally:
        for process in processes.values():
            if process.poll() is None:
                process.kill()
    logs = {p: (folder / f"{p}.jsonl").read_text().splitlines() for p in PARTIES}
    return {p: [json.loads(line) for line in lines] for p, lines in logs.items()}


def measure(
    folder: Path,
    task: clinic.Task,
    steps: int,
    *,
    bits: float = math.inf,
    trip: float = 0.0,
    deadline: float = 3600.0,
) -> dict:
    """Train over the line.

    Args:
        folder: made for the run.
        task: what is trained.
        steps: how many.
        bits: that the line lets through in a second, each way.
        trip: seconds there and back.
        deadline: seconds after which it gives up.

    Returns:
        Losses of all steps; medians without the first step: seconds of a step, what the
        clinic and the server compute of them, bytes up and down; megabytes of each process.
    """
    port = free_port()
    prepare(folder, task, port, steps)
    line = port
    if trip or bits != math.inf:
        line = DelayedLink(port, trip / 2, bits).port
    logs = run(folder, f"127.0.0.1:{line}", deadline)
    own, other = logs[clinic.CLINIC], logs["server"]

    def median(log: Sequence[Mapping], name: str) -> float:
        return statistics.median(row[name] for row in log[1:])

    return {
        "losses": [row["losses"]["loss"] for row in own],
        "seconds": median(own, "seconds"),
        "compute": {
            "clinic": median(own, "compute"),
            "server": median(other, "compute"),
        },
        "up": median(own, "sent"),
        "down": median(own, "received"),
        "memory": {p: float((folder / f"{p}.megabytes").read_text()) for p in PARTIES},
    }
