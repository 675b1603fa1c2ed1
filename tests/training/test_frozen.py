"""Frozen parameters: LoRA on a base that no step touches, in three kinds of freezing."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import jsplit
from jsplit.party.compute.handover import learned, taken
from jsplit.training import executor
from jsplit.training.store import layout_of
from tests.training.common import INTERPRETERS, both, close, refused

WIDTH, RANK, LAYERS = 32, 2, 4
RNG = np.random.default_rng(0)
X = RNG.normal(size=(16, WIDTH)).astype(np.float32)
Y = RNG.normal(size=(16, WIDTH)).astype(np.float32)
BATCH = {"h": X, "label": Y}
RATE = 1e-2


class Fixed(nnx.Variable):
    """A kind of its own: nobody's `nnx.Param`."""


class Layer(nnx.Module):
    def __init__(self, base, adapter, weights):
        self.w = base(weights["w"])
        self.a, self.b = adapter(weights["a"]), adapter(weights["b"])

    def __call__(self, h):
        return jnp.tanh(h @ self.w[...] + h @ self.a[...] @ self.b[...])


class Net(nnx.Module):
    def __init__(self, base, adapter):
        weights = first().values()
        self.l = nnx.List([Layer(base, adapter, x) for x in weights])

    def __call__(self, h):
        for layer in self.l:
            h = layer(h)
        return h


@cache
def first():
    def of(*shape):
        return RNG.normal(size=shape).astype(np.float32) / 5

    shapes = {"w": (WIDTH, WIDTH), "a": (WIDTH, RANK), "b": (RANK, WIDTH)}
    return {
        f"l{i}": {n: of(*shape) for n, shape in shapes.items()} for i in range(LAYERS)
    }


def plain(weights, h):
    """The same as a function of its weights."""
    for i, layer in enumerate(weights.values()):
        h = jnp.tanh(h @ layer["w"] + h @ layer["a"] @ layer["b"])
        h = jsplit.cut(h, f"at{i}") if i in (0, 2) else h
    return h


KINDS = {
    "filter": (
        lambda: Net(nnx.Param, nnx.LoRAParam),
        {"trainable": nnx.LoRAParam},
    ),
    "predicate": (
        lambda: plain,
        {
            "trainable": lambda path: path[-1] in ("a", "b"),
            "init": lambda key, h: first(),
            "inputs": ["h"],
        },
    ),
    "variable": (lambda: Net(Fixed, nnx.Param), {}),
}
three_kinds = pytest.mark.parametrize("kind", KINDS)


def loss(output, label):
    return ((output - label) ** 2).mean(-1)


@cache
def topology(kind):
    model, told = KINDS[kind]
    at = ["at0", "at2"] if kind == "predicate" else ["l.0", "l.2"]
    cuts = dict(zip(["up", "down"], at, strict=True))
    segments = jsplit.split(model(), X, cuts=cuts, **told)
    return jsplit.u_shaped(*segments.values(), loss=loss, fields=["h"])


@cache
def whole_training(steps=3):
    """Steps of the whole model by Optax on the adapters alone: weights and losses."""
    model = Net(nnx.Param, nnx.LoRAParam)
    graph, adapters, rest = nnx.split(model, nnx.LoRAParam, ...)
    optimizer = optax.adam(RATE)

    @jax.jit
    def step(adapters, memory):
        value, gradient = jax.value_and_grad(
            lambda x: loss(nnx.merge(graph, x, rest)(X), Y).mean()
        )(adapters)
        updates, memory = optimizer.update(gradient, memory, adapters)
        return optax.apply_updates(adapters, updates), memory, value

    memory, losses = optimizer.init(adapters), []
    for _ in range(steps):
        adapters, memory, value = step(adapters, memory)
        losses.append(value)
    pure = nnx.to_pure_dict(nnx.state(nnx.merge(graph, adapters, rest)))
    return [pure["l"][i] for i in range(LAYERS)], losses


def layers_of(state):
    """The weights of each layer, whatever kind of variable holds them."""
    params, statistics = jsplit.variables(state)
    found = []
    for i in range(LAYERS):
        parts = [params[f"l{i}"]] if "l0" in params else [params["l"][i]]
        parts += [statistics["l"][i]] if statistics else []
        found.append({n: x for part in parts for n, x in part.items()})
    return found


