"""How many tokens a second does one server give to 1, 2, 4 and 8 sessions, together and in turn?

A Llama in a U-shape: the client has the embedding and the output layer, the server all blocks.
Server and clients are threads of one process, over a transport in memory, so what is measured is
what the computing costs and no network; they share its cores, and the time of a core that a token
costs all of them together is less disturbed by others on the machine. Each session generates
tokens in a thread of its own. `together=1` computes the sessions one after the other, each by
itself; by default those that wait are computed in one run. Both servers take turns in one process,
and of each number of sessions the median over the rounds is reported, and the median of the
ratios within a round.

    python experiments/bench/serving.py [--models tiny small] [--rounds 5] [--tokens 24]
    [--sessions 1 2 4 8] [--wait 0.0] [--out results/bench_serving.json]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import optax
from flax import nnx

import jsplit
from experiments.common import llama
from experiments.common.clinic import decoding
from jsplit import party

MODELS = {
    "tiny": llama.Config(
        vocabulary=256, layers=2, width=64, hidden=160, heads=4, groups=2
    ),
    "small": llama.Config(
        vocabulary=256, layers=6, width=512, hidden=1408, heads=8, groups=4
    ),
}
PROMPT, WARM = 8, 3
LONG = 600.0  # seconds that anything may take


def topology_of(config: llama.Config) -> jsplit.Topology:
    """The model between a client and a server."""
    rngs = nnx.Rngs(0)
    body = llama.Blocks(config, rngs=rngs)
    segments = [
        jsplit.segment(
            nnx.Embed(config.vocabulary, config.width, rngs=rngs),
            inputs="tokens",
            name="h",
        ),
        jsplit.segment(body, inputs="h", name="b"),
        jsplit.segment(
            nnx.Linear(config.width, config.vocabulary, rngs=rngs),
            inputs="b",
            name="logits",
        ),
    ]
    caches = [False, partial(decoding, body), False]
    cached = [jsplit.with_cache(s, c) for s, c in zip(segments, caches, strict=True)]

    def loss(logits, label):
        each = optax.softmax_cross_entropy_with_integer_labels(logits, label)
        return each.mean(-1)

    return jsplit.u_shaped(*cached, loss=loss)


@contextmanager
def served(
    topology: jsplit.Topology,
    state: jsplit.TrainState,
    batch: Mapping,
    together: int,
    wait: float,
    *,
    tokens: int,
) -> Iterator[party.RemoteSession]:
    """A session with a server of its own, which ends with it."""
    agreed = party.agreement(topology, batch, steps=1, addresses={"server": "server:1"})
    hub, stop = party.MemoryTransport(), threading.Event()
    thread = threading.Thread(
        target=lambda: party.serve(
            agreed,
            "server",
            topology,
            credentials=party.PlaintextWithoutIdentity("server"),
            state=state.parties["server"],
            stop=stop,
            transport=hub,
            together=together,
            batch_wait=wait,
        ),
        daemon=True,
    )
    thread.start()
    try:
        with party.session(
            agreed,
            "client",
            topology,
            credentials=party.PlaintextWithoutIdentity("client"),
            state=state.parties["client"],
            length=PROMPT + WARM + tokens,
            patience=LONG,
            transport=hub,
        ) as session:
            yield session
    finally:
        stop.set()
        thread.join(LONG)


def rate(first: party.RemoteSession, count: int, tokens: int) -> tuple[float, float]:
    """Tokens a second of so many sessions, and ms of a core that a token costs all parties."""
    rng = np.random.default_rng(count)
    gate = threading.Barrier(count + 1)
    with ExitStack() as stack:
        sessions = [stack.enter_context(first.another()) for _ in range(count)]
        failed: list[BaseException] = []

        def work(session: party.RemoteSession, prompt: np.ndarray) -> None:
            try:
                given = jsplit.generate(session, prompt, WARM)[:, -1:]
                gate.wait(LONG)
                jsplit.generate(session, given, tokens)
                gate.wait(LONG)
            except BaseException as error:
                failed.append(error)
                # Nobody waits for one that comes no more.
                gate.abort()

        threads = [
            threading.Thread(
                target=work,
                args=(s, rng.integers(0, 256, (1, PROMPT)).astype(np.int32)),
                daemon=True,
            )
            for s in sessions
        ]
        for thread in threads:
            thread.start()
        try:
            gate.wait(LONG)
            begun, busy = time.perf_counter(), time.process_time()
            gate.wait(LONG)
        except threading.BrokenBarrierError as broken:
            # The first is what failed, the others were told by the gate.
            raise (failed or [broken])[0] from None
        took, busy = time.perf_counter() - begun, time.process_time() - busy
        for thread in threads:
            thread.join(LONG)
    return count * tokens / took, 1000 * busy / (count * tokens)


def rows_of(model: str, options: argparse.Namespace) -> list[dict]:
    """A row for each number of sessions."""
    topology = topology_of(MODELS[model])
    tokens = np.zeros((1, PROMPT), np.int32)
    batch = {"tokens": tokens, "label": tokens}
    state = jsplit.messages(topology, optax.sgd(0.1)).init(0, batch)
    ways = {"in turn": (1, 0.0), "together": (16, options.wait)}
    found = {(way, n): [] for way in ways for n in options.sessions}
    with ExitStack() as stack:
        first = {
            way: stack.enter_context(
                served(topology, state, batch, *how, tokens=options.tokens)
            )
            for way, how in ways.items()
        }
        # A round more, which compiles.
        for number in range(options.rounds + 1):
            for n in options.sessions:
                for way in ways:
                    measured = rate(first[way], n, options.tokens)
                    if number:
                        found[way, n].append(measured)
    rows = []
    for n in options.sessions:
        each = zip(found["together", n], found["in turn", n], strict=True)
        rows.append(
            {
                "model": model,
                "sessions": n,
                **{f"{way}, tokens/s": middle(found[way, n], 0) for way in ways},
                **{f"{way}, core ms": middle(found[way, n], 1) for way in ways},
                "ratio": statistics.median(a / b for (a, _), (b, _) in each),
                "wait": options.wait,
            }
        )
        print(
            ", ".join(
                f"{name} {x if isinstance(x, str) else round(x, 2)}"
                for name, x in rows[-1].items()
            ),
            flush=True,
        )
    return rows


def middle(measured: list[tuple[float, float]], which: int) -> float:
    """The median of one of the numbers."""
    return statistics.median(each[which] for each in measured)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument(
        "--models", nargs="+", default=["tiny", "small"], choices=MODELS
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--wait", type=float, default=0.0, help="`batch_wait`, seconds")
    parser.add_argument("--out", type=Path, default=Path("results/bench_serving.json"))
    options = parser.parse_args()
    rows = [row for model in options.models for row in rows_of(model, options)]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(
        json.dumps({"cores": os.cpu_count(), "rows": rows}, indent=1)
    )


if __name__ == "__main__":
    main()
