"""How long the programs of each party run, where they are programs apart.

Each is waited for before the next begins, which a training that is not measured never does.
"""

from __future__ import annotations

import time

import jax

from jsplit.core.base import PyTree
from jsplit.core.typed_jax import is_traced
from jsplit.training.executor import CompiledWalk, run_program
from jsplit.training.recording import Tape
from jsplit.training.step_numbers import no_seconds
from jsplit.training.walk import Name, Store, Wire


def run_timed(walk: CompiledWalk, store: Store, tape: Tape) -> None:
    """Run a walk as it runs itself, and add to a tape how long each party took.

    Args:
        walk: the programs, in order.
        store: what they read, and what they leave.
        tape: carries what they send, and keeps the seconds.

    Raises:
        ValueError: if it is part of a larger program, in which nothing runs yet.
    """
    if any(map(is_traced, jax.tree.leaves(store))):
        raise no_seconds("a step within jax.jit, jax.lax.scan or jax.vmap")
    # What came before this step is no work of its first program.
    _wait_for(store)
    for program in walk.programs:
        began = time.perf_counter()
        run_program(program, store, tape)
        # Of what was sent, the tape has the newest last.
        sent = [tape.sent[w][-1] for w in program.writes if isinstance(w, Wire)]
        kept = [store[w] for w in program.writes if isinstance(w, Name)]
        _wait_for((sent, kept))
        took = time.perf_counter() - began
        tape.seconds[program.party] = tape.seconds.get(program.party, 0.0) + took


def _wait_for(tree: PyTree) -> None:
    jax.block_until_ready(tree)