@three_kinds
@both
def test_adapters_train_as_in_the_whole_and_the_base_stays_where_it_is(
    interpreter, kind
):
    trainer = INTERPRETERS[interpreter](
        topology(kind), optax.adam(RATE), donate=True, nonfinite="allow"
    )
    state = trainer.init(0, BATCH)
    base = _base_of(state)
    before, losses = base.unsafe_buffer_pointer(), []
    for _ in range(3):
        state, info = trainer.step(state, BATCH)
        losses.append(info.loss)
    expected, wanted = whole_training()
    close(losses, wanted, 1e-5)
    for found, layer in zip(layers_of(state), expected, strict=True):
        close(found, layer, 1e-5)
    # Neither donated nor copied: it is the same array.
    assert not base.is_deleted()
    assert _base_of(state).unsafe_buffer_pointer() == before
    for i, found in enumerate(layers_of(state)):
        assert np.array_equal(found["w"], first()[f"l{i}"]["w"])


def _base_of(state):
    own = state.parties["client"]
    held = own.params["up"] if jax.tree.leaves(own.state) == [] else own.state["up"]
    return (held["l0"] if "l0" in held else held["l"][0])["w"]


def test_the_base_of_a_model_is_not_copied_and_outlives_its_steps():
    model = Net(
        lambda x: nnx.Param(jnp.asarray(x)), lambda x: nnx.LoRAParam(jnp.asarray(x))
    )
    segments = jsplit.split(model, X, cuts=["l.0"], trainable=nnx.LoRAParam)
    split = jsplit.vanilla(*segments.values(), loss=loss)
    trainer = jsplit.messages(split, optax.sgd(RATE), donate=True, nonfinite="allow")
    state = trainer.init(0, BATCH)
    own = state.parties["client"].params["l.0"]["l"][0]
    mine = model.l[0]
    assert own["w"].unsafe_buffer_pointer() == mine.w[...].unsafe_buffer_pointer()
    assert own["a"].unsafe_buffer_pointer() != mine.a[...].unsafe_buffer_pointer()
    trainer.step(state, BATCH)
    assert own["a"].is_deleted() and not own["w"].is_deleted()
    assert np.isfinite(np.asarray(model(X))).all()


def test_in_double_precision_split_adapters_are_the_whole_ones():
    with jax.enable_x64(True):
        weights = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), first())
        x, y = jnp.asarray(X, jnp.float64), jnp.asarray(Y, jnp.float64)
        _, told = KINDS["predicate"]
        told = told | {"init": lambda key, h: weights}
        segments = jsplit.split(plain, x, cuts={"up": "at0", "down": "at2"}, **told)
        split = jsplit.u_shaped(*segments.values(), loss=loss, fields=["h"])
        trainer = jsplit.messages(split, optax.sgd(1.0), microbatches=2)
        state = trainer.init(0, {"h": x, "label": y})
        state, _ = trainer.step(state, {"h": x, "label": y})
        gradient = jax.grad(lambda w: loss(plain(w, x), y).mean())(weights)
        for i, found in enumerate(layers_of(state)):
            old, slope = weights[f"l{i}"], gradient[f"l{i}"]
            moved = {n: old[n] - (n != "w") * slope[n] for n in old}
            close(found, moved, 1e-9)


def _work_of_plain_flax():
    model = Net(nnx.Param, nnx.LoRAParam)
    graph, adapters, rest = nnx.split(model, nnx.LoRAParam, ...)

    def step(adapters, rest, x, y):
        gradient = jax.grad(lambda a: loss(nnx.merge(graph, a, rest)(x), y).mean())
        return jax.tree.map(lambda p, g: p - RATE * g, adapters, gradient(adapters))

    counted = jax.jit(step).lower(adapters, rest, X, Y).compile().cost_analysis()
    assert counted is not None
    return counted["flops"]


