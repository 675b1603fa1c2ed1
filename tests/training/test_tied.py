"""A weight that several segments of one party read is one leaf of that party."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from tests import tied
from tests.oracles import INTERPRETERS, difference
from tests.training.common import refused

SQUARES = lambda y, label: ((y - label) ** 2).sum(-1)  # noqa: E731
# Adam would not notice a gradient that is a multiple of the right one.
SGD = optax.sgd(0.05, momentum=0.9)


def model(weights, x):
    """One matrix is read three times, one of them behind the second cut's other side."""
    h = jsplit.cut(jnp.tanh(x @ weights["w"]), "up")
    d = jsplit.cut(jnp.tanh(h @ weights["body"]), "down")
    return jnp.tanh(d @ weights["w"].T) @ weights["w"] + weights["bias"]


def init(key, x):
    rng, wide = np.random.default_rng(2), jnp.result_type(float)
    shapes = {"w": (3, 4), "body": (4, 4), "bias": (4,)}
    return {n: jnp.asarray(rng.normal(size=s), wide) for n, s in shapes.items()}


def batch(count=8):
    rng = np.random.default_rng(1)
    given = {"x": rng.normal(size=(count, 3)), "label": rng.normal(size=(count, 4))}
    return {n: a.astype(jnp.result_type(float)) for n, a in given.items()}


def pieces():
    return _pieces(jnp.result_type(float))


@cache
def _pieces(wide):
    return jsplit.split(model, jnp.ones((8, 3), wide), init=init)


def topology():
    return jsplit.u_shaped(*pieces().values(), loss=SQUARES)


def whole_steps(optimizer, steps=3, penalty=0.0):
    """The whole model trained in JAX and Optax alone."""
    given = batch()
    params, losses = init(jax.random.key(0), given["x"]), []
    memory = optimizer.init(params)

    @jax.jit
    def step(params, memory):
        def loss(p):
            return SQUARES(
                model(p, given["x"]), given["label"]
            ).mean() + penalty * jnp.sum(p["w"] ** 2)

        value, gradient = jax.value_and_grad(loss)(params)
        updates, memory = optimizer.update(gradient, memory, params)
        return optax.apply_updates(params, updates), memory, value

    for _ in range(steps):
        params, memory, value = step(params, memory)
        losses.append(value)
    return params


def trained(interpreter="fused", made=None, steps=3, optimizer=None, **options):
    trainer = INTERPRETERS[interpreter](
        made or topology(), optimizer or optax.adam(0.01), **options
    )
    state = trainer.init(jax.random.key(0), batch())
    for _ in range(steps):
        state, _ = trainer.step(state, batch())
    return trainer, state


def test_a_tied_weight_is_one_leaf_of_the_first_that_reads_it():
    made = pieces()
    assert [s.tied for s in made.values()] == [made["up"].tied, (), made["up"].tied]
    (one,) = made["up"].tied
    assert (one.dotted, one.owner, one.readers) == ("w", "up", ("up", "output"))
    _, state = trained(steps=1)
    client = state.parties["client"]
    assert {n: sorted(p) for n, p in client.params.items()} == {
        "up": ["w"],
        "output": ["bias"],
    }
    moments = client.optimizer[0].mu
    assert jax.tree.structure(moments) == jax.tree.structure(client.params)
    # Three arrays, each once: as the whole model has them.
    assert sorted(jsplit.variables(state)[0]) == ["bias", "body", "w"]


@pytest.mark.parametrize(
    ("interpreter", "options"),
    [("fused", {"microbatches": 4}), ("messages", {"backward": "recompute"})],
)
def test_three_reads_at_one_party_train_as_the_whole_model(interpreter, options):
    with jax.enable_x64(True):
        _, state = trained(interpreter, **options)
        found = jsplit.variables(state)[0]
        assert difference(found, whole_steps(optax.adam(0.01))) < 1e-9


def test_a_penalty_on_the_owner_is_added_to_what_all_readers_give():
    l2 = lambda p: jnp.sum(p["w"] ** 2)  # noqa: E731
    penalty = jsplit.Penalty("decay", l2, "client", "up.params", 0.3)
    _, state = trained("messages", topology().add(penalty), optimizer=SGD)
    found = jsplit.variables(state)[0]
    assert difference(found, whole_steps(SGD, penalty=0.3)) < 1e-5
    assert difference(found, whole_steps(SGD)) > 1e-3


