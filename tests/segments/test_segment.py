"""A segment computes what its Flax module, or function, computes: with parameters,
statistics and keys as arguments.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from flax.core import freeze

import jsplit

x = jnp.linspace(-1, 1, 12).reshape(3, 4)


class Net(nnx.Module):
    def __init__(self, rngs):
        self.a = nnx.Linear(4, 5, rngs=rngs)
        self.norm = nnx.BatchNorm(5, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.drop(self.norm(self.a(x)))


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x, train: bool):
        h = linen.BatchNorm(use_running_average=not train)(linen.Dense(5)(x))
        self.sow("intermediates", "h", h)
        self.sow("losses", "penalty", (h**2).mean())
        return linen.Dropout(0.5, deterministic=not train)(h)


net = Net(nnx.Rngs(0))


def reads_a_global(x):
    return net(x)


def same(ours, theirs, tolerance=0.0):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("train", [True, False])
def test_an_nnx_segment_is_the_reseeded_module(train):
    net, key = Net(nnx.Rngs(0)), jax.random.key(7)
    part = jsplit.segment(Net(nnx.Rngs(0)))
    params, state = part.init(jax.random.key(1), x)
    output, new = part.apply(params, state, key, x, train=train)
    nnx.reseed(net, default=key, dropout=key)
    net.train() if train else net.eval()
    same(output, net(x), 1e-6)
    same(new, nnx.to_pure_dict(nnx.state(net, nnx.BatchStat)), 1e-6)
    same(params, nnx.to_pure_dict(nnx.state(net, nnx.Param)))
    assert part.inputs == ("x",) and part.trainable and not part.shares_key


@pytest.mark.parametrize("train", [True, False])
def test_a_linen_segment_is_the_module(train):
    net, key = LinenNet(), jax.random.key(7)
    part = jsplit.segment(net)
    params, state = part.init(jax.random.key(1), x)
    variables = net.init(jax.random.key(1), x, True)
    same(params, variables["params"], 1e-6)
    same(
        state,
        {
            "batch_stats": variables["batch_stats"],
            "losses": jax.tree.map(jnp.zeros_like, variables["losses"]),
        },
    )
    output, new = part.apply(params, state, key, x, train=train)
    fixed = {"params": params, "batch_stats": state["batch_stats"]}
    expected, changed = net.apply(
        fixed, x, train, rngs=key, mutable=["batch_stats", "losses"]
    )
    same(output, expected, 1e-6)
    same(new, {**changed}, 1e-6)
    assert part.inputs == ("x",)


def test_a_linen_segment_starts_from_the_variables_given():
    variables = LinenNet().init(jax.random.key(5), x, True)
    params, state = jsplit.segment(LinenNet(), variables=variables).init(
        jax.random.key(0), x
    )
    same(params, variables["params"])
    same(state["batch_stats"], variables["batch_stats"])
    same(
        jsplit.segment(LinenNet(), variables=freeze(variables)).init(
            jax.random.key(0), x
        )[0],
        params,
    )
    with pytest.raises(
        ValueError, match="keeps `batch_stats.BatchNorm_0.mean`, which `variables` lack"
    ):
        jsplit.segment(LinenNet(), variables={"params": variables["params"]}).init(
            jax.random.key(0), x
        )


def test_what_is_sown_is_sown_anew_on_every_call():
    part = jsplit.segment(LinenNet())
    params, state = part.init(jax.random.key(1), x)
    _, once = part.apply(params, state, jax.random.key(0), x, train=False)
    _, again = part.apply(params, once, jax.random.key(0), x, train=False)
    same(again, once)
    assert len(jax.tree.leaves(once["losses"])) == 1 and set(once) == {
        "batch_stats",
        "losses",
    }


def test_a_sum_sown_is_sown_anew_and_what_shares_its_collection_is_kept():
    class Sown(linen.Module):
        @linen.compact
        def __call__(self, x):
            count = self.variable("losses", "count", jnp.zeros, ())
            count.value += 1
            for _ in range(2):
                self.sow(
                    "losses",
                    "sum",
                    x.sum(),
                    init_fn=lambda: 0.0,
                    reduce_fn=lambda a, b: a + b,
                )
            return linen.Dense(2)(x)

    part = jsplit.segment(Sown())
    params, state = part.init(jax.random.key(1), x)
    for i in range(3):
        same(
            state,
            {"losses": {"count": jnp.full((), i + 1.0), "sum": 2 * x.sum() * (i > 0)}},
            1e-6,
        )
        _, state = part.apply(params, state, None, x)


@pytest.mark.filterwarnings("ignore:Using 'Module.sow")
def test_what_an_nnx_module_has_sown_before_is_not_fed_back():
    class Kept(nnx.Variable):
        pass

    class Inner(nnx.Module):
        def __init__(self):
            self.count = Kept(jnp.zeros(()))

        @nnx.jit
        def __call__(self, x):
            self.sow(Kept, "seen", x.sum())
            self.count[...] += 1
            return x

    class Outer(nnx.Module):
        def __init__(self):
            self.inner = Inner()

        def __call__(self, x):
            return self.inner(x)

    net = Outer()
    net(x)
    for _ in range(2):  # the second time, the `nnx.jit` has run
        part = jsplit.segment(net)
        params, state = part.init(jax.random.key(0), x)
        for i in range(3):
            same(
                state,
                {
                    "inner": {
                        "count": jnp.full((), i + 1.0),
                        "seen": (x.sum() * (i > 0),),
                    }
                },
                1e-6,
            )
            _, state = part.apply(params, state, None, x)


def test_a_function_of_parameters_may_hold_a_linen_module():
    dense = linen.Dense(2)
    part = jsplit.segment(
        lambda p, x: dense.apply({"params": p}, x),
        init=lambda key, x: dense.init(key, x)["params"],
    )
    params, state = part.init(jax.random.key(0), x)
    same(part.apply(params, state, None, x)[0], dense.apply({"params": params}, x))


def test_a_function_segment_is_the_function():
    part = jsplit.segment(
        lambda params, x: x @ params,
        init=lambda key, x: jax.random.normal(key, (x.shape[-1], 2)),
    )
    params, state = part.init(jax.random.key(3), x)
    same(params, jax.random.normal(jax.random.key(3), (4, 2)))
    same(part.apply(params, state, None, x), (x @ params, {}))
    assert part.inputs == ("x",) and part.trainable


def test_a_function_without_init_has_no_parameters():
    part = jsplit.segment(lambda left, right: left + right, name="sum")
    assert part.init(jax.random.key(0), x, x) == ({}, {})
    same(part.apply({}, {}, None, x, x)[0], 2 * x)
    assert (part.inputs, part.name, part.trainable) == (("left", "right"), "sum", False)
    assert repr(part) == "Segment(left, right -> sum)"


def test_a_parameter_called_key_receives_the_key():
    part = jsplit.segment(lambda x, key: x + jax.random.normal(key, x.shape))
    assert part.inputs == ("x",)
    same(
        part.apply({}, {}, jax.random.key(2), x)[0],
        x + jax.random.normal(jax.random.key(2), x.shape),
    )


@pytest.mark.parametrize(
    "flag", ["train", "training", "is_training", "deterministic", "use_running_average"]
)
def test_the_mode_is_told_by_its_usual_names(flag):
    names: dict = {}
    exec(f"def model(x, {flag}): return x * (2.0 if {flag} else 3.0)", names)
    part = jsplit.segment(names["model"])
    factor = {True: 2.0, False: 3.0} if "train" in flag else {True: 3.0, False: 2.0}
    assert part.inputs == ("x",)
    for train in (True, False):
        same(part.apply({}, {}, None, x, train=train)[0], x * factor[train])


def test_all_flags_are_told_and_inputs_go_by_name_where_they_do_not_lead():
    def model(train, x, key, deterministic=False, *, y):
        return x * train - y * deterministic

    part = jsplit.segment(model)
    assert part.inputs == ("x", "y")
    for train in (True, False):
        same(part.apply({}, {}, None, x, 2 * x, train=train)[0], x if train else -2 * x)
    part = jsplit.segment(functools.partial(lambda a, b, c: a - b * c, b=2.0))
    assert part.inputs == ("a", "c")
    same(part.apply({}, {}, None, x, x)[0], x - 2 * x)


def test_inputs_may_be_renamed_reordered_or_fewer():
    def model(a, b, c=0.0):
        return a - 2 * b + c

    assert jsplit.segment(model).inputs == ("a", "b")
    same(
        jsplit.segment(model, inputs=["u", "v"]).apply({}, {}, None, x, 2 * x)[0],
        x - 4 * x,
    )
    same(
        jsplit.segment(model, inputs=["b", "a"]).apply({}, {}, None, x, 2 * x)[0],
        2 * x - 2 * x,
    )
    same(
        jsplit.segment(model, inputs=["a", "b", "c"]).apply({}, {}, None, x, x, 3 * x)[
            0
        ],
        2 * x,
        1e-6,
    )
    with pytest.raises(ValueError, match=r"takes inputs \('b', 'a'\), got 1"):
        jsplit.segment(model, inputs=["b", "a"]).apply({}, {}, None, x)
    assert jsplit.segment(lambda *xs: sum(xs)).inputs is None
    part = jsplit.segment(jsplit.segment(model, name="old"), inputs=["u", "v"])
    assert (part.inputs, part.name) == (("u", "v"), "old")


def test_the_module_itself_never_changes():
    net = Net(nnx.Rngs(0))
    before = jax.tree.map(
        np.asarray, nnx.to_pure_dict(nnx.state(net, nnx.Not(nnx.RngKey)))
    )
    kinds = [type(m) for _, m in nnx.iter_modules(net)]
    part = jsplit.segment(net)
    params, state = part.init(jax.random.key(0), x)
    part.apply(params, state, jax.random.key(0), x)
    jsplit.split(net, x, cuts=["norm"])
    net.a.kernel[...] = net.a.kernel[...] + 1
    same(part.init(jax.random.key(0), x)[0]["a"]["kernel"], before["a"]["kernel"])
    net.a.kernel[...] = before["a"]["kernel"]
    same(
        jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(net, nnx.Not(nnx.RngKey)))),
        before,
    )
    assert kinds == [type(m) for _, m in nnx.iter_modules(net)]


def test_every_stream_draws_from_the_key_and_no_two_draw_the_same():
    class Noise(nnx.Module):
        def __init__(self, rngs):
            self.first, self.second, self.other = (
                rngs.dropout.fork(),
                rngs.dropout.fork(),
                rngs.noise.fork(),
            )

        def __call__(self, x):
            return tuple(
                jax.random.normal(s(), x.shape)
                for s in (self.first, self.second, self.other)
            )

    part = jsplit.segment(Noise(nnx.Rngs(0, dropout=1, noise=2)))
    drawn = [
        np.asarray(d)
        for seed in (0, 1)
        for d in part.apply({}, {}, jax.random.key(seed), x)[0]
    ]
    assert all(not np.allclose(a, b) for i, a in enumerate(drawn) for b in drawn[:i])
    same(
        part.apply({}, {}, jax.random.key(0), x)[0], tuple(map(jnp.asarray, drawn[:3]))
    )


def test_layers_vmapped_into_one_keep_their_own_masks():
    @nnx.split_rngs(splits=3)
    @nnx.vmap(in_axes=0, out_axes=0)
    def make(rngs):
        return nnx.Dropout(0.5, rngs=rngs)

    class Ensemble(nnx.Module):
        def __init__(self, rngs):
            self.drops = make(rngs)

        def __call__(self, x):
            return nnx.vmap(lambda drop, x: drop(x), in_axes=(0, None))(self.drops, x)

    masks, _ = jsplit.segment(Ensemble(nnx.Rngs(0))).apply(
        {}, {}, jax.random.key(0), jnp.ones((2, 50))
    )
    assert (
        masks.shape == (3, 2, 50)
        and not (masks[0] == masks[1]).all()
        and not (masks[1] == masks[2]).all()
    )


@pytest.mark.parametrize(
    "model, options, message",
    [
        (Net, {}, "`model` must be a module or a function, got the class `Net`"),
        (
            Net(nnx.Rngs(0)).__call__,
            {},
            "`model` holds a Net, whose parameters would become constants",
        ),
        (functools.partial(Net(nnx.Rngs(0))), {}, "`model` holds a Net"),
        (nnx.jit(Net(nnx.Rngs(0))), {}, "`model` holds a Net"),
        (jax.jit(lambda x, nets=[net]: nets[0](x)), {}, "`model` holds a Net"),
        (
            (lambda net: lambda x: [(lambda: net(x))() for _ in x])(Net(nnx.Rngs(0))),
            {},
            "`model` holds a Net",
        ),
        (lambda x: reads_a_global(x) * 2, {}, "`model` holds a Net"),
        (LinenNet().bind({}).__call__, {}, "`model` holds a LinenNet"),
        (nnx.Module(), {}, "got Module, which has no `__call__`"),
        (
            LinenNet(),
            {"variables": {"kernel": x}},
            r"`variables` must hold the collection `params`.*got \['kernel'\]",
        ),
        (
            lambda x: x,
            {"inputs": ["a", "b"]},
            r"`inputs` names \['a', 'b'\], but the model takes \['x'\]",
        ),
        (lambda x: x, {"inputs": [1]}, "`inputs` must be names, got 1"),
        (3, {}, "`model` must be a Flax module or a function, got int"),
        (
            Net(nnx.Rngs(0)),
            {"variables": {}},
            "`variables` belongs to a linen module, got a Net",
        ),
        (
            lambda x: x,
            {"variables": {}},
            "`variables` belongs to a linen module, got a function",
        ),
        (
            Net(nnx.Rngs(0)),
            {"init": lambda key: {}},
            "`init` belongs to a plain function, got a Net",
        ),
        (
            LinenNet(),
            {"init": lambda key: {}},
            "`init` belongs to a plain function, got a LinenNet",
        ),
    ],
)
def test_what_is_no_model_is_refused_by_name(model, options, message):
    with pytest.raises(ValueError, match=message):
        jsplit.segment(model, **options)


def test_a_module_without_parameters_is_not_trainable():
    class Ids(nnx.Module):
        def __call__(self, x):
            return (x > 0).astype(jnp.int32)

    embed = jsplit.segment(
        lambda w, i: w[i].sum(1), init=lambda key, i: jnp.ones((2, 3)), inputs=["i"]
    )
    topology = jsplit.vanilla(
        jsplit.segment(Ids()),
        embed,
        loss=lambda o, y: ((o - y) ** 2).mean(-1),
        label="y",
    )
    assert not topology.node["smashed"].segment.trainable
    batch = {"x": jnp.ones((4, 3)), "y": jnp.zeros((4, 3))}
    trainer = jsplit.fused(
        topology, {"server": optax.sgd(0.1)}
    )  # the client needs no optimizer
    state, info = trainer.step(trainer.init(0, batch), batch)
    assert info.loss == 9 and (state.parties["server"].params["output"][1] < 1).all()