@pytest.mark.parametrize(
    ("kind", "parts"), [("filter", 1), ("filter", 2), ("predicate", 1), ("variable", 1)]
)
def test_messages_and_cost_count_the_work_of_adapters_alone(monkeypatch, kind, parts):
    """Of what XLA has compiled, and by what a party keeps and holds on to."""
    base = 4 * WIDTH * WIDTH
    counted, left = [], {}
    run = executor.run_program

    def counting(program, store, carrier):
        for wire in program.waits_for:
            store[wire] = carrier.take(wire)
        given = [store[r] for r in program.reads]
        counts = program.function.lower(*given).compile().cost_analysis()
        counted.append(counts.get("flops", 0.0))
        run(program._replace(waits_for=()), store, carrier)
        for name in program.writes:
            assert name.kind != "frozen" and name.kind != "frozen state"
            if name.kind in ("vjp", "halfway", "grad", "state", "params"):
                sizes = [x.shape for x in jax.tree.leaves(store[name])]
                left[name] = sizes

    told = {"nonfinite": "allow", "microbatches": parts}
    trainer = jsplit.messages(topology(kind), optax.sgd(RATE), **told)
    state = trainer.init(0, BATCH)
    monkeypatch.setattr(executor, "run_program", counting)
    trainer.step(state, BATCH)
    expected = _work_of_plain_flax()
    assert sum(counted) <= 1.02 * expected
    # No weight of the base is written, kept or carried from one half to the other.
    assert (WIDTH, WIDTH) not in [shape for sizes in left.values() for shape in sizes]

    cost = jsplit.cost(topology(kind), BATCH, optimizer=optax.sgd(RATE), **told)
    work = [
        p.forward + p.backward["residuals"] + p.other for p in cost.parties.values()
    ]
    assert sum(x.flops for x in work) == pytest.approx(sum(counted), rel=0.02)
    client = cost.parties["client"]
    assert client.params + client.statistics == 2 * (base + 2 * 4 * WIDTH * RANK)
    # Each layer keeps its input, its output and its slope, and what the adapters need.
    kept = 2 * len(X) // parts * (3 * WIDTH + RANK) * 4
    assert client.activations["residuals"] == kept


def test_before_all_that_trains_nothing_comes_back_and_no_optimizer_is_needed():
    segments = jsplit.split(
        KINDS["filter"][0](), X, cuts={"up": "l.0"}, trainable=["l.2.a", "l.3"]
    )
    assert [s.trainable for s in segments.values()] == [False, True]
    split = jsplit.vanilla(*segments.values(), loss=loss)
    optimizer = {"server": optax.adam(RATE)}
    trainer = jsplit.messages(split, optimizer)
    state = trainer.init(0, BATCH)
    after, info = trainer.step(state, BATCH)
    kinds = [(m.name, m.kind) for m in info.messages]
    assert kinds == [("up", "activation")]
    cost = jsplit.cost(split, BATCH, optimizer=optimizer)
    assert [(m.name, m.kind) for m in cost.messages] == kinds
    assert cost.parties["client"].backward["residuals"].macs == 0
    assert cost.parties["client"].optimizer == 0
    assert jax.tree.leaves(after.parties["client"].optimizer) == []
    close(after.parties["client"].params, state.parties["client"].params, 0)
    # Of the path of a submodule all is trained, the base in it too.
    moved = jax.tree.map(
        lambda x, y: bool((x != y).any()),
        after.parties["server"].params["output"],
        state.parties["server"].params["output"],
    )
    assert moved["l"][3] == {"a": True, "b": True, "w": True}
    assert moved["l"][2] == {"a": True, "b": False, "w": False}


@both
def test_a_penalty_reads_frozen_parameters_and_moves_the_others_alone(interpreter):
    weights = {"w": np.full((3, 3), 2.0, "f"), "a": np.full((3, 3), 3.0, "f")}
    low = jsplit.segment(
        lambda p, x: x @ p["w"] + x @ p["a"],
        init=lambda key, x: weights,
        inputs=["x"],
        name="h",
        trainable="a",
    )
    high = jsplit.segment(lambda h: 0 * h.sum(-1), inputs=["h"], name="y")
    split = jsplit.Topology(
        [
            jsplit.Node("h", low, "client"),
            jsplit.Node("y", high, "server"),
            jsplit.Loss("zero", lambda y: y, "server", ["y"]),
            jsplit.Penalty(
                "decay", lambda p: (p["w"] * p["a"]).sum(), "client", "h.params"
            ),
        ],
        {"client": ["x"]},
    )
    trainer = INTERPRETERS[interpreter](split, optax.sgd(0.5))
    batch = {"x": np.ones((2, 3), "f")}
    state, info = trainer.step(trainer.init(0, batch), batch)
    assert float(info.losses["decay"]) == 54.0
    params = state.parties["client"].params["h"]
    assert np.array_equal(params["w"], weights["w"])
    close(params["a"], np.full((3, 3), 2.0), 1e-6)


