"""What is guaranteed of whom against whom; and "none" wherever a condition is not met."""

from __future__ import annotations

import json
from dataclasses import replace
from math import erf, inf, sqrt

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jsplit
from jsplit.party.contract.record_order import places_of
from jsplit.privacy import (
    Mechanism,
    Statement,
    composed_mu,
    counted_epsilon,
    gaussian_epsilon,
    guarantee,
    private,
    response_epsilon,
    response_mechanism,
    sampled_epsilon,
)
from jsplit.privacy.guarantees.rows import mixing
from jsplit.training.left_out import fill

OUTSIDE = "whoever gets the trained parameters"
GRID = 2.0**-12
NOISE = Mechanism("gaussian", clip=1.0, scale=20.0, secret=True, grid=GRID)
RUN = {"steps": 40, "batch": 10, "records": 100}
RNG = np.random.default_rng(0)
FIELDS = {
    "x": RNG.normal(size=(6, 3)).astype("float32"),
    "label": np.arange(6).astype("float32"),
}

dense = jsplit.segment(
    lambda w, x: jnp.tanh(x @ w),
    init=lambda key, x: jax.random.normal(key, (x.shape[-1],) * 2),
)


def squares(y, label):
    return ((y.sum(-1) - label) ** 2) / 2


def normalised(w, x):
    return (x - x.mean(0)) @ w


def link(mechanism, secret=True, **more):
    """A link that declares what it does; here nothing is sent over it."""
    return jsplit.stateless(
        lambda value, key, *own: value,
        lambda payload, like: payload,
        mechanism=mechanism,
        secret=secret,
        **more,
    )


def vanilla(bottom=dense, loss=squares):
    return jsplit.vanilla(bottom, dense, loss=loss)


def u_shaped():
    return jsplit.u_shaped(dense, dense, dense, loss=squares)


def epsilon(said):
    assert said.epsilon is not None
    return said.epsilon


def frozen_and_noised():
    return {"links": {"smashed": link(NOISE)}, "bottoms": "frozen"}


def about(topology, *, against="server", of="client", what="features", **more):
    given = frozen_and_noised() | RUN | more
    fields = given.pop("fields", FIELDS)
    return guarantee(topology, fields, **given).of(of, against, what)


def test_noise_on_activations_of_a_frozen_bottom_is_composed_over_its_crossings():
    said = about(vanilla())
    mu = 2 * sqrt(4) / 20
    assert said.holds and said.mu == pytest.approx(mu)
    assert said.epsilon == pytest.approx(gaussian_epsilon(1e-5, mu))
    assert dict(said.times) == {"activation smashed to server": 4}
    # What is sent in inference counts too.
    more = about(vanilla(), answers=5)
    assert more.mu == pytest.approx(2 * sqrt(9) / 20)
    # The server's part is trained on what was noised already.
    assert about(vanilla(), against=OUTSIDE).epsilon == pytest.approx(said.epsilon)


def test_what_a_link_behind_the_noise_does_takes_nothing_back():
    rounded = jsplit.chain(link(NOISE), jsplit.compress.quantize(8))
    assert about(vanilla(), links={"smashed": rounded}).mu == pytest.approx(0.2)


def test_a_segment_without_parameters_needs_no_promise():
    fixed = jsplit.segment(lambda x: x[:, ::-1] * 2)
    said = about(vanilla(fixed), bottoms="trained")
    assert said.holds and not any("stay as they are" in a for a in said.assumptions)


def test_epsilon_grows_with_steps_and_falls_with_noise():
    over = [epsilon(about(vanilla(), steps=t)) for t in (10, 40, 160)]
    assert over == sorted(over) and over[0] < over[-1]
    noises = [
        Mechanism("gaussian", 1.0, s, secret=True, grid=GRID) for s in (5, 20, 80)
    ]
    of = [epsilon(about(vanilla(), links={"smashed": link(n)})) for n in noises]
    assert of == sorted(of, reverse=True) and of[0] > of[-1]


def test_the_links_of_jsplit_declare_what_holds():
    """Both are on a grid, without which the last bits of noise give values away."""
    made = {"smashed": jsplit.privacy.gaussian(clip=1.0, scale=20.0)}
    assert epsilon(about(vanilla(), links=made)) == epsilon(about(vanilla()))
    pure = about(vanilla(), links={"smashed": jsplit.privacy.laplace(1.0, 20.0)})
    assert (pure.epsilon, pure.delta) == (pytest.approx(4 * 2 / 20), 0)
    bare = replace(jsplit.privacy.laplace(1.0, 20.0).mechanism, grid=0.0)
    for noise, why in (
        (link(bare), "Mironov"),
        (jsplit.privacy.gaussian(clip=1.0, scale=0.0), "no noise"),
    ):
        said = about(vanilla(), links={"smashed": noise})
        assert said.epsilon is None and any(why in w for w in said.why), said.why


