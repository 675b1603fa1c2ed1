"""How fast does a clinic get a language model's tokens whose middle blocks are at servers?

The same prompt, the most likely tokens, a cache at each party: by plain Flax in one place, between
parties of one process, and between processes with mutual TLS on loopback, of which one is killed
amid a text and started again. experiments/paper/llm.py asks (`--only generate`), and compares all
tokens; as a script this is one server's process:

    python experiments/network/clinic_asks.py <folder> <party>
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jsplit
from experiments.common import clinic, report, smollm
from experiments.common.clinic import CLINIC, Task
from experiments.common.plain_tokens import Say, Whole
from experiments.network.delayed_link import free_port, on_cpu

HERE = Path(__file__).resolve()
CHAIN = 3  # servers
LIMIT = 256  # positions that a server has room for
PATIENCE = 300.0  # seconds; a party that compiles on a busy machine is not away
ASKED = "<|im_start|>user\nWhy is the sky blue?<|im_end|>\n<|im_start|>assistant\n"


def prompt_of(task: Task) -> np.ndarray:
    """What is asked, as tokens [1, any]; bytes of it for the twin."""
    if task.file is None:
        found = [*ASKED.encode()]
    else:
        found = smollm.head(task.file).tokenizer.encode(ASKED).ids
    return np.array([found], np.int32)


def said(task: Task, tokens: np.ndarray) -> str:
    """The text of some tokens."""
    if task.file is None:
        return bytes([*tokens[0]]).decode(errors="replace")
    return smollm.head(task.file).tokenizer.decode([*tokens[0]])


# Between parties.


def parted(task: Task, parties: Sequence[str], count: int) -> jsplit.Topology:
    """Who computes what, where those of `parties` have their weights."""
    parts = clinic.filled(task, clinic.divided(task, count), parties, count)
    return clinic.topology(clinic.cached(task, parts))


def state_of(task: Task, topology: jsplit.Topology, party: str) -> jsplit.PartyState:
    """What a party brings that has not been trained: its parts as their file has them."""
    params, state = {}, {}
    for node in topology.segments:
        if node.party == party:
            first = node.inputs[0] == "tokens"
            width = () if first else (task.config.width,)
            shape = (1, 2, *width)
            x = jnp.zeros(shape, "int32" if first else "float32")
            found = node.segment.init(jax.random.key(0), x)
            params[node.name], state[node.name] = found
    return jsplit.PartyState(params, state, (), {}, jax.random.key(0), jnp.int32(0))


@contextmanager
def in_process(
    trainer: jsplit.Trainer, state: jsplit.TrainState, length: int
) -> Iterator[Say]:
    """Begin a text between parties of this process."""
    with jsplit.session(trainer, state, length=length) as session:
        yield lambda tokens, count: jsplit.generate(session, tokens, count)


class Servers:
    """Processes that serve, in a folder of their own, and the clinic's way to them.

    Args:
        folder: made for them.
        task: whose model.
        topology: of all parties.
        state: the clinic's.
        length: the most positions of a text.
    """

    def __init__(
        self,
        folder: Path,
        task: Task,
        topology: jsplit.Topology,
        state: jsplit.PartyState,
        length: int,
    ):
        folder.mkdir(parents=True)
        self.folder, self.length = folder, length
        self.names = clinic.servers(len(topology.segments) - 2)
        agreed = jsplit.party.agreement(
            topology,
            task.fields(0),
            steps=1,
            addresses={name: f"127.0.0.1:{free_port()}" for name in self.names},
            patience=PATIENCE,
        )
        jsplit.party.write(folder / "agreement.json", agreed)
        jsplit.party.certs(folder / "certs", agreed.parties)
        (folder / "task.json").write_text(json.dumps(asdict(task)))
        self.processes = {name: self.start(name) for name in self.names}
        self.first = jsplit.party.session(
            agreed,
            CLINIC,
            {n.name: n.segment for n in topology.segments if n.party == CLINIC},
            credentials=jsplit.party.credentials(folder / "certs", CLINIC),
            state=state,
            length=length,
            patience=PATIENCE,
        )

    def start(self, name: str) -> subprocess.Popen:
        """A server's process."""
        command = [sys.executable, str(HERE), str(self.folder), name]
        with open(self.folder / f"{name}.out", "a") as out:
            return subprocess.Popen(command, stdout=out, stderr=out, env=on_cpu())

    def kill(self, name: str) -> None:
        """End a server as a machine that fails does, and start another in its place."""
        self.processes[name].kill()
        self.processes[name].wait()
        self.processes[name] = self.start(name)

    @contextmanager
    def begin(self) -> Iterator[Say]:
        """Begin a text, over the connections that are there."""
        with self.first.another(length=self.length) as session:
            yield lambda tokens, count: jsplit.generate(session, tokens, count)

    @contextmanager
    def failing(self, name: str) -> Iterator[Say]:
        """Begin a text in whose second half a server is another process."""
        with self.first.another(length=self.length) as session:

            def say(tokens: np.ndarray, count: int) -> np.ndarray:
                half = jsplit.generate(session, tokens, count // 2)
                self.kill(name)
                rest = jsplit.generate(session, half[:, -1:], count - count // 2)
                if session.begun < 2:
                    raise RuntimeError(f"`{name}` was killed, and nobody noticed.")
                return np.concatenate([half, rest], 1)

            yield say

    def close(self) -> None:
        """End all."""
        self.first.close()
        for process in self.processes.values():
            process.kill()
            process.wait()


def serve(folder: Path, party: str) -> None:
    """What the process of a server does."""
    task = Task(**json.loads((folder / "task.json").read_text()))
    agreed = jsplit.party.read(folder / "agreement.json")
    topology = parted(task, [party], len(agreed.parties) - 1)
    jsplit.party.serve(
        agreed,
        party,
        {n.name: n.segment for n in topology.segments if n.party == party},
        credentials=jsplit.party.credentials(folder / "certs", party),
        state=state_of(task, topology, party),
        length=LIMIT,
        batch=1,
    )


# All of them, side by side.


def measure(folder: Path, task: Task, tokens: int, rounds: int) -> dict[str, Any]:
    """Say the same text in every way, in turns.

    Args:
        folder: for the servers.
        task: whose model.
        tokens: how many are generated.
        rounds: how often; the first compiles, and is not counted.

    Returns:
        The text; and by way its tokens, whether they are those of the whole model, and the
        median tokens per second after the first token.
    """
    prompt = prompt_of(task)
    length = prompt.shape[1] + tokens
    whole = Whole(task, length)
    ways: dict[str, Callable] = {"whole": whole.begin}
    with ExitStack() as stack:
        failing: dict[str, Callable] = {}
        for name, count in (("u", 1), ("chain", CHAIN)):
            topology = parted(task, [CLINIC, *clinic.servers(count)], count)
            trainer = jsplit.messages(topology, optax.sgd(0.0))
            state = trainer.init(0, task.fields(0))
            ways[name] = lambda t=trainer, s=state: in_process(t, s, length)
            own = state.parties[CLINIC]
            over = Servers(folder / name, task, topology, own, length)
            stack.callback(over.close)
            ways[f"{name}-mtls"] = over.begin
            lost = over.names[-1]
            failing[f"{name}-killed"] = lambda o=over, lost=lost: o.failing(lost)
        found, speeds = in_turns(ways, prompt, tokens, rounds)
        for name, begin in failing.items():
            with begin() as say:
                found[name] = say(prompt, tokens)
            print(f"{name}: {found[name][0].tolist()}", flush=True)
    expected = whole.likeliest(np.concatenate([prompt, found["whole"]], 1))
    at_once = expected[:, prompt.shape[1] - 1 : -1]
    return {
        "text": said(task, found["whole"]),
        "prompt": prompt.shape[1],
        "tokens": {name: x[0].tolist() for name, x in found.items()},
        "same": {name: bool((x == at_once).all()) for name, x in found.items()},
        "speed": speeds,
    }


def in_turns(
    ways: Mapping[str, Callable], prompt: np.ndarray, tokens: int, rounds: int
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """The tokens of each way, and the median of its tokens per second."""
    found: dict[str, np.ndarray] = {}
    took: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, begin in ways.items():
            with begin() as say:
                first = say(prompt, 1)
                began = time.perf_counter()
                rest = say(first, tokens - 1)
                seconds = time.perf_counter() - began
            text = np.concatenate([first, rest], 1)
            if (found.setdefault(name, text) != text).any():
                raise RuntimeError(f"{name} said another text than before.")
            if number:
                took[name].append((tokens - 1) / seconds)
            speed = (tokens - 1) / seconds
            print(f"{name}: round {number}, {speed:.1f} tokens/s", flush=True)
    return found, {name: statistics.median(x) for name, x in took.items()}


SAYS = {
    "whole": "whole, plain Flax",
    "u": "U, one process",
    "chain": "3 servers, one process",
    "u-mtls": "U, mTLS on loopback",
    "chain-mtls": "3 servers, mTLS on loopback",
    "u-killed": "U, server killed and restarted",
    "chain-killed": "3 servers, one killed and restarted",
}


def printed(row: Mapping[str, Any]) -> None:
    """The table of what `measure` has found."""
    speed, found = row["speed"], []
    for name, says in SAYS.items():
        each = f"{speed[name]:.1f}" if name in speed else ""
        share = f"{speed[name] / speed['whole']:.2f}" if name in speed else ""
        same = "the same" if row["same"][name] else "others"
        found.append([says, same, each, share])
    count = len(row["tokens"]["whole"])
    title = f"{count} tokens after a prompt of {row['prompt']}"
    report.table(title, ("", "tokens", "tokens/s", "of whole"), found)
    print(row["text"])


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2])