def test_what_is_handed_over_is_what_is_trained():
    trainer = jsplit.fused(topology("filter"), optax.adam(RATE))
    state = trainer.init(0, BATCH)
    layout = {"client": layout_of(trainer.config)["client"]}
    own = state.parties["client"]
    arrays = learned(own, layout)
    # Of two layers two adapters each, Adam's moments of them, and its count.
    assert len(arrays) == 4 * 3 + 1
    assert (WIDTH, WIDTH) not in [x.shape for x in arrays]
    after = taken(own, layout, [np.asarray(x) + 1 for x in arrays])
    layer, old = (x.params["up"]["l"][0] for x in (after, own))
    assert layer["w"] is old["w"]
    close(layer["a"], old["a"] + 1, 0)


def test_a_checkpoint_of_what_is_trained_knows_its_base_by_a_hash(tmp_path):
    trainer = jsplit.fused(topology("filter"), optax.adam(RATE))
    state = trainer.init(0, BATCH)
    after, _ = trainer.step(state, BATCH)
    files = jsplit.save_trained(tmp_path, after, trainer)
    with np.load(files[0]) as archive:
        assert (WIDTH, WIDTH) not in [archive[path].shape for path in archive.files]
    again = jsplit.restore_trained(tmp_path, state, trainer)
    close(again._replace(parties={}), after._replace(parties={}), 0)
    for party, own in after.parties.items():
        found = again.parties[party]
        close((found.params, found.optimizer), (own.params, own.optimizer), 0)
    assert _base_of(again) is _base_of(state)
    # On another base the same adapters are another model.
    own = state.parties["client"]
    params = jax.tree.map(lambda x: x + 1, own.params)
    other = {**state.parties, "client": own._replace(params=params)}
    refused(
        "was trained on other frozen parameters of the node `up`",
        lambda: jsplit.restore_trained(tmp_path, jsplit.TrainState(other), trainer),
    )


def test_clients_have_adapters_of_their_own_on_one_base():
    """As where all is trained, and the base stands still by its optimizer."""

    def label(params):
        def of(path, _):
            return "train" if path[-1].key in ("a", "b") else "freeze"

        return jax.tree_util.tree_map_with_path(of, params)

    still = {"train": optax.sgd(0.5), "freeze": optax.set_to_zero()}
    people = jsplit.population.grouped(["north", "south"] * 8)
    found = {}
    for name, told, optimizer in (
        ("frozen", {"trainable": nnx.LoRAParam}, optax.sgd(0.5)),
        ("by optimizer", {}, optax.multi_transform(still, label)),
    ):
        net = KINDS["filter"][0]()
        segments = jsplit.split(net, X, cuts={"up": "l.0"}, **told)
        trainer = jsplit.fused(jsplit.vanilla(*segments.values(), loss=loss), optimizer)
        algorithm = jsplit.rounds.parallel(trainer, client="client")
        drawn = people.round(BATCH, 0)
        state = algorithm.init(0, drawn)
        state, info = algorithm.step(state, drawn)
        found[name] = state, info.loss, state.client("south")
    state, value, south = found["frozen"]
    _, expected, wanted = found["by optimizer"]
    close(value, expected, 1e-6)
    for party, own in wanted.parties.items():
        close(south.parties[party].params, own.params, 1e-6)
    shapes = jax.tree.map(jnp.shape, state.parties["client"].params["up"])["l"][0]
    adapters = {"a": (2, WIDTH, RANK), "b": (2, RANK, WIDTH)}
    assert shapes == {**adapters, "w": (WIDTH, WIDTH)}
    base = state.parties["client"].params["up"]["l"][0]["w"]
    assert np.array_equal(base, first()["l0"]["w"])


def test_a_linen_module_is_frozen_by_path():
    model = linen.Sequential([linen.Dense(3), linen.Dense(2)])
    made = jsplit.segment(model, inputs=["x"], name="y", trainable="*.bias")
    split = jsplit.Topology(
        [
            jsplit.Node("y", made, "client"),
            jsplit.Loss("loss", loss, "client", ["y", "label"]),
        ],
        {"client": ["x", "label"]},
    )
    trainer = jsplit.fused(split, optax.sgd(0.1))
    batch = {"x": np.ones((2, 3), "f"), "label": np.ones((2, 2), "f")}
    state = trainer.init(0, batch)
    after, _ = trainer.step(state, batch)
    same = jax.tree.map(
        lambda x, y: bool((x == y).all()),
        state.parties["client"].params["y"],
        after.parties["client"].params["y"],
    )
    assert same == {f"layers_{i}": {"bias": False, "kernel": True} for i in range(2)}