def test_a_loss_scale_is_divided_out_of_what_each_reader_gives():
    _, state = trained(optimizer=SGD, loss_scale=1024.0)
    assert difference(jsplit.variables(state)[0], whole_steps(SGD)) < 1e-5


def test_two_towers_of_one_party_share_a_weight():
    """Read by two segments that do not read each other, the owner second in the list."""

    def towers(weights, left, right):
        a = jsplit.cut(left @ weights["w"], "a")
        b = jsplit.cut(right @ weights["w"], "b")
        return (a * b) @ weights["head"]

    def first(key, left, right):
        return {"w": jnp.full((3, 4), 0.1), "head": jnp.full((4, 1), 0.1)}

    x = batch()["x"]
    made = jsplit.split(towers, x, x, init=first)
    made = jsplit.Topology(
        [
            jsplit.Node("b", made["b"], "lab"),
            jsplit.Node("a", made["a"], "lab"),
            jsplit.Node("y", made["output"], "server"),
            jsplit.Loss("loss", SQUARES, "server", ["y", "label"]),
        ],
        {"lab": ["left", "right"], "server": ["label"]},
    )
    given = {"left": x, "right": x[::-1], "label": batch()["label"][:, :1]}
    trainer = jsplit.messages(made, optax.sgd(0.1))
    state, _ = trainer.step(trainer.init(0, given), given)

    def loss(p):
        return SQUARES(
            (given["left"] @ p["w"] * (given["right"] @ p["w"])) @ p["head"],
            given["label"],
        ).mean()

    params = first(None, x, x)
    expected = jax.tree.map(lambda w, g: w - 0.1 * g, params, jax.grad(loss)(params))
    assert difference(jsplit.variables(state)[0], expected) < 1e-6


def test_joined_again_the_segments_compute_what_the_whole_does():
    made = pieces()
    joined = jsplit.join(dict(reversed(made.items())))
    x = batch()["x"]
    params, state = joined.init(jax.random.key(0), x)
    value, _ = joined.apply(params, state, None, x, train=False)
    assert difference(value, model(jsplit.merge(*params.values()), x)) < 1e-6
    refused(
        "`output` reads the weight `w` of the segment `up`, which is not there",
        lambda: jsplit.join({n: made[n] for n in ("down", "output")}),
    )


def test_across_parties_a_tied_weight_is_refused_with_what_to_do():
    up, down, output = pieces().values()
    loss = jsplit.Loss("loss", SQUARES, "server", ["y", "label"])

    def given(tail, **parties):
        nodes = [
            jsplit.Node(n, s, parties.get(n, "client"))
            for n, s in {"up": up, "down": down}.items()
        ]
        return jsplit.Topology(
            [*nodes, jsplit.Node("y", tail, "server"), loss],
            {"client": ["x"], "server": ["label"]},
        )

    refused(
        "the weight `w` is tied across parties: `up` at `client` and `y` at `server` read "
        "it (w -> ",
        lambda: given(output),
    )
    # Of another split: who knows whether the two weights are meant to be one?
    other = jsplit.split(model, jnp.ones((8, 3)), init=init)["output"]
    refused("`y` reads the weight `w` of the segment `up`", lambda: given(other))


def test_a_tied_weight_is_refused_where_its_owner_is_there_twice():
    up, down, output = pieces().values()
    nodes = [jsplit.Node(n, up, "client", inputs=["x"]) for n in ("up", "again")]
    nodes += [jsplit.Node("down", down, "server", inputs=["up"])]
    nodes += [jsplit.Node("y", output, "client")]
    loss = jsplit.Loss("loss", SQUARES, "client", ["y", "label"])
    refused(
        "`up` and `again` both are",
        lambda: jsplit.Topology([*nodes, loss], {"client": ["x", "label"]}),
    )


def test_noise_of_one_reader_alone_is_refused():
    up, down, output = pieces().values()
    private = jsplit.privacy.private(up, clip=1.0, scale=1.0, per=8)
    refused(
        "node `up` adds noise to its gradient, and its weight `w` is tied",
        lambda: jsplit.u_shaped(private, down, output, loss=SQUARES),
    )


