"""Parties that serve in threads of one process, for the tests; and models that cost little."""

from __future__ import annotations

import threading
from contextlib import nullcontext, suppress

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jsplit
from jsplit import party
from jsplit.wire.channel import Ends
from tests.party.federation import LONG

VOCABULARY = 7


class Hub(party.MemoryTransport):
    """A hub whose connections with a party can be cut, as when its process is killed."""

    def __init__(self):
        super().__init__()
        self.ends: list[tuple[str, str, Ends]] = []

    def dial(self, address, peer, trust, *given, **options):
        made = super().dial(address, peer, trust, *given, **options)
        self.ends.append((trust.party, peer, made))
        return made

    def cut(self, name):
        """Nothing that was under way comes, and nobody says goodbye."""
        for one, other, end in self.ends:
            if name in (one, other):
                for pipe in (end.outward, end.inward):
                    pipe.abandon("cut")


class Serving:
    """Some parties of an agreement that serve, until the end of the block."""

    def __init__(self, agreed, topology, states, hub=None, trust=None, **options):
        self.agreed, self.topology, self.states = agreed, topology, dict(states)
        self.hub = Hub() if hub is None else hub
        self.trust = trust or party.PlaintextWithoutIdentity
        self.options = options
        self.running: dict[str, tuple[threading.Event, threading.Thread]] = {}
        self.failed: dict[str, BaseException] = {}
        self.served: dict[str, party.Served] = {}

    def start(self, name, **options):
        stop = threading.Event()

        def work():
            try:
                self.served[name] = party.serve(
                    self.agreed,
                    name,
                    self.topology,
                    credentials=self.trust(name),
                    stop=stop,
                    state=self.states[name],
                    transport=self.hub,
                    **{**self.options.get(name, {}), **options},
                )
            except BaseException as error:
                self.failed[name] = error

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        self.running[name] = stop, thread

    def kill(self, name):
        """End a party as a signal would, as far as others can see."""
        if isinstance(self.hub, Hub):
            self.hub.cut(name)
        self.end(name)

    def end(self, name):
        stop, thread = self.running.pop(name)
        stop.set()
        thread.join(LONG)
        assert not thread.is_alive() and name not in self.failed, self.failed

    def ask(self, name="client", **options):
        return party.session(
            self.agreed,
            name,
            self.topology,
            **{
                "credentials": self.trust(name),
                "state": self.states.get(self.agreed.turns.role[name]),
                "transport": self.hub,
                "patience": LONG,
                **options,
            },
        )

    def __enter__(self):
        for name in self.options.get("names", ()):
            self.start(name)
        return self

    def __exit__(self, *error):
        for name in [*self.running]:
            # What failed in the block says more.
            with suppress(AssertionError) if error[0] else nullcontext():
                self.end(name)


def summing():
    """A client that embeds tokens, and a server whose logits are of the sum of all so far."""

    def init(key, h):
        return 3 * jax.random.normal(key, (VOCABULARY, VOCABULARY))

    def at_once(weights, h):
        # A sine, so that no token is the answer for ever after.
        return jnp.sin(h.cumsum(1) @ weights)

    def start(params, state, h):
        return jnp.zeros((h.shape[0], h.shape[2]), h.dtype)

    def apply(weights, state, total, h):
        sums = total[:, None] + h.cumsum(1)
        return jnp.sin(sums @ weights), sums[:, -1]

    embed = jsplit.segment(
        lambda tokens: jnp.sin(jax.nn.one_hot(tokens, VOCABULARY)),
        inputs=["tokens"],
        name="h",
    )
    server = jsplit.segment(at_once, init=init, inputs=["h"], name="logits")
    server = jsplit.with_cache(server, jsplit.Cache(start, apply))

    def loss(logits, label):
        return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean(-1)

    return jsplit.vanilla(jsplit.with_cache(embed, False), server, loss=loss)


TOKENS = np.arange(6, dtype=np.int32).reshape(2, 3)
LM_BATCH = {"tokens": TOKENS, "label": TOKENS}


def wanted(weights, prompt, steps):
    """What the summing model generates, in NumPy."""
    tokens = np.asarray(prompt)
    for _ in range(steps):
        total = np.sin(np.eye(VOCABULARY, dtype=np.float32))[tokens].sum(1)
        tokens = np.concatenate(
            [tokens, np.sin(total @ weights).argmax(-1)[:, None]], 1
        )
    return tokens[:, prompt.shape[1] :]