def test_what_matches_nothing_or_fits_no_model_is_refused():
    net = KINDS["filter"][0]()
    refused(
        "`trainable` matches no floating parameter; there are `l.0.a`, `l.0.b`",
        lambda: jsplit.segment(net, trainable=nnx.BatchStat),
    )
    refused(
        "`trainable` matches no floating parameter",
        lambda: jsplit.split(net, X, cuts=["l.0"], trainable="lora"),
    )
    dense = jsplit.segment(linen.Dense(3), inputs=["x"], trainable="lora")
    refused("`trainable` matches no", lambda: dense.init(jax.random.key(0), X))
    refused(
        "`trainable` must be True or False, paths such as",
        lambda: jsplit.segment(linen.Dense(3), trainable=nnx.LoRAParam),
    )
    refused(
        "`trainable` must be True or False, paths such as",
        lambda: jsplit.segment(linen.Dense(3), trainable=3),
    )
    refused(
        "`trainable` must be a function of one argument",
        lambda: jsplit.segment(linen.Dense(3), trainable=lambda path, x: True),
    )


class Normed(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.stem, self.norm = nnx.Linear(4, 4, rngs=rngs), nnx.BatchNorm(4, rngs=rngs)
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(self.norm(self.stem(x)))


@pytest.mark.parametrize(
    "told",
    [
        ["norm", "head"],
        lambda path: path[0] != "stem",
        nnx.Not(nnx.PathContains("stem")),
    ],
    ids=["paths", "function", "filter"],
)
def test_where_a_layer_is_trained_its_statistics_are_no_parameters(told):
    """They would get gradients of zero, and stay what they were."""
    made = jsplit.segment(Normed(), inputs=["x"], trainable=told)
    x = jnp.asarray(X[:, :4])
    params, state = made.init(jax.random.key(0), x)
    assert {*params["norm"]} == {"scale", "bias"}
    new = made.apply(params, state, jax.random.key(0), x)[1]
    assert (new["norm"]["mean"] != state["norm"]["mean"]).any()


@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_each_entry_of_a_list_names_something(kind):
    """One that is misspelt would freeze what was meant, in silence."""
    refused(
        "`trainable` has 'nrom', which matches no floating parameter; there are `",
        lambda: (
            jsplit.segment(Normed(), inputs=["x"], trainable=["head", "nrom"])
            if kind == "nnx"
            else jsplit.segment(
                linen.Sequential([linen.Dense(3)]),
                inputs=["x"],
                trainable=["*.bias", "nrom"],
            ).init(jax.random.key(0), X)
        ),
    )


def test_plans_and_runs_count_what_is_trained():
    frozen = topology("filter")
    cost = jsplit.cost(frozen, BATCH, optimizer=optax.adam(RATE))
    run = jsplit.runs.splitfed(cost, [len(X)] * 2, client="client", rounds=3)
    adapters = 2 * (2 * WIDTH * RANK) * 4
    # Each way once a round, and a frame of 96 bytes and 24 for each of four arrays.
    assert run.clients[0].weights == 2 * 3 * (adapters + 96 + 4 * 24)
    low, high = (
        jsplit.plan(
            jsplit.segment(KINDS["filter"][0](), inputs=["h"], trainable=told),
            X,
            client=jsplit.Device(flops=1e9),
            link=jsplit.Network(bits=1e9, latency=1.0),
            optimizer=optax.adam(RATE),
        ).choices
        for told in ("l.3", ["l.0", "l.3"])
    )
    at = {c.point.name: c for c in low}, {c.point.name: c for c in high}
    first, second = (found["l.0"] for found in at)
    # Before all that is trained nothing comes back.
    assert 2 * first.bytes == second.bytes
    assert 1 < first.seconds < 2 < second.seconds
    # Adam has two moments of each weight, and a count.
    assert second.memory - first.memory >= 8 * (WIDTH * WIDTH + 2 * WIDTH * RANK)
