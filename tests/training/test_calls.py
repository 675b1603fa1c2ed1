"""How much Python runs in a warm step: what is not compiled must not grow."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import jax.numpy as jnp
import optax
import pytest

import jsplit

SOURCE = str(Path(jsplit.__file__).parent)


def calls_of(function, *args):
    """By file of jsplit, the calls of Python functions while one function runs."""
    found: Counter[str] = Counter()

    def see(frame, event, _):
        # "c_call" is another event: only frames of Python are counted.
        if event == "call" and frame.f_code.co_filename.startswith(SOURCE):
            found[frame.f_code.co_filename] += 1

    before = sys.getprofile()
    sys.setprofile(see)
    try:
        function(*args)
    finally:
        sys.setprofile(before)
    return found


@pytest.mark.parametrize(
    ("make", "calls", "files"), [(jsplit.fused, 12, 7), (jsplit.messages, 38, 11)]
)
def test_a_warm_step_takes_few_calls_of_python(make, calls, files):
    bottom = jsplit.segment(
        lambda p, x: jnp.tanh(x @ p), init=lambda key, x: jnp.eye(4) / 4, inputs=["x"]
    )
    top = jsplit.segment(
        lambda p, h: h @ p, init=lambda key, h: jnp.eye(4) / 4, inputs=["h"]
    )
    topology = jsplit.vanilla(
        bottom, top, loss=lambda o, y: ((o - y) ** 2).mean(-1), label="y"
    )
    batch = {"x": jnp.eye(4), "y": jnp.zeros((4, 4))}
    trainer = make(topology, optax.sgd(0.1))
    state = trainer.init(0, batch)
    for _ in range(3):
        state, _ = trainer.step(state, batch)

    found = calls_of(trainer.step, state, batch)
    assert 0 < sum(found.values()) <= calls, found
    assert len(found) <= files, found


@pytest.mark.parametrize("make", [jsplit.fused, jsplit.messages])
def test_the_functions_of_a_trainer_say_what_they_do(make):
    segment = jsplit.segment(lambda x: x, inputs=["x"])
    trainer = make(jsplit.vanilla(segment, segment, loss=lambda o, y: (o - y) ** 2), {})
    for function in trainer[:4]:
        assert "Args:" in function.__doc__ and "Returns:" in function.__doc__
