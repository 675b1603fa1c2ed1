"""A field that crosses is found, whatever the code calls it; a learned layer is not claimed."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import jsplit
from jsplit.privacy import views

BATCH, SIZE, CLASSES = 8, 6, 3
X = jax.ShapeDtypeStruct((BATCH, SIZE), "float32")
IMAGE = jax.ShapeDtypeStruct((BATCH, 4, 4, 1), "float32")
TOKENS = jax.ShapeDtypeStruct((BATCH, 5), "int32")
LABEL = jax.ShapeDtypeStruct((BATCH,), "int32")
entropy = optax.softmax_cross_entropy_with_integer_labels


def top():
    def init(key, h):
        return jnp.ones((int(np.prod(h.shape[1:])), CLASSES))

    def apply(w, h):
        return jnp.real(h.reshape(len(h), -1)).astype("float32") @ w

    return jsplit.segment(apply, init=init)


def proofs(bottom, x=X, links=None, value=False):
    """What the server is proven to get of `x` by the one activation."""
    topology = jsplit.vanilla(bottom, top(), loss=entropy, fields=["x"])
    found = views(topology, {"x": x, "label": LABEL}, links=links)
    (message,) = [m for m in found["server"].receives if m.kind == "activation"]
    return [str(g) for g in (message.value_gives if value else message.gives)]


ORDER = jnp.array([3, 1, 0, 2, 5, 4])
HADAMARD = jnp.eye(6) + jnp.ones((6, 6))
# Products of them are rounded, so that in 32 bits their matrix seems to have full rank.
THIRDS = jnp.arange(1.0, 7) / 3


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x,
        lambda x: x * 2 + 1,
        lambda x: (3 - x) / 4,
        lambda x: 1 / (x + 3),
        lambda x: x[:, ::-1],
        lambda x: x[:, ORDER],
        lambda x: x.reshape(len(x), 2, 3).transpose(0, 2, 1),
        lambda x: jnp.concatenate([x[:, 4:], jnp.zeros((len(x), 2)), x[:, :4]], -1),
        lambda x: jnp.pad(x, ((0, 0), (1, 2))),
        lambda x: jnp.roll(x, 2, axis=-1),
        lambda x: jnp.tile(x, (1, 3)),
        lambda x: jnp.tanh(x),
        lambda x: jnp.exp(x) + x,
        lambda x: x**3,
        lambda x: jnp.cumsum(x, -1),
        lambda x: x @ HADAMARD,
        lambda x: x @ jnp.eye(6)[:, ORDER],
        lambda x: jnp.fft.fft(x),
        lambda x: jnp.concatenate([x, jnp.maximum(x, 0).sum(-1, keepdims=True)], -1),
        lambda x: jax.checkpoint(lambda y: 2 * y)(x),
        lambda x: jnp.concatenate([x[:, 1:], x.sum(-1, keepdims=True)], -1),
        lambda x: jnp.concatenate([x[:, :3] + x[:, 3:], x[:, :3] - x[:, 3:]], -1),
        lambda x: jnp.tanh((x @ HADAMARD)[:, ORDER] @ HADAMARD + 1),
        lambda x: (lambda z: jnp.concatenate([z.real, z.imag], -1))(jnp.fft.rfft(x)),
        lambda x: jax.scipy.fft.dct(x),
        lambda x: jax.nn.leaky_relu(x),
        lambda x: jax.nn.softplus(x),
        lambda x: jax.nn.selu(3 - 2 * x),
        lambda x: jax.nn.celu(x, 2.0),
        lambda x: jnp.exp(3 * jax.nn.log_sigmoid(x)),
        lambda x: jnp.where(x > 1, 5 * x, x) + jnp.maximum(x, 0),
        lambda x: jax.nn.elu((x @ HADAMARD)[:, ORDER]),
        lambda x: jnp.fft.irfft(x),
        lambda x: jax.lax.stop_gradient(jnp.where(jnp.arange(6) < 9, x, 0)),
        lambda x: jnp.append(x[:, 1:] - x.mean(-1, keepdims=True), x[:, :1], -1),
    ],
)
def test_a_field_rearranged_so_that_it_can_be_undone_is_found(function):
    assert proofs(jsplit.segment(function)) == ["is `x`"]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.sum(-1, keepdims=True),
        lambda x: x - x.mean(-1, keepdims=True),
        lambda x: x - x.mean(0),
        lambda x: jnp.abs(x),
        lambda x: x * x,
        lambda x: x**4,
        lambda x: x - x,
        lambda x: x * 0.0,
        lambda x: x * x[:, ::-1],
        lambda x: x + x[:, ::-1],
        lambda x: x + jnp.tanh(-2 * x),
        lambda x: x + jax.nn.leaky_relu(-2 * x),
        lambda x: (x > 0).astype("float32"),
        lambda x: jnp.round(x),
        lambda x: x.astype("int32"),
        lambda x: x @ jnp.ones((6, 6)),
        lambda x: jax.nn.relu(x @ HADAMARD),
        lambda x: jnp.clip(x, -1, 1) + jnp.clip(x, 1, 2),
        lambda x: x - jnp.abs(x),
        lambda x: jax.nn.silu(x),
        lambda x: jnp.concatenate([x - x.mean(0), x.mean(0) + 0 * x], -1),
        lambda x: x @ jnp.outer(THIRDS, THIRDS),
        lambda x: x @ (jnp.eye(6) - jnp.outer(THIRDS, THIRDS) / (THIRDS @ THIRDS)),
        lambda x: x.max(-1, keepdims=True),
        lambda x: jnp.cos(x),
        lambda x: jnp.where(x > 0, jnp.cos(x), 0),
        lambda x: jnp.where(x < 0, x + 1, x),
        lambda x: jnp.exp(1j * x),
        lambda x: jnp.real(jnp.exp(1j * x)),
    ],
)
def test_what_cannot_be_undone_is_not_claimed(function):
    assert proofs(jsplit.segment(function)) == []


@pytest.mark.parametrize(
    "function",
    [
        lambda x: jnp.sort(x, -1),
        lambda x: jnp.where(x > 0, x, -0.5 * x),
        lambda x: jnp.where(x > 1, x / 5, x),
        lambda x: jnp.where(x >= 0, jnp.where(x > 0, x + 1, 9.0), x - 1),
        lambda x: jnp.where(x[:, ::-1] > 0, x, 2 * x),
        lambda x: jnp.where(x > 0, x, -x),
    ],
)
def test_what_is_chosen_by_the_records_is_a_part_and_never_the_field(function):
    assert proofs(jsplit.segment(function)) == ["has up to 6 of 6 entries of `x`"]


@pytest.mark.parametrize(
    ("function", "proof"),
    [
        (lambda x: x[:, :2], "has 2 of 6 entries of `x`"),
        (lambda x: x[:, 3] * 2, "has 1 of 6 entries of `x`"),
        (lambda x: x * jnp.array([1, 0, 2, 0, 0, 1.0]), "has 3 of 6 entries of `x`"),
        # The real part has the sums of each entry and its mirror image alone.
        (lambda x: jnp.real(jnp.fft.fft(x)), "has 2 of 6 entries of `x`"),
        (lambda x: jnp.fft.irfft(x, 4), "has 3 of 6 entries of `x`"),
        (lambda x: jax.nn.relu(x), "has up to 6 of 6 entries of `x`"),
        (lambda x: jnp.clip(x[:, :3], 0, 1), "has up to 3 of 6 entries of `x`"),
        (lambda x: jnp.where(x > 0, x, 0), "has up to 6 of 6 entries of `x`"),
        (lambda x: jnp.nan_to_num(2 * x), "is `x`"),
        (
            lambda x: jnp.where(x[:, ::-1] > 0, x, 7.0)[:, :2],
            "has up to 2 of 6 entries of `x`",
        ),
        (lambda x: x.astype("bfloat16"), "is `x`, rounded"),
        (lambda x: x.astype("bfloat16")[:, ::-1] * 2, "is `x`, rounded"),
        (
            lambda x: (
                x[:, :4] @ jnp.array([[1, 0, 1], [0, 2, 1], [0, 0, 1], [0, 0, 1.0]])
            ),
            "has 2 of 6 entries of `x`",
        ),
    ],
)
def test_a_part_of_a_field_is_found_as_large_as_it_is(function, proof):
    assert proofs(jsplit.segment(function)) == [proof]


def test_whole_numbers_that_wrap_around_are_not_taken_for_real_ones():
    pixels = jax.ShapeDtypeStruct((BATCH, SIZE), "uint8")
    assert proofs(jsplit.segment(lambda x: x / 255), pixels) == ["is `x`"]
    assert proofs(jsplit.segment(lambda x: 3 * x + 200), pixels) == ["is `x`"]
    for function in (
        lambda x: 2 * x,
        lambda x: x**3,
        lambda x: x @ jnp.eye(6, dtype="uint8") * 4,
    ):
        assert proofs(jsplit.segment(function), pixels) == []


def test_shares_of_a_field_give_it_away_to_those_who_have_enough_of_them():
    """Neither party can solve the sums that it gets; both together can."""
    sums = jsplit.segment(lambda x: x[:, :3] + x[:, 3:])
    differences = jsplit.segment(lambda x: 2 * x[:, :3] - x[:, 3:])
    both = jsplit.segment(
        lambda w, a, b: a @ w + b @ w, init=lambda key, a, b: jnp.ones((3, CLASSES))
    )
    topology = jsplit.Topology(
        [
            jsplit.Node("a", sums, "client", ["x"]),
            jsplit.Node("b", differences, "client", ["x"]),
            jsplit.Node("one", top(), "first", ["a"]),
            jsplit.Node("two", both, "second", ["b", "one"]),
            jsplit.Loss("loss", entropy, "second", ["two", "label"]),
        ],
        {"client": ["x"], "second": ["label"]},
    )
    found = views(topology, {"x": X, "label": LABEL})
    given = {
        t.parties: [str(g) for g in t.gives if g.field == "x"] for t in found.together
    }
    assert given["first",] == given["second",] == []
    assert given["first", "second"] == ["is `x`"]


def test_a_raw_field_is_found_through_nnx_linen_and_split():
    """Moved and scaled ones are refused by `split` itself; a curve is left to `views`."""

    class Raw(nnx.Module):
        def __call__(self, x):
            return x.reshape(len(x), -1) * 2

    class RawLinen(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.relu(
                linen.Dense(4)(jsplit.cut(jnp.exp(x[..., ::-1]), "smashed"))
            )

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.top = nnx.Linear(6, 3, rngs=rngs)

        def __call__(self, x):
            return self.top(jsplit.cut(jnp.exp(x[:, ::-1]), "smashed"))

    x = jnp.zeros(X.shape)
    for bottom in (
        jsplit.segment(Raw()),
        jsplit.split(RawLinen(), x)["smashed"],
        jsplit.split(Net(nnx.Rngs(0)), x)["smashed"],
    ):
        assert proofs(bottom) == ["is `x`"]


@pytest.mark.parametrize(
    "bottom",
    [
        lambda: nnx.Linear(6, 6, rngs=nnx.Rngs(0)),
        lambda: nnx.Sequential(nnx.Linear(6, 9, rngs=nnx.Rngs(0)), nnx.relu),
        lambda: nnx.BatchNorm(6, rngs=nnx.Rngs(0)),
    ],
)
def test_a_learned_layer_is_not_claimed_while_training(bottom):
    topology = jsplit.vanilla(
        jsplit.segment(bottom()), top(), loss=entropy, fields=["x"]
    )
    found = views(topology, {"x": X, "label": LABEL})
    (message,) = found["server"].receives
    assert not any(g.whole and not g.up_to for g in message.gives)
    assert message.enough_for == ("x",)


def test_a_learned_scale_gives_a_field_away_up_to_its_parameters():
    def init(key, x):
        return {"scale": jnp.ones(6), "bias": jnp.zeros(6)}

    scale = jsplit.segment(lambda p, x: x * p["scale"] + p["bias"], init=init)
    assert proofs(scale) == ["is `x` up to parameters of `smashed`"]
    gate = jsplit.segment(lambda p, x: x * jax.nn.relu(p["scale"]), init=init)
    assert proofs(gate) == [
        "has up to 6 of 6 entries of `x` up to parameters of `smashed`"
    ]


@pytest.mark.parametrize(
    "derived",
    [
        lambda w: w * 0.0,
        lambda w: w * (jnp.arange(6) < 2),
        lambda w: w.astype(int).astype("float32"),
        lambda w: jnp.exp(w).astype(int),
        lambda w: (w > 0) * 1.0,
        lambda w: w - w,
        lambda w: jnp.pad(w[:3], (0, 3)),
    ],
)
def test_a_scale_that_may_be_0_lets_through_what_it_lets_through(derived):
    gate = jsplit.segment(lambda w, x: x * derived(w), init=lambda k, x: jnp.ones(6))
    assert not any(proof.startswith("is") for proof in proofs(gate))


@pytest.mark.parametrize(
    "derived", [jnp.exp, lambda w: 1 + w, lambda w: w[::-1] * 2, lambda w: w.T**3]
)
def test_a_scale_made_of_a_parameter_so_that_it_is_not_0_is_one(derived):
    scale = jsplit.segment(lambda w, x: x * derived(w), init=lambda k, x: jnp.ones(6))
    assert proofs(scale) == ["is `x` up to parameters of `smashed`"]


def test_a_table_whose_rows_may_be_equal_gives_no_token_for_sure():
    def embedding(function, shape=(11, 3)):
        return jsplit.segment(
            lambda w, x: function(w, x), init=lambda key, x: jnp.ones(shape)
        )

    known = ["is `x` up to parameters of `smashed`"]
    mask = jnp.arange(11)[:, None] < 2
    assert proofs(embedding(lambda w, x: w.T[::-1][x], (3, 11)), TOKENS) == known
    one_hot = embedding(lambda w, x: jax.nn.one_hot(x, 11) @ w)
    assert proofs(one_hot, TOKENS) == known
    for function, shape in (
        (lambda w, x: (jnp.ones((11, 3)) * w)[x], ()),
        (lambda w, x: jax.nn.one_hot(x, 11) @ (jnp.ones((11, 3)) * w), ()),
        (lambda w, x: (w * mask)[x], (11, 3)),
        (lambda w, x: jax.nn.relu(w)[x], (11, 3)),
        (lambda w, x: jnp.tile(w, (2, 1))[x], (11, 3)),
        (lambda w, x: w[:1][x], (11, 3)),
    ):
        assert not any(
            proof.startswith("is")
            for proof in proofs(embedding(function, shape), TOKENS)
        )


def test_a_table_of_the_code_tells_by_the_columns_that_are_kept():
    table = jnp.array([[0.0, 0.0], [0.0, 1.0], [1.0, 2.0]])
    assert proofs(jsplit.segment(lambda x: table[x]), TOKENS) == ["is `x`"]
    assert proofs(jsplit.segment(lambda x: table[x][..., :1]), TOKENS) == []
    # What the one-hot is multiplied with makes the rows equal that were not.
    rows = jnp.array([[2.0], [1.0]])
    function = lambda x: (jax.nn.one_hot(x, 2) * jnp.array([1.0, 2.0])) @ rows  # noqa: E731
    assert proofs(jsplit.segment(function), TOKENS) == []
    # An index counted from the end of another table than the one it is for.
    wraps = jsplit.segment(lambda x: jnp.where(x < 0, x + 3, x))
    assert proofs(wraps, TOKENS) == []


def test_an_embedding_gives_its_tokens_away_up_to_its_table():
    class Embed(nnx.Module):
        def __init__(self):
            self.table = nnx.Embed(11, 7, rngs=nnx.Rngs(0))
            self.place = nnx.Param(jnp.zeros((5, 7)))

        def __call__(self, x):
            return self.table(x) + self.place[...]

    assert proofs(jsplit.segment(Embed()), TOKENS) == [
        "is `x` up to parameters of `smashed`"
    ]
    # By a table of the code anybody reads them; by one with equal rows nobody does.
    table = jnp.arange(22.0).reshape(11, 2)
    assert proofs(jsplit.segment(lambda x: table[x]), TOKENS) == ["is `x`"]
    assert proofs(jsplit.segment(lambda x: jnp.ones((11, 2))[x]), TOKENS) == []


def test_class_numbers_as_one_hot_are_found_and_one_question_about_them_is_not():
    assert proofs(jsplit.segment(lambda x: jax.nn.one_hot(x, 11)), TOKENS) == ["is `x`"]
    assert proofs(jsplit.segment(lambda x: x == 3), TOKENS) == []


def test_a_bag_of_words_has_lost_their_order():
    def bag(x):
        return jax.vmap(lambda t: jnp.zeros(11).at[t].add(1.0))(x)

    assert proofs(jsplit.segment(bag), TOKENS) == []
    # One number in each line has no order to lose.
    first = jsplit.segment(lambda x: bag(x[:, :1]))
    assert proofs(first, TOKENS) == ["has 1 of 5 entries of `x`"]


def test_a_convolution_is_not_claimed_and_a_raw_image_beside_it_is():
    conv = nnx.Conv(1, 3, (3, 3), rngs=nnx.Rngs(0))
    assert proofs(jsplit.segment(conv), IMAGE) == []

    class Both(nnx.Module):
        def __init__(self):
            self.conv = conv

        def __call__(self, x):
            return jnp.concatenate([nnx.relu(self.conv(x)), x[:, ::-1]], -1)

    assert proofs(jsplit.segment(Both()), IMAGE) == ["is `x`"]


def test_dropout_of_a_common_key_lets_through_what_it_keeps_and_all_in_inference():
    # Everyone can draw the mask; without it in inference, the field is as it is.
    assert proofs(jsplit.segment(nnx.Dropout(0.5, rngs=nnx.Rngs(0)))) == ["is `x`"]


def test_a_link_hides_a_field_or_does_not():
    raw = jsplit.segment(lambda x: x * 2)
    half = {"smashed": jsplit.compress.cast("bfloat16")}
    assert proofs(raw, links=half) == ["is `x`, rounded"]
    few = {"smashed": jsplit.compress.quantize(8)}
    assert proofs(raw, links=few) == []
    assert proofs(raw, links=few, value=True) == ["is `x`"]


@pytest.mark.parametrize(("secret", "found"), [(False, ["is `x`"]), (True, [])])
def test_noise_of_the_key_that_all_know_hides_nothing(secret, found):
    """And of that which its sender alone has, nothing is claimed."""
    noisy = jsplit.stateless(
        lambda value, key: value + 100 * jax.random.normal(key, value.shape),
        lambda payload, like: payload,
        secret=secret,
    )
    raw = jsplit.segment(lambda x: x * 2)
    assert proofs(raw, links={"smashed": noisy}) == found


LOSSES = {
    "cross-entropy": entropy,
    "squared": lambda y, label: ((y - jax.nn.one_hot(label, CLASSES)) ** 2).sum(-1),
    "one-hot": lambda y, label: optax.softmax_cross_entropy(
        y, jax.nn.one_hot(label, CLASSES)
    ),
    "smoothed": lambda y, label: optax.softmax_cross_entropy(
        y, optax.smooth_labels(jax.nn.one_hot(label, CLASSES), 0.1)
    ),
    "binary": lambda y, label: optax.sigmoid_binary_cross_entropy(
        y[:, 0], label.astype("float32")
    ),
    "picked": lambda y, label: (
        -jnp.take_along_axis(jax.nn.log_softmax(y), label[:, None], 1)[:, 0]
    ),
}


def loss_elsewhere(loss, party="server"):
    """Whoever makes the output does not hold the label, and gets a cotangent of it."""
    return jsplit.Topology(
        [
            jsplit.Node("logits", top(), "client", ["x"]),
            jsplit.Loss("loss", loss, party, ["logits", "label"]),
        ],
        {"client": ["x"], "server": ["label"]},
    )


@pytest.mark.parametrize("name", LOSSES)
def test_a_cotangent_gives_a_label_away_to_who_knows_its_output(name):
    topology = loss_elsewhere(LOSSES[name])
    found = views(topology, {"x": X, "label": LABEL})
    (message,) = found["client"].receives
    assert [str(g) for g in message.gives] == [
        "gives away `label` to who knows its own values"
    ]
    # As the receiver would compute it: equal outputs, another label, another cotangent.
    trainer = jsplit.fused(topology, optax.sgd(1.0))
    x = jax.random.normal(jax.random.key(0), X.shape)
    moved = []
    for label in (0, 1):
        batch = {"x": x, "label": jnp.full(LABEL.shape, label)}
        start = trainer.init(0, batch)
        after, _ = trainer.step(start, batch)
        moved.append(after.parties["client"].params["logits"])
    assert not np.allclose(moved[0], moved[1])


@pytest.mark.parametrize(
    "loss",
    [
        lambda y, label: y.sum(-1) + 0 * label,
        lambda y, label: (y.sum(-1) - (label > 1)) ** 2,
        lambda y, label: jnp.abs(y[:, 0] - label),
    ],
)
def test_a_cotangent_that_does_not_tell_the_label_is_not_claimed(loss):
    found = views(loss_elsewhere(loss), {"x": X, "label": LABEL})
    (message,) = found["client"].receives
    assert message.gives == ()


def test_a_u_shape_whose_tail_learns_nothing_gives_its_labels_to_the_server():
    # The server does not hold the record, but it has the output that the label is
    # subtracted from: it made it of what it got.
    tails = {"plain": jsplit.segment(lambda h: 2 * h), "learned": top()}
    given = {}
    for name, tail in tails.items():
        topology = jsplit.u_shaped(top(), top(), tail, loss=entropy, fields=["x"])
        found = views(topology, {"x": X, "label": LABEL})
        got = [m for m in found["server"].receives if m.kind == "cotangent"]
        given[name] = [str(g) for m in got for g in m.gives]
        assert found["server"].can("labels")
    proof = "gives away `label` to who knows its own values"
    assert given == {"plain": [proof], "learned": []}


def test_a_label_behind_a_layer_of_another_party_is_not_claimed():
    topology = jsplit.vanilla(top(), top(), loss=entropy, fields=["x"])
    found = views(topology, {"x": X, "label": LABEL})
    assert [m.gives for m in found["client"].receives] == [()]


def test_what_parties_lack_alone_they_find_out_together():
    x, mask = X, jax.ShapeDtypeStruct(X.shape, "float32")

    def topology(send):
        return jsplit.Topology(
            [
                jsplit.Node("hidden", jsplit.segment(send), "clinic", ["x", "mask"]),
                jsplit.Node("output", top(), "server", ["hidden"]),
                jsplit.Loss("loss", entropy, "server", ["output", "label"]),
            ],
            {"clinic": ["x", "mask"], "lab": ["mask"], "server": ["label"]},
        )

    # Whoever holds the mask takes it off; whoever does not, cannot. What a mask leaves as it
    # is needs none.
    batch = {"x": x, "mask": mask, "label": LABEL}
    entries = ["has up to 6 of 6 entries of `x`"]
    for send, proof, alone in (
        (lambda x, mask: x + mask, ["is `x`"], []),
        (lambda x, mask: x * mask, entries, []),
        (lambda x, mask: jnp.where(mask > 0, x, 0), entries, entries),
        (lambda x, mask: x + mask[:, :1] * x[:, ::-1], [], []),
    ):
        found = views(topology(send), batch)
        by_set = {t.parties: [str(g) for g in t.gives] for t in found.together}
        assert by_set["server",] == alone
        assert by_set["lab",] == []
        assert by_set["server", "lab"] == proof


def test_a_field_that_was_found_out_helps_with_the_next_message():
    def node(name, send, inputs):
        return jsplit.Node(name, jsplit.segment(send), "clinic", inputs)

    topology = jsplit.Topology(
        [
            # The sum comes first and tells nothing until `mask` has come too.
            node("sum", lambda x, mask: x + mask, ["x", "mask"]),
            node("left", lambda m: m[:, :3], ["mask"]),
            node("right", lambda m: m[:, 3:], ["mask"]),
            jsplit.Node("output", top3(), "server", ["sum", "left", "right"]),
            jsplit.Loss("loss", entropy, "server", ["output", "label"]),
        ],
        {"clinic": ["x", "mask"], "server": ["label"]},
    )
    found = views(topology, {"x": X, "mask": X, "label": LABEL})
    assert {m.name: [str(g) for g in m.gives] for m in found["server"].receives} == {
        "sum": [],
        "left": ["has 3 of 6 entries of `mask`"],
        "right": ["has 3 of 6 entries of `mask`"],
    }
    (server,) = [t for t in found.together if t.parties == ("server",)]
    assert {g.field: g.whole for g in server.gives} == {"x": True, "mask": True}


def server_finds(fields, **sent):
    """What a server finds out of the fields of a clinic that sends it these values."""
    nodes = [jsplit.Node(n, part, "clinic", of) for n, (part, of) in sent.items()]
    output = jsplit.segment(
        lambda w, *h: sum(h) @ w, init=lambda key, *h: jnp.ones((SIZE, CLASSES))
    )
    nodes.append(jsplit.Node("output", output, "server", [*sent]))
    loss = jsplit.Loss("loss", entropy, "server", ["output", "label"])
    held = {"clinic": fields, "server": ["label"]}
    batch = dict.fromkeys(fields, X) | {"label": LABEL}
    found = views(jsplit.Topology([*nodes, loss], held), batch)
    (server,) = [t for t in found.together if t.parties == ("server",)]
    return {str(g) for g in server.gives}


TOTAL = jsplit.segment(lambda x, mask: x + mask), ["x", "mask"]
ROUNDED = jsplit.segment(lambda m: m.astype("bfloat16").astype("float32"))
SCALED = jsplit.segment(lambda w, m: m * w, init=lambda key, m: jnp.ones(SIZE))


@pytest.mark.parametrize(
    ("part", "conditions"),
    [(ROUNDED, ", rounded"), (SCALED, " up to parameters of `other`")],
)
def test_what_a_field_helps_to_find_is_known_under_its_conditions(part, conditions):
    found = server_finds(["x", "mask"], total=TOTAL, other=(part, ["mask"]))
    assert found == {f"is `{f}`{conditions}" for f in ("x", "mask")}


def test_what_is_known_for_certain_is_not_under_conditions_of_another_field():
    mask = jsplit.segment(lambda m: m), ["mask"]
    found = server_finds(
        ["x", "mask", "z"], total=TOTAL, mask_=mask, rest=(ROUNDED, ["z"])
    )
    assert found == {"is `x`", "is `mask`", "is `z`, rounded"}


def top3():
    return jsplit.segment(
        lambda w, a, b, c: a @ w, init=lambda key, *x: jnp.ones((6, 3))
    )


def test_messages_between_others_pass_a_party_by():
    topology = jsplit.multihop(
        {"one": top(), "two": top(), "three": top(), "four": top()},
        loss=entropy,
        fields=["x"],
    )
    found = views(topology, {"x": X, "label": LABEL})
    first, second, third = (n.name for n in topology.segments[:3])
    by_set = {t.parties: t for t in found.together}
    assert by_set["one", "two"].between_others == (third, f"d{third}")
    assert by_set["one", "four"].between_others == (second, f"d{second}")
    assert by_set["two", "three"].between_others == ()
    assert by_set["two", "three"].reach == ("x", "label")
    assert len(by_set) == 2**4 - 2


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (x + 1e30) - 1e30,
        lambda x: x * jnp.float32(1e-45),
        lambda x: (x * 1e-30) * 1e-20,
        lambda x: (x * 1e30) * 1e20,
        lambda x: jnp.tanh(1e6 * x),
        lambda x: jax.nn.sigmoid(50 * x),
        lambda x: jnp.exp(1e-9 * x),
        lambda x: jnp.where(x > 0, x, x * jnp.float32(1e-45)),
        lambda x: x @ (1e-30 * jnp.eye(6)) @ (1e-20 * jnp.eye(6)),
        lambda x: jnp.concatenate([x[:, :3] + 1e30, x[:, 3:]], -1) @ HADAMARD - 1e30,
        lambda x: (x[:, ::-1] * 1e30 + x) - x[:, ::-1] * 1e30,
        lambda x: (x.astype("bfloat16") + 1000) - 1000,
    ],
)
def test_what_floats_do_not_bear_is_not_claimed(function):
    x = jnp.linspace(-0.9, 0.9, BATCH * SIZE).reshape(BATCH, SIZE)
    # Operation by operation: a compiler may take 1e30 off what it was added to, unseen.
    made = np.asarray(function(x), "float32")
    assert len(np.unique(made)) < x.size * 0.8 or not np.isfinite(made).all()
    assert proofs(jsplit.segment(function)) == []


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (x - 0.5) / 0.25,
        lambda x: x * 255,
        lambda x: jnp.tanh((x - 0.485) / 0.225),
        lambda x: (x * 1000 - 500) * 1e-6,
        lambda x: x / jnp.array([1e-3, 1, 1e3, 1, 1, 1]) + 1,
    ],
)
def test_what_floats_bear_is_still_found(function):
    assert proofs(jsplit.segment(function)) == ["is `x`"]