def test_a_strength_that_nothing_has_is_refused_and_the_least_counts():
    noise = jsplit.privacy.gaussian(1.0, jsplit.Strength("noise", 20.0))
    made = {"smashed": noise}
    least = about(vanilla(), links=made, strengths={"noise": 5.0})
    assert epsilon(least) > epsilon(about(vanilla(), links=made))
    assert any("give the least by `strengths`" in x for x in least.assumptions)
    for given, said in (
        ({"nois": 5.0}, "names `nois`, .* there are gaussian_scale, noise"),
        ({"noise": [5.0, 20.0]}, "`noise` must be one number, the least"),
    ):
        with pytest.raises(ValueError, match=said):
            about(vanilla(), links=made, strengths=given)
    with pytest.raises(ValueError, match="`topology` must be a Topology"):
        guarantee(jsplit.fused(vanilla(), optax.sgd(0.1)), FIELDS, **RUN)
    with pytest.raises(ValueError, match="`scale` must be at most 100"):
        jsplit.privacy.gaussian(1.0, jsplit.Strength("noise", 200.0))


def test_a_link_with_a_memory_guarantees_nothing_of_a_record_alone():
    """It may send what earlier records were, beside the noise that it declares."""
    told = link(NOISE)._replace(init=lambda like: jnp.zeros(like.shape))
    said = about(vanilla(), links={"smashed": told})
    assert said.epsilon is None and any("keeps a memory" in w for w in said.why)


def test_a_field_that_only_a_link_reads_is_spoken_of():
    topology = jsplit.Topology(
        vanilla().nodes, {"client": ["x", "hiv"], "server": ["label"]}
    )
    fields = FIELDS | {"hiv": FIELDS["label"]}
    made = {"smashed": (link(NOISE, reads=("hiv",)), None)}
    said = about(topology, fields=fields, links=made)
    assert "hiv" in said.fields and said.epsilon is None
    assert any("whose link reads `hiv`" in w for w in said.why)


def test_a_short_batch_that_is_filled_up_sends_a_record_more_than_once():
    """Of 104 records in tens the last four fill ten rows: a record stands in up to three."""
    said = about(vanilla(), records=104, epochs=4, steps=44)
    assert dict(said.times) == {"activation smashed to server": 4 * 3}
    people = jsplit.population.iid(104, 1)
    drawn = people.round({"x": np.zeros(104)}, 0, batch=10, epochs=4)
    assert 4 < np.bincount(drawn.reads.ravel()).max() <= 4 * 3
    # A trainer that is given weights fills up with what counts.
    rows = fill(np.arange(10) < 4, {"row": np.arange(10)})["row"]
    assert np.bincount(rows).max() == 3


def test_left_over_records_are_counted_as_they_are_read_and_by_default_at_worst():
    """450 records in batches of 32 leave 2 over, which are repeated, or read by no step."""
    run = {"steps": 42, "batch": 32, "records": 450}
    times = {}
    for short in ("either", "filled", "dropped"):
        said = about(vanilla(), **run, short=short)
        times[short] = dict(said.times)["activation smashed to server"]
        assert any('`short="dropped"`' in n for n in said.notes) == (short != "dropped")
    assert times == {"either": 3 * 16, "filled": 3 * 16, "dropped": 3}
    assert any("3 x 16 times" in n for n in about(vanilla(), **run).notes)
    # Of 31 records in sixteens a pass of one step is as often as three steps allow.
    run = {"steps": 3, "batch": 16, "records": 31}
    most = np.bincount(np.ravel([places_of(s, 31, 16, 0) for s in range(3)])).max()
    assert most == 3
    private = {"links": None, "bottoms": "trained", "against": OUTSIDE}
    private |= {"dp_sgd": {("smashed", "output"): NOISE}}
    uses = {"either": 3, "dropped": 3, "filled": 2}
    for short, n in uses.items():
        said = about(vanilla(), **run, **private, short=short)
        assert said.mu == pytest.approx(2 * sqrt(n) / 20), short
    # Coins leave nothing over.
    assert not about(vanilla(), records=104, sampling="poisson").holds