def test_what_is_exported_recorded_saved_and_costed_has_the_weight_once(tmp_path):
    trainer, state = trained("messages", optimizer=optax.sgd(0.1))
    given = batch()
    # Recorded: both readers' gradients, added.
    recorded = jsplit.record(trainer, gradients=True)
    after, told = recorded.step(state, given)
    params = jsplit.variables(state)[0]
    gradient = told.gradients["client"]["up"]["w"]
    assert (
        difference(params["w"] - 0.1 * gradient, jsplit.variables(after)[0]["w"]) < 1e-5
    )
    # Saved and restored: the next step is the same.
    jsplit.save(tmp_path / "state", state)
    again = jsplit.restore(tmp_path / "state", like=state)
    assert (
        difference(
            jsplit.variables(trainer.step(again, given)[0])[0],
            jsplit.variables(after)[0],
        )
        == 0
    )
    cost = jsplit.cost(topology(), given, optimizer=optax.sgd(0.1))
    counted = sum(p.params for p in cost.parties.values())
    assert counted == 4 * (3 * 4 + 4 * 4 + 4)
    # Loaded by path, into the one place.
    loaded = jsplit.load_variables(trainer.init(1, given), params)
    assert difference(jsplit.variables(loaded)[0], params) == 0
    exported = jsplit.export(topology(), state, {"x": given["x"]})
    value = given["x"]
    for party, name in (("client", "up"), ("server", "down"), ("client", "output")):
        value = exported[party][name].call(value)
    assert difference(value, model(params, given["x"])) < 1e-6


def test_statistics_that_two_segments_read_are_told():
    """They have one that updates them, and the other would see them late."""
    norm = tied.NnxLM(tied.nnx.Rngs(0))

    class Twice(tied.nnx.Module):
        def __init__(self):
            self.norm, self.inner = norm.normed, norm.block

        def __call__(self, x):
            return self.norm(jsplit.cut(self.inner(self.norm(x)), "h"))

    refused(
        "the statistic `norm.mean` is tied across a cut",
        lambda: jsplit.split(Twice(), jnp.ones((4, tied.WIDTH))),
    )


def test_cut_points_say_of_a_tied_place_that_one_party_must_have_both_sides():
    tokens = tied.data()["tokens"]
    whole = tied.plain()
    points = jsplit.cut_points(whole, tokens)
    assert "block" not in [p.name for p in points]
    assert points.why["block"].startswith(
        "the weight `embed.embedding` is tied across the cut: `block` and `output` read it"
    )
    shaped = jsplit.cut_points(whole, tokens, u_shaped=True)
    assert {"embed", "normed", "block"} <= {p.name for p in shaped}
    cuts = {"up": shaped[-2], "down": shaped[-1]}
    made = jsplit.split(whole, tokens, cuts=cuts)
    jsplit.u_shaped(*made.values(), loss=tied.loss)


def test_where_there_is_no_cut_point_the_list_prints_why():
    def around(x):
        return jsplit.cut(jnp.sin(jsplit.cut(x, "raw")), "h") + x

    points = jsplit.cut_points(around, jnp.ones((4, 3)))
    assert not points
    text = str(points)
    assert "h: a skip connection goes around the cut `h`" in text
    assert "raw: cut `raw` holds the raw input `x`" in text


@pytest.mark.parametrize("interpreter", ["fused", "messages"])
@pytest.mark.parametrize("names", [("w",), ("body", "bias"), ("bias",)], ids=str)
def test_a_tied_weight_may_be_frozen_or_all_that_is_trained(names, interpreter):
    made = jsplit.split(model, batch()["x"], init=init, trainable=list(names))
    topology = jsplit.u_shaped(*made.values(), loss=SQUARES)
    _, state = trained(interpreter, topology, optimizer=SGD, microbatches=2)
    still = optax.multi_transform(
        {"moves": SGD, "stays": optax.set_to_zero()},
        {n: "moves" if n in names else "stays" for n in ("w", "body", "bias")},
    )
    found, _ = jsplit.variables(state)
    assert difference(found, whole_steps(still)) < 1e-5
    first = init(jax.random.key(0), None)
    moved = {n for n, x in first.items() if not np.array_equal(x, found[n])}
    assert moved == {*names}
