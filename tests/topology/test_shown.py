"""What is lent, carried and public is shown wherever a topology is."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import jsplit


def model(p, tokens, places):
    real = (tokens > 0)[..., None]
    h = jsplit.cut(jnp.tanh(p["e"][tokens]) * real, "up")
    h = jsplit.cut(jnp.tanh(h @ p["a"] + p["t"][places]) * real, "down")
    return h.mean(1) @ p["e"].T


def init(key, *inputs):
    shapes = {"e": (9, 4), "a": (4, 4), "t": (6, 4)}
    return {n: jnp.ones(s) for n, s in shapes.items()}


def loss(output, label):
    return ((output - label[:, None]) ** 2).mean(1)


tokens = np.arange(12, dtype="int32").reshape(2, 6) % 9
batch = {"tokens": tokens, "places": tokens, "label": np.ones(2, "float32")}


@pytest.fixture(scope="module")
def topology():
    inputs = {"tokens": tokens, "places": tokens}
    parts = jsplit.split(
        model, inputs, init=init, around="carry", public=["places"]
    ).values()
    return jsplit.u_shaped(*parts, loss=loss, public=["places"])


def test_a_printed_topology_says_what_is_lent_carried_and_public(topology):
    rows = str(topology).splitlines()
    assert "  up: client <-> server, carrying mask of tokens" in rows
    assert rows[-2:] == ["  output reads e of up", "  public: places"]


def test_drawings_show_it(topology):
    drawn = jsplit.figure(topology).axes[0].texts
    for text in (jsplit.mermaid(topology), " ".join(x.get_text() for x in drawn)):
        assert "up carrying mask of tokens" in text
        assert "places" in text and "public" in text and "weights of up" in text


def test_views_show_it_and_outlive_json(topology):
    views = jsplit.privacy.views(topology, batch)
    up = next(s for s in views["server"].receives if s.name == "up")
    assert up.carries == ("mask of tokens",)
    assert (
        views["client"].tied == ("output reads e of up",) and not views["server"].tied
    )
    for text in (str(views), views._repr_html_()):
        assert "activation up carrying mask of tokens" in text
        assert "output reads e of up" in text and "the public field places" in text
    again = type(views).from_json(views.json())
    assert again["server"].receives == views["server"].receives
    assert again["client"].tied == views["client"].tied


def test_what_is_not_there_is_not_shown():
    part = jsplit.segment(lambda x: jnp.tanh(x))
    plain = jsplit.vanilla(part, part, loss=loss)
    assert "public" not in str(plain) + jsplit.mermaid(plain)