def test_a_weak_epsilon_and_a_large_delta_are_said_to_be():
    loud = link(Mechanism("gaussian", 1.0, 0.5, secret=True, grid=GRID))
    assert any("weak" in n for n in about(vanilla(), links={"smashed": loud}).notes)
    assert any("1 / records" in n for n in about(vanilla(), delta=0.02).notes)
    assert not about(vanilla()).notes


KINDS = ("marvell", "max norm", "isotropic", "nopeek", "quantize", "top k")
WRONG = {
    "public noise": (
        {"links": {"smashed": link(Mechanism("gaussian", 1.0, 20.0))}},
        "noise of a key that others have",
    ),
    "a link that is not secret": (
        {"links": {"smashed": link(NOISE, secret=False)}},
        "noise of a key that others have",
    ),
    "no noise": (
        {"links": {"smashed": link(Mechanism("gaussian", secret=True))}},
        "has no noise",
    ),
    "noise of floating numbers": (
        {"links": {"smashed": link(replace(NOISE, grid=0.0))}},
        "low bits",
    ),
    "a grid that is no power of two": (
        {"links": {"smashed": link(replace(NOISE, grid=0.3))}},
        "no power of two",
    ),
    "a grid of subnormal numbers": (
        {"links": {"smashed": link(replace(NOISE, clip=2.0**-120))}},
        "no power of two",
    ),
    "a grid too fine for its noise": (
        {"links": {"smashed": link(replace(NOISE, grid=2.0**-18))}},
        "too fine",
    ),
    "a clip of the batch": (
        {"links": {"smashed": link(Mechanism("gaussian", 1, 9, "batch", secret=True))}},
        "clipped over the batch",
    ),
    "a bottom trained without noise": (
        {"bottoms": "trained"},
        "`smashed` is trained on it without noise",
    ),
    "no link": ({"links": None}, "without a mechanism"),
    "noise behind another link": (
        {
            "links": {
                "smashed": jsplit.chain(jsplit.compress.cast("float16"), link(NOISE))
            }
        },
        "without a mechanism",
    ),
    "a link that reads the raw field": (
        {"links": {"smashed": (link(NOISE, reads=("x",)), jsplit.identity)}},
        "whose link reads `x`",
    ),
    "not tried": ({"fields": None}, "give `fields`"),
    "coins that send fillers": ({"sampling": "poisson"}, "has no bound"),
    "DP-SGD of the bottom alone": (
        {"links": None, "bottoms": "private", "dp_sgd": {"smashed": NOISE}},
        "without a mechanism",
    ),
    **{
        kind: (
            {"links": {"smashed": link(Mechanism(kind, 1.0, 9.0, secret=True))}},
            "no differential privacy",
        )
        for kind in KINDS
    },
}


@pytest.mark.parametrize("case", WRONG)
def test_where_a_condition_is_not_met_there_is_no_guarantee(case):
    change, why = WRONG[case]
    said = about(vanilla(), **change)
    assert not said.holds and said.epsilon is None
    assert any(why in w for w in said.why), said.why
    assert "none" in str(said)


def test_a_segment_that_mixes_records_undoes_noise_on_rows():
    """Batch means in the bottom: the rows of others depend on a record, without its noise."""
    mixes = jsplit.segment(normalised, init=lambda key, x: jnp.eye(x.shape[-1]))
    said = about(vanilla(mixes))
    assert said.why == ("`smashed` mixes the records of a batch",)
    # Behind the noise it does no harm.
    assert about(jsplit.vanilla(dense, mixes, loss=squares)).holds
    # Nor are gradients of one record each clipped, where there are none.
    dp = {"bottoms": "trained", "dp_sgd": {("smashed", "output"): NOISE}}
    said = about(vanilla(mixes), against=OUTSIDE, links=None, **dp)
    assert "`smashed` mixes the records of a batch" in said.why
    # Labels come to it by cotangents.
    of = {"of": "server", "what": "labels", "against": OUTSIDE, "links": None}
    assert not about(vanilla(mixes), **of, **dp).holds
    assert about(vanilla(), **of, **dp).holds
    assert about(vanilla(), against=OUTSIDE, links=None, **dp).holds
    assert not about(vanilla(), against=OUTSIDE, links=None, fields=None, **dp).holds


class Net(nnx.Module):
    """A convolution, a normalisation or dropout, and a dense head behind the cut."""

    def __init__(self, between, rngs):
        self.conv = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.between, self.head = between(rngs), nnx.Linear(64, 2, rngs=rngs)

    def __call__(self, image):
        h = nnx.max_pool(nnx.relu(self.between(self.conv(image))), (2, 2), (2, 2))
        return self.head(jsplit.cut(h, "smashed").reshape(len(image), -1))


