"""What cannot be divided is refused by name, and so is what a segment cannot take."""

from types import FunctionType
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

import jsplit
from tests.models import (
    MLP,
    LinenLifted,
    Recurrent,
    Twice,
    in_a_row,
    rngs,
    two_layers,
    vertical,
    weights,
)
from tests.slicing.cases import row, words


class Tied(nnx.Module):
    def __init__(self, rngs):
        self.a = nnx.Linear(4, 4, rngs=rngs)
        self.b = nnx.Linear(4, 4, rngs=rngs)
        self.b.kernel = self.a.kernel

    def __call__(self, x):
        return self.b(jsplit.cut(self.a(x), "smashed"))


class TiedNorm(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(4, use_scale=False, use_bias=False, rngs=rngs)

    def __call__(self, x):
        return self.norm(jsplit.cut(jnp.tanh(self.norm(x)), "smashed"))


class Astride(nnx.Module):
    """A statistic of what one side has and the other has."""

    def __init__(self, rngs):
        self.a = nnx.Linear(4, 4, rngs=rngs)
        self.b = nnx.Linear(4, 4, rngs=rngs)
        self.both = nnx.BatchStat(jnp.zeros(()))

    def __call__(self, x):
        y = self.b(jsplit.cut(jnp.tanh(self.a(x)), "smashed"))
        self.both[...] = (x * y).mean()
        return y


def scanned(params, x):
    def body(h, w):
        return jsplit.cut(jnp.tanh(h @ w), "smashed"), None

    return jax.lax.scan(body, x, params["b"])[0]


@jax.custom_vjp
def marked(x):
    return jsplit.cut(jnp.sin(x), "smashed")


marked.defvjp(lambda x: (marked(x), x), lambda x, g: (g * jnp.cos(x),))


def dead(params, x):
    jsplit.cut(x @ params["c"], "dead")
    return jsplit.cut(x @ params["a"], "h") @ params["b"]


def only_in(mode):
    return lambda p, x, train: (
        (jsplit.cut(x @ p["a"], "h") if train is mode else x @ p["a"]) @ p["b"]
    )


def in_place(params, x):
    h = jax.new_ref(jsplit.cut(x @ params["a"], "h"))
    h[...] = jnp.tanh(h[...])
    return h[...] @ params["b"]


def square(key, *inputs):
    return {"b": jnp.ones((3, 4, 4))}


REFUSED = {
    "a skip connection around a cut": (
        lambda p, x: jsplit.cut(jnp.tanh(x @ p["a"]), "h") @ p["b"] + jnp.sin(x),
        {},
        r"skip connection goes around the cut `h`: the input `x` is read by `h` and "
        r"`output` \(x -> sin -> add -> output\)",
    ),
    "a statistic tied across a cut": (
        TiedNorm(rngs()),
        {},
        r"statistic `norm.mean` is tied across a cut",
    ),
    "a statistic that no segment can update": (
        Astride(rngs()),
        {},
        r"statistic `both` needs `smashed`.*no single segment",
    ),
    "a cut that does not exist": (
        MLP(rngs()),
        {"cuts": ["smached"]},
        r"cut `smached` does not exist.*'smashed'",
    ),
    "a call that does not exist": (
        Twice(rngs()),
        {"cuts": ["inner#3"]},
        r"cut `inner#3` does not exist",
    ),
    "a submodule called several times": (
        Twice(rngs()),
        {"cuts": ["inner"]},
        r"called 2 times; say `inner#1` to `inner#2`",
    ),
    "a cut inside a scan": (
        scanned,
        {"init": square},
        r"cut `smashed` lies inside the body of a `scan`",
    ),
    "a cut inside an nnx scan": (
        Recurrent(rngs()),
        {"cuts": ["rnn.cell"]},
        r"inside the body of a `scan`",
    ),
    "a cut inside a linen scan": (
        LinenLifted(),
        {"cuts": ["layers.up"]},
        r"inside the body of a `scan`",
    ),
    "a cut inside a cond": (
        lambda p, x: (
            jax.lax.cond(x.sum() > 0, lambda x: jsplit.cut(jnp.sin(x), "h"), jnp.cos, x)
            @ p["a"]
        ),
        {"cuts": ["h"]},
        r"cut `h` lies inside the body of a `cond`",
    ),
    "a cut inside a custom derivative": (
        lambda p, x: marked(x @ p["a"]),
        {"cuts": ["smashed"]},
        r"inside the body of a `custom_vjp_call`",
    ),
    "a cut of a raw input": (
        lambda p, x: jsplit.cut(x, "h") @ p["a"],
        {},
        r"cut `h` holds the raw input `x`",
    ),
    "a cut of the output": (
        lambda p, x: jsplit.cut(x @ p["a"], "h"),
        {},
        r"output `output` is `h` itself",
    ),
    "a cut that nothing reads": (dead, {}, r"cut `dead` separates nothing: no output"),
    "a cut of no input": (
        lambda p, x: x @ p["a"] + jsplit.cut(jnp.ones((len(x), 3)) * p["b"][:, 0], "h"),
        {},
        r"cut `h` depends on no input",
    ),
    "a cut without batch axis": (
        lambda p, x: jsplit.cut(x.reshape(-1, 2) @ p["a"][:2], "h").sum() * x[:, 0],
        {"shared_inputs": ["x"]},
        r"cut `h` holds an array of shape \(4, 3\); its leading axis must be the batch, 2",
    ),
    "an axis as long as the batch by chance": (
        lambda p, x: (
            jsplit.cut(x.reshape(-1, 2, 2).swapaxes(0, 1) @ p["a"][:2], "h") @ p["b"]
        ).sum(0),
        {},
        r"cut `h` holds an array of shape \(2, 4, 3\); its leading axis must be the batch, 4",
    ),
    "a model for one batch size": (
        lambda p, x: jsplit.cut(x @ p["a"] + jnp.ones((2, 3)), "h") @ p["b"],
        {},
        r"batch size must be free.* with 4",
    ),
    "a cut named as an input": (
        lambda p, x: jsplit.cut(x @ p["a"], "x") @ p["b"],
        {},
        r"cut `x` has the name of an input",
    ),
    "outputs that the model does not return": (
        two_layers,
        {"outputs": ["u", "v"]},
        r"`outputs` names \['u', 'v'\], but the model returns one array",
    ),
    "outputs that are not its keys": (
        lambda p, x: {"u": two_layers(p, x)},
        {"outputs": ["u", "v"]},
        r"`outputs` names .* returns the keys \['u'\]",
    ),
    "outputs that share what no cut precedes": (
        lambda p, x: (x @ p["a"], x @ p["c"]),
        {"outputs": ["u", "v"]},
        r"input `x` is read by `u` and `v`.*no cut lies before",
    ),
    "an output that is an input": (
        lambda p, x: (two_layers(p, x), x),
        {"outputs": ["u", "v"], "shared_inputs": ["x"]},
        r"output `v` is `x` itself",
    ),
    "an output of no input": (
        lambda p, x: (two_layers(p, x), p["c"] * 2),
        {"outputs": ["u", "v"]},
        r"output `v` depends on no input",
    ),
    "an output named as an input": (
        lambda p, x: {"x": two_layers(p, x)},
        {"outputs": ["x"]},
        r"output `x` has the name of an input",
    ),
    "an input named as the output": (
        two_layers,
        {"inputs": "output"},
        r"output `output` has the name of an input",
    ),
    "one name for two outputs": (
        two_layers,
        {"outputs": ["u", "u"]},
        r"`outputs` names `u` twice",
    ),
    "outputs that are no names": (
        two_layers,
        {"outputs": 3},
        r"`outputs` must be names, got 3",
    ),
    "cuts that are no names": (two_layers, {"cuts": 3}, r"`cuts` must be names, got 3"),
    "a cut of no name": (
        two_layers,
        {"cuts": {"h": 3}},
        r"`cuts` must be names, got 3",
    ),
    "a cut of a list": (
        two_layers,
        {"cuts": [["h"]]},
        r"`cuts` must be names, got \['h'\]",
    ),
    "a cut whose name is none": (
        two_layers,
        {"cuts": {1: "smashed"}},
        r"`cuts` must be names, got 1",
    ),
    "cuts that need each other": (
        lambda p, x: (
            jsplit.cut(
                jsplit.cut(jsplit.cut(x @ p["a"], "A") @ p["b"], "B") @ p["a"], "A"
            )
            @ p["b"]
        ),
        {},
        r"the cuts `B`, `A` read each other's values in a circle",
    ),
    "one value in two cuts": (
        in_a_row,
        {"cuts": {"h": "first", "g": ["first", "second"]}},
        r"the cuts `h` and `g` hold the same value",
    ),
    "a cut in training only": (
        only_in(True),
        {},
        r"cut `h` exists only in training; .* in inference too",
    ),
    "a cut in inference only": (
        only_in(False),
        {},
        r"cut `h` exists only in inference; .* in training too",
    ),
    "a mutable array": (in_place, {}, r"a mutable array reference \(in `new_ref`\)"),
    "a shared input that is none": (
        two_layers,
        {"shared_inputs": ["y"]},
        r"`shared_inputs` names \['y'\].*\['x'\]",
    ),
}


@pytest.mark.parametrize("model, options, message", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_divided_is_refused_by_name(model, options, message):
    functions = {"init": weights} if isinstance(model, FunctionType) else {}
    x = words if isinstance(model, Recurrent) else row
    with pytest.raises(ValueError, match=message) as error:
        jsplit.split(model, x, **{**functions, **options})
    assert "\n" not in str(error.value)


TIED = {
    "a submodule": (
        Tied(rngs()),
        r"`a.kernel` is tied across parties: .*at `client` and .* at `server`.*-> b -> output",
    ),
    "through a value with another name": (
        lambda p, x: jsplit.cut(x @ p["a"], "h") @ checkpoint_name(p["a"].T, "mine"),
        r"`a` is tied across parties: `h` at `client` and `output` at `server` read it "
        r"\(a -> transpose -> mine -> dot_general -> output\). Give both to one party",
    ),
}


@pytest.mark.parametrize("model, message", TIED.values(), ids=TIED)
def test_a_weight_tied_across_a_cut_is_refused_between_two_parties(model, message):
    functions = {"init": weights} if isinstance(model, FunctionType) else {}
    segments = jsplit.split(model, row, **functions)
    with pytest.raises(ValueError, match=message) as error:
        jsplit.vanilla(*segments.values(), loss=max)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "example, message",
    [
        ((), r"takes `inputs` \['x', 'y'\], but the example has 0"),
        ((row, jnp.ones((3, 3))), "batch axes differ: `x` has 2, `y` has 3"),
        ((row, jnp.ones(())), "`y` has no batch axis"),
        ((jnp.ones((0, 4)), jnp.ones((0, 3))), "batch is empty"),
        ((row, "row"), "example of `y` must hold numbers, got str"),
        (
            ({"u": row, "v": jnp.ones((3, 4))}, row),
            "batch axes differ: `x` has 2 and 3",
        ),
    ],
)
def test_an_example_that_is_no_batch_is_refused(example, message):
    with pytest.raises(ValueError, match=message):
        jsplit.split(vertical, *example, init=weights)


def test_an_error_of_the_model_itself_is_not_the_batch_sizes():
    with pytest.raises(KeyError, match="missing"):
        jsplit.split(lambda p, x: x @ p["missing"], row, init=weights)
    with pytest.raises(KeyError, match="missing"):
        jsplit.split(
            lambda p, x, train: x @ p["a" if train else "missing"], row, init=weights
        )

    def fixed(params, x):
        assert len(x) == 2
        return jsplit.cut(x @ params["a"], "h") @ params["b"]

    with pytest.raises(
        ValueError,
        match="batch size must be free, but the model does not run with 4: AssertionError",
    ):
        jsplit.split(fixed, row, init=weights)


def test_a_model_of_shapes_can_be_divided_but_not_run():
    part = jsplit.split(nnx.eval_shape(lambda: MLP(rngs())), row)["smashed"]
    with pytest.raises(
        ValueError,
        match=r"`smashed` has only the shape of `a.bias`, float32\[5\], and needs its value",
    ):
        part.apply(*part.init(None), None, row)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"inputs": (jnp.ones((2, 5)),)},
            r"segment `smashed` expects `x` as float32\[2,4\], got float32\[2,5\]",
        ),
        (
            {"inputs": (jnp.ones((2, 4), jnp.bfloat16),)},
            r"expects `x` as float32\[2,4\], got bfloat16",
        ),
        ({"inputs": ({"x": row},)}, r"segment `smashed` expects `x` as PyTreeDef"),
        ({"inputs": (jnp.ones((0, 4)),)}, "batch is empty"),
        ({"inputs": ()}, r"takes the inputs \['x'\], got 0 values"),
        ({"params": {}}, "segment `smashed` needs the weight `a.bias`"),
        (
            {"params": {"a": {"bias": jnp.ones(5), "kernel": jnp.ones((4, 6))}}},
            r"`a.kernel` as float32\[4,5\], got",
        ),
    ],
)
def test_what_a_segment_cannot_take_is_refused_by_name(change, message):
    part = jsplit.split(MLP(rngs()), row)["smashed"]
    params, state = part.init(None)
    given: dict[str, Any] = {
        "params": params,
        "key": jax.random.key(0),
        "inputs": (row,),
        **change,
    }
    with pytest.raises(ValueError, match=message):
        part.apply(given["params"], state, given["key"], *given["inputs"])


@pytest.mark.parametrize("name", ["", "1st", "a b", "a..b", "a/b"])
def test_a_cut_needs_a_name(name):
    with pytest.raises(ValueError, match="`name` of a cut must be an identifier"):
        jsplit.cut(row, name)


def test_a_cut_needs_an_array():
    with pytest.raises(ValueError, match="`value` of the cut `h` holds no array"):
        jsplit.cut({}, "h")


def test_a_cut_changes_nothing_where_the_model_is_not_split():
    assert jsplit.cut(row, "h") is not None and (jsplit.cut(row, "h") == row).all()
    assert (
        jax.grad(lambda x: jnp.sin(jsplit.cut(x, "h")).sum())(row) == jnp.cos(row)
    ).all()
