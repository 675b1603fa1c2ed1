"""What is printed of traffic has no value of a record in it, and what is no attack is refused."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit.privacy import Traffic, report


def test_traffic_is_shown_by_shapes_alone():
    seen = Traffic(
        "client",
        jnp.zeros(4, int),
        returned={"h": jnp.full((4, 3), 12345.0)},
        fields={"x": np.full((4, 2), 678.0)},
    )
    for text in (str(seen), repr(seen), f"{seen}"):
        assert "12345" not in text and "678" not in text
        assert "returned h: float32[4, 3]" in text.replace(",", ", ").replace(
            ",  ", ", "
        )
    assert "nothing" in str(Traffic("client", jnp.zeros(4, int)))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"attacks": ["norm"]}, "`attacks` must be Attempts"),
        ({"public": np.ones((4, 3))}, "`public` must be a dictionary of fields"),
    ],
)
def test_what_a_report_cannot_use_is_refused_by_name(given, said):
    client = jsplit.segment(lambda x: 2 * x, inputs=["x"])
    server = jsplit.segment(
        lambda w, h: h @ w, init=lambda key, h: jnp.zeros(3), inputs=["h"]
    )
    topology = jsplit.vanilla(client, server, loss=lambda o, y: (o - y) ** 2)
    data = {"x": np.ones((64, 3), np.float32), "label": np.ones(64, np.float32)}
    with pytest.raises(ValueError, match=said):
        report(jsplit.fused(topology, optax.sgd(0.1)), data, **given)