@pytest.mark.parametrize(
    ("between", "mixes"),
    [
        (lambda rngs: nnx.BatchNorm(4, rngs=rngs), {"smashed"}),
        (lambda rngs: nnx.LayerNorm(4, rngs=rngs), set()),
        (lambda rngs: nnx.Dropout(0.5, rngs=rngs), set()),
    ],
)
def test_of_real_layers_batch_norm_alone_mixes_records(between, mixes):
    image = RNG.normal(size=(16, 8, 8, 1)).astype("float32")
    parts = jsplit.split(Net(between, nnx.Rngs(0)), image)
    loss = optax.softmax_cross_entropy_with_integer_labels
    topology = jsplit.vanilla(*parts.values(), loss=loss)
    fields = {"image": image, "label": np.arange(16) % 2}
    assert {*mixing(topology, fields)} == mixes
    # A correlation over the batch does, whatever the layers are.
    nopeek = jsplit.Penalty(
        "nopeek", lambda h: jnp.var(h, 0).mean(), "client", "smashed"
    )
    assert {*mixing(topology.add(nopeek), fields)} == mixes | {"nopeek"}


def test_batch_statistics_that_inference_reads_are_found_too():
    def init(key, x):
        return {}, {"mean": jnp.zeros(x.shape[1:])}

    def apply(params, state, key, x, train=True):
        return x - state["mean"], {"mean": x.mean(0)} if train else state

    said = about(vanilla(jsplit.Segment(init, apply, ("x",))))
    assert said.why == ("`smashed` mixes the records of a batch",)
    # They are handed on with the parameters.
    counted = jsplit.Segment(init, apply, ("x",), trainable=False)
    outside = about(vanilla(counted), against=OUTSIDE, bottoms={"output": "frozen"})
    assert not outside.holds


def test_two_crossings_of_which_one_is_bare_guarantee_nothing():
    nodes = [
        jsplit.Node("a", dense, "client", ["x"]),
        jsplit.Node("b", dense, "client", ["x"]),
        jsplit.Node("y", jsplit.segment(lambda a, b: a + b), "server", ["a", "b"]),
        jsplit.Loss("loss", squares, "server", ["y", "label"]),
    ]
    topology = jsplit.Topology(nodes, {"client": ["x"], "server": ["label"]})
    bare = about(topology, links={"a": link(NOISE)})
    assert bare.why == ("`b` goes from client to server without a mechanism",)
    both = about(topology, links={"a": link(NOISE), "b": link(NOISE)})
    assert both.mu == pytest.approx(composed_mu([2 * sqrt(4) / 20] * 2))


def test_features_may_be_safe_where_labels_are_not():
    """Noise on activations hides the client's features; the server's labels come back bare."""
    kept = {"links": {"smashed": (link(NOISE), jsplit.identity)}}
    trained = {"bottoms": {"smashed": "private"}, "dp_sgd": {"smashed": NOISE}}
    features = about(vanilla(), **kept, **trained)
    # The activations, and what the bottom learns, which shows in later ones.
    assert features.mu == pytest.approx(composed_mu([2 * sqrt(4) / 20] * 2))
    labels = about(
        vanilla(), of="server", against="client", what="labels", **kept, **trained
    )
    assert any("cotangent of `smashed` goes from server" in w for w in labels.why)
    # With a frozen bottom nothing needs to come back, but jsplit sends it all the same.
    frozen = about(vanilla(), of="server", against="client", what="labels", **kept)
    assert not frozen.holds


def test_noise_on_cotangents_does_not_hide_labels_that_the_top_is_trained_on():
    asked = {"of": "server", "against": "client", "what": "labels"}
    bare = about(vanilla(), **asked)
    assert bare.why == ("`output` is trained on it without noise",)
    held = about(vanilla(), **asked, bottoms={"smashed": "frozen", "output": "frozen"})
    assert held.mu == pytest.approx(2 * sqrt(4) / 20)
    assert "labels are replaced" in held.adjacency


@pytest.mark.parametrize("make", [vanilla, u_shaped])
def test_labels_that_were_answered_at_random_once_are_safe_from_all(make):
    topology = make()
    owner = next(p for p, held in topology.holds.items() if "label" in held)
    answer = Mechanism("response", keep=0.9, classes=2, secret=True)
    run = RUN | {"links": None}
    said = guarantee(topology, FIELDS, labels={"label": answer}, **run)
    once = [s for s in said.statements if s.about == "labels"]
    assert {s.against for s in once} == {*topology.parties, OUTSIDE} - {owner}
    for s in once:
        assert s.epsilon == pytest.approx(response_epsilon(0.9, 2)) and s.delta == 0
    # Without the batch as well: nothing bare is left that could be mixed.
    without = guarantee(topology, labels={"label": answer}, **run)
    assert without.of(owner, OUTSIDE, "labels").holds
    anew = Mechanism("response", keep=0.9, classes=2, secret=True, per="step")
    said = guarantee(topology, FIELDS, labels={"label": anew}, **run)
    each = said.of(owner, OUTSIDE, "labels")
    assert each.epsilon == pytest.approx(4 * response_epsilon(0.9, 2))
    public = Mechanism("response", keep=0.9, classes=2)
    said = guarantee(topology, FIELDS, labels={"label": public}, **run)
    assert not said.of(owner, OUTSIDE, "labels").holds


def test_a_party_behind_the_server_sees_what_the_server_was_sent_and_no_more():
    """Two clients with half the columns each: what one gets back is computed of noise."""
    nodes = [
        jsplit.Node("a", dense, "one", ["left"]),
        jsplit.Node("b", dense, "two", ["right"]),
        jsplit.Node("y", jsplit.segment(lambda a, b: a + b), "server", ["a", "b"]),
        jsplit.Loss("loss", squares, "server", ["y", "label"]),
    ]
    holds = {"one": ["left"], "two": ["right"], "server": ["label"]}
    topology = jsplit.Topology(nodes, holds)
    fields = {"left": FIELDS["x"], "right": FIELDS["x"], "label": FIELDS["label"]}
    given = RUN | {"links": {"a": link(NOISE)}, "bottoms": {"a": "frozen"}}
    said = guarantee(topology, fields, together=[("two", "server")], **given)
    mu = 2 * sqrt(4) / 20
    for other in ("server", "two", "two + server"):
        assert said.of("one", other).mu == pytest.approx(mu)
    # The other client trains without noise, and its activations are bare.
    assert not said.of("two", "server").holds and not said.of("two", "one").holds


def test_parties_that_got_one_value_each_have_seen_two_draws_together():
    nodes = [
        jsplit.Node("h", dense, "client", ["x"]),
        jsplit.Node("a", dense, "one", ["h"]),
        jsplit.Node("b", dense, "two", ["h"]),
        jsplit.Loss("first", squares, "one", ["a", "label"]),
        jsplit.Loss("second", squares, "two", ["b", "truth"]),
    ]
    holds = {"client": ["x"], "one": ["label"], "two": ["truth"]}
    topology = jsplit.Topology(nodes, holds)
    fields = FIELDS | {"truth": FIELDS["label"]}
    given = RUN | {"links": {"h": link(NOISE)}, "bottoms": {"h": "frozen"}}
    said = guarantee(topology, fields, together=[("one", "two")], **given)
    mu = 2 * sqrt(4) / 20
    assert said.of("client", "one").mu == pytest.approx(mu)
    assert said.of("client", "one + two").mu == pytest.approx(mu * sqrt(2))


def test_who_holds_the_field_himself_is_told_so():
    topology = jsplit.Topology(
        vanilla().nodes, {"client": ["x"], "server": ["x", "label"]}
    )
    assert about(topology).why == ("server holds `x` itself",)


def test_nothing_that_gets_there_is_epsilon_0():
    fixed = jsplit.segment(lambda x: x * 2)
    nodes = [
        jsplit.Node("a", fixed, "client", ["x"]),
        jsplit.Loss("own", lambda a: a.sum(-1), "client", ["a"]),
        jsplit.Node("b", dense, "server", ["z"]),
        jsplit.Loss("loss", squares, "server", ["b", "label"]),
    ]
    topology = jsplit.Topology(nodes, {"client": ["x"], "server": ["z", "label"]})
    fields = FIELDS | {"z": FIELDS["x"]}
    said = about(topology, fields=fields, links=None, bottoms="trained")
    assert said.epsilon == 0 and "nothing" in said.formula


def test_names_may_have_dots_as_paths_of_submodules_have():
    nodes = [
        jsplit.Node("stem.state", dense, "client", ["x"]),
        jsplit.Node("head.params", dense, "server", ["stem.state"]),
        jsplit.Loss("loss", squares, "server", ["head.params", "label"], per=10.0),
    ]
    topology = jsplit.Topology(nodes, {"client": ["x"], "server": ["label"]})
    said = about(topology, links={"stem.state": link(NOISE)})
    assert said.mu == pytest.approx(0.2)
    labels = about(
        topology,
        links={"stem.state": link(NOISE)},
        of="server",
        what="labels",
        against="client",
    )
    assert "`head.params` is trained on it without noise" in labels.why


def test_a_penalty_that_reads_records_is_no_part_of_a_clipped_pullback():
    leaky = jsplit.Penalty(
        "fit", lambda w, x: (x @ w).sum(-1), "client", ["smashed.params", "x"]
    )
    given = {"bottoms": {"smashed": "private"}, "dp_sgd": {"smashed": NOISE}}
    assert about(vanilla(), **given).holds
    said = about(vanilla().add(leaky), **given)
    assert said.why == ("`smashed` is trained on it without noise",)


def test_dp_sgd_guarantees_only_if_every_part_has_it():
    given = {"links": None, "bottoms": "trained", "against": OUTSIDE}
    both = about(vanilla(), dp_sgd={("smashed", "output"): NOISE}, **given)
    assert both.mu == pytest.approx(2 * sqrt(4) / 20)
    apart = about(vanilla(), dp_sgd={"smashed": NOISE, "output": NOISE}, **given)
    assert apart.mu == pytest.approx(2 * sqrt(4) / 20 * sqrt(2))
    # Parts clipped to C / sqrt(2), with the noise of one norm C, cost what that does.
    wider = replace(
        NOISE, clip=1 / sqrt(2), scale=20 * sqrt(2), grid=NOISE.grid * sqrt(2)
    )
    parts = about(vanilla(), dp_sgd={"smashed": wider, "output": wider}, **given)
    assert parts.mu == pytest.approx(both.mu)
    one = about(vanilla(), dp_sgd={"smashed": NOISE}, **given)
    assert any("`output` is trained on it without noise" in w for w in one.why)
    public = Mechanism("gaussian", scale=20.0)
    said = about(vanilla(), dp_sgd={("smashed", "output"): public}, **given)
    assert any("noise of a key that others have" in w for w in said.why)
    # The server that trains with the client has seen the activations all along.
    server = about(
        vanilla(),
        dp_sgd={("smashed", "output"): NOISE},
        links=None,
        bottoms="trained",
    )
    assert not server.holds and any("hides nothing" in n for n in server.notes)


def constant(topology):
    """The same topology, whose losses divide by a constant."""
    losses = tuple(replace(loss, per=10.0) for loss in topology.losses)
    return replace(topology, nodes=(*topology.segments, *losses))


def test_coins_amplify_only_poisson_batches_unseen_and_divided_by_a_constant():
    noise = Mechanism("gaussian", scale=2.0, secret=True, grid=GRID)
    given = {
        "links": None,
        "bottoms": "trained",
        "against": OUTSIDE,
        "dp_sgd": {("smashed", "output"): noise},
        "accountant": "rdp",
    }
    topology = constant(vanilla())
    unseen = about(topology, sampling="poisson", amplified=True, **given)
    rdp = sampled_epsilon(2.0, 0.1, 40, 1e-5, accountant="rdp")
    assert unseen.epsilon == pytest.approx(rdp)
    assert "there or not" in unseen.adjacency
    decay = jsplit.Penalty("decay", jnp.sum, "client", "smashed.params")
    decayed = about(topology.add(decay), sampling="poisson", amplified=True, **given)
    assert decayed.epsilon == pytest.approx(rdp)
    assert any("neither the seed" in a for a in unseen.assumptions)
    seen = about(topology, sampling="poisson", **given)
    assert seen.epsilon == pytest.approx(counted_epsilon(1.0, 0.1, 40, 1e-5))
    for sampling in ("shuffled", "fixed"):
        said = about(topology, sampling=sampling, amplified=True, **given)
        assert "no proof for shuffled" in said.why[0]
        assert about(topology, sampling=sampling, **given).mu == pytest.approx(2.0)
    said = about(vanilla(), sampling="poisson", amplified=True, **given)
    assert "give `Loss(per=...)`" in said.why[0]


def test_laplace_noise_adds_up_and_needs_no_delta():
    noise = link(Mechanism("laplace", scale=8.0, secret=True, grid=GRID))
    said = about(vanilla(), links={"smashed": noise})
    assert said.epsilon == pytest.approx(4 * 2 / 8) and said.delta == 0


def test_a_scale_may_be_a_strength_that_is_set_later():
    noise = Mechanism("gaussian", scale="noise", secret=True, grid=GRID)
    given = {"links": {"smashed": link(noise, strengths={"noise": 20.0})}}
    assert about(vanilla(), **given).mu == pytest.approx(0.2)
    assert about(vanilla(), **given, strengths={"noise": 10.0}).mu == pytest.approx(0.4)
    given = {"links": None, "bottoms": "trained", "against": OUTSIDE}
    given |= {"dp_sgd": {("smashed", "output"): noise}}
    assert about(vanilla(), **given, strengths={"noise": 10.0}).mu == pytest.approx(0.4)
    with pytest.raises(ValueError, match="`strengths` has no `noise`"):
        about(vanilla(), **given)


@pytest.mark.parametrize("kind", ["gaussian", "laplace", "dp_sgd"])
def test_every_statement_with_noise_says_that_a_number_that_is_not_finite_has_none(
    kind,
):
    if kind == "dp_sgd":
        given = {"links": None, "bottoms": "trained", "against": OUTSIDE}
        given |= {"dp_sgd": {("smashed", "output"): NOISE}}
    else:
        given = {"links": {"smashed": link(replace(NOISE, kind=kind))}}
    said = about(vanilla(), **given)
    assert said.holds and any("is hidden by no noise" in a for a in said.assumptions)


@pytest.mark.parametrize("by", ["told", "noise", jsplit.Strength("noise", 20.0)])
def test_a_scale_may_be_a_strength_by_what_it_is_called_or_set_by(by):
    told = {"told": jsplit.Strength("noise", 20.0)}
    links = {"smashed": (link(replace(NOISE, scale=by), strengths=told), None)}
    assert about(vanilla(), links=links).mu == pytest.approx(0.2)
    half = about(vanilla(), links=links, strengths={"noise": 10.0})
    assert half.mu == pytest.approx(0.4)
    none = about(vanilla(), links=links, strengths={"noise": 0.0})
    assert any("has no noise" in w for w in none.why)
    for wrong in (-1.0, inf, float("nan")):
        with pytest.raises(ValueError, match="`scale` must be at least 0 and finite"):
            about(vanilla(), links=links, strengths={"noise": wrong})


def test_the_odds_that_are_printed_are_those_of_the_best_guess():
    """Of an answer kept with probability 0.9 it is 0.9; of normal noise Phi(mu / 2) at most."""

    def printed(epsilon, delta):
        said = Statement("lab", "labels", ("y",), "server", epsilon, delta)
        return float(str(said).split("at most ")[1].split(" %")[0])

    assert printed(response_epsilon(0.9, 2), 0.0) == pytest.approx(90.0, abs=0.11)
    assert printed(0.0, 0.0) == 50 and printed(800.0, 1e-5) == 100
    assert printed(0.0, 0.1) == 55
    for mu in (0.1, 1.0, 3.0):
        best = 50 * (1 + erf(mu / 2 / sqrt(2)))
        for delta in (1e-5, 0.05):
            assert printed(gaussian_epsilon(delta, mu), delta) >= best


def test_what_is_printed_has_all_that_it_depends_on():
    said = about(vanilla())
    text = str(said)
    for word in ("epsilon", "delta 1e-05", "mu 0.2000", "neighbours", "arXiv", "if:"):
        assert word in text
    for condition in said.assumptions:
        assert condition == condition.strip() and f"if: {condition}" in text
    for what in ("that nobody else has", "each step number sends once", "multiples"):
        assert any(what in a for a in said.assumptions)
    assert text.count("a guess of which of the two it was is right in at most") == 1
    # Of several statements each condition is printed once, by its number.
    whole = str(guarantee(vanilla(), FIELDS, **RUN, **frozen_and_noised()))
    for condition in said.assumptions:
        assert whole.count(condition) == 1
    assert "if: 1, 2, 3" in whole
    shown = float(text.split("epsilon ")[1].split()[0])
    assert epsilon(said) <= shown < epsilon(said) + 1e-4
    rows = json.loads(guarantee(vanilla(), FIELDS, **RUN).json())
    assert [r["against"] for r in rows] == ["server", OUTSIDE, "client", OUTSIDE]
    assert all(r["epsilon"] is None and r["why"] for r in rows)
    assert inf not in [r["epsilon"] for r in rows]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "`steps` must be a positive integer, got 0"),
        ({"batch": 101}, "`batch` is 101, but there are only 100 `records`"),
        ({"sampling": "coins"}, '`sampling` must be "shuffled", "fixed" or "poisson"'),
        (
            {"epochs": 3},
            "`epochs` is 3, but 40 steps of 10 of 100 records are at least 4",
        ),
        ({"answers": -1}, "`answers` must be a positive integer"),
        ({"short": "x"}, '`short` must be "either", "filled" or "dropped"'),
        ({"accountant": "x"}, '`accountant` must be "pld" or "rdp"'),
        ({"delta": 0.0}, r"`delta` must lie in \(0, 1\)"),
        ({"bottoms": "cold"}, '`bottoms` must be "trained"'),
        ({"bottoms": {"z": "frozen"}}, "`bottoms` names `z`, which is no node"),
        ({"bottoms": "private"}, "`smashed` is not in `dp_sgd`"),
        ({"dp_sgd": {"smashed": NOISE}}, '"frozen", but `smashed` is in `dp_sgd`'),
        ({"dp_sgd": {"z": NOISE}}, "`dp_sgd` names `z`, which is no node"),
        ({"dp_sgd": {"output": Mechanism("laplace")}}, 'of the kind "gaussian"'),
        ({"labels": {"z": NOISE}}, "`labels` names `z`, which is no field"),
        ({"labels": {"label": 3}}, "`labels` of `label` must be a Mechanism, got 3"),
        ({"together": [("z",)]}, "`together` names `z`, which is no party"),
        ({"links": {"z": link(NOISE)}}, "`links` names `z`, which does not cross"),
        ({"fields": {"x": FIELDS["x"]}}, "`fields` lacks `label`, which `loss` reads"),
        (
            {"fields": {f: x[:1] for f, x in FIELDS.items()}},
            "`fields` must have at least 2 records, got 1",
        ),
        (
            {"fields": FIELDS | {"x": np.ones((6, 3), "float32")}},
            "records must differ in `x`",
        ),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        about(vanilla(), **change)


def test_records_sorted_by_their_label_are_a_batch_like_any_other():
    sorted_by = {"x": np.linspace(-1, 1, 36, dtype="float32").reshape(12, 3)}
    sorted_by["label"] = np.repeat(np.arange(2, dtype="float32"), [10, 2])
    assert str(about(vanilla(), fields=sorted_by)) == str(about(vanilla()))


def test_a_record_with_several_labels_has_as_many_answers():
    tokens = FIELDS | {"label": np.arange(18).reshape(6, 3) % 5}
    loss = lambda y, label: squares(y, label.sum(1))  # noqa: E731
    said = {"label": response_mechanism(5, 0.5)}
    given = {"what": "labels", "of": "server", "against": "client", "labels": said}
    one = about(vanilla(), **given)
    assert one.epsilon == pytest.approx(0.5) and one.times == (("field label", 1),)
    many = about(vanilla(loss=loss), fields=tokens, **given)
    assert many.epsilon == pytest.approx(1.5) and many.times == (("field label", 3),)
    # Without shapes it is assumed, and said.
    unseen = about(vanilla(), fields=None, **given)
    assert any("one label in `label`" in a for a in unseen.assumptions)
    assert not any("one label in" in a for a in one.assumptions)


def test_what_is_said_of_dp_sgd_is_what_private_segments_do():
    """Two parts that are each clipped to C are longer together, by the root of 2."""
    made = private(dense, clip=1.0, scale=20.0, per=10.0)
    topology, noise = jsplit.vanilla(made, made, loss=squares), made.noise
    assert noise and isinstance(noise.mechanism, Mechanism)
    own = noise.mechanism
    given = {"links": None, "bottoms": "trained", "against": OUTSIDE}
    with pytest.raises(ValueError, match="clips `smashed` by itself"):
        about(topology, dp_sgd={("smashed", "output"): own}, **given)
    for wrong in ({"scale": 30.0}, {"clip": 0.5}):
        declared = {"smashed": replace(own, **wrong), "output": own}
        with pytest.raises(ValueError, match="must be what its segment does"):
            about(topology, dp_sgd=declared, **given)
    apart = {"smashed": own, "output": own}
    said = about(topology, dp_sgd=apart, **given)
    assert said.mu == pytest.approx(2 * sqrt(4) / 20 * sqrt(2))
    # Of segments that add no noise it is the user's word, and is said to be.
    yours = about(vanilla(), dp_sgd=apart, **given)
    assert any(
        "`output`, `smashed`: DP-SGD is your own" in a for a in yours.assumptions
    )
    assert not any("is your own" in a for a in said.assumptions)


def test_a_loss_that_divides_by_weights_assumes_that_they_tell_nothing():
    """A token's weight, 0 where it is padding, would change the scale of all others."""
    told = "no weights of tokens are given"
    assert any(told in a for a in about(vanilla()).assumptions)
    assert not any(told in a for a in about(constant(vanilla())).assumptions)
