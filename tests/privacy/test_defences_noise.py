"""Noise on activations and cotangents: its norm, deviation and mean are those that are stated."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit.privacy import Mechanism, gaussian, isotropic, laplace, marvell, max_norm
from jsplit.privacy.defences.noise_power import Classes, Power, least_kl, sum_kl
from tests.privacy.defended import BATCH, draws, encode, trainer
from tests.training.common import refused

RNG = np.random.default_rng(3)
H = {
    "a": RNG.normal(size=(6, 4, 2)).astype(np.float32),
    "b": RNG.normal(size=6).astype(np.float32),
}
COUNT = 4000
LABEL = np.array([0, 1, 1, 0, 0, 0, 1, 0], np.int32)
G = 1e-4 * (
    RNG.normal(size=(8, 3)) * [1, 0.5, 0.2] + np.outer(2 * LABEL - 0.7, [1, 2, 0])
).astype(np.float32)


def rows(value):
    return np.concatenate(
        [np.asarray(x).reshape(len(x), -1) for x in jax.tree.leaves(value)], axis=1
    )


@pytest.mark.parametrize(("make", "order"), [(gaussian, 2), (laplace, 1)])
@pytest.mark.parametrize("clip", [0.5, 3.0, 50.0])
def test_a_record_is_clipped_in_one_norm_over_all_its_arrays(make, order, clip):
    clipped, plain = rows(encode(make(clip, 0), H)), rows(H)
    sizes = np.linalg.norm(plain.astype(np.float64), order, axis=1)
    wanted = plain * np.minimum(1, clip / sizes)[:, None]
    np.testing.assert_allclose(clipped, wanted, rtol=1e-6)
    short = sizes <= clip
    assert (clipped[short] == plain[short]).all()


@pytest.mark.parametrize(
    ("make", "deviation"), [(gaussian, 1.0), (laplace, np.sqrt(2))]
)
def test_noise_on_activations_has_the_deviation_it_states_and_is_unbiased(
    make, deviation
):
    clip, scale = 3.0, 0.7
    clipped = rows(encode(make(clip, 0), H))
    found = draws(make(clip, scale), H, COUNT)
    noise = np.concatenate(
        [np.asarray(x).reshape(COUNT, 6, -1) for x in jax.tree.leaves(found)], axis=2
    )
    noise = (noise - clipped) / (clip * scale * deviation)
    error = 5 / np.sqrt(noise.size)
    # The fourth moment of Laplace noise is 6, of normal noise 3.
    assert abs(noise.mean()) < error and abs((noise**2).mean() - 1) < 3 * error
    assert abs((noise**4).mean() - (3 if make is gaussian else 6)) < 0.4
    assert np.abs(noise.mean(0)).max() < 5 / np.sqrt(COUNT)
    alike = np.corrcoef(noise.reshape(COUNT, -1).T) - np.eye(noise[0].size)
    assert np.abs(alike).max() < 6 / np.sqrt(COUNT)


@pytest.mark.parametrize("make, order", [(gaussian, 2), (laplace, 1)])
@pytest.mark.parametrize("clip", [1e-22, 1e25])
def test_no_vector_is_longer_than_the_clip_however_small_or_large_that_is(
    make, order, clip
):
    """In float32 the squares of what is below 1e-19 are 0, and above 1e19 infinite."""
    true = np.array([0.5, 3.0, 1e3, 1e7]) * np.linalg.norm([1, 2, 1], order)
    value = jnp.float32(clip) * jnp.array([[0.5, 1.0, -0.5]])
    value = value * jnp.array([1.0, 6.0, 2e3, 2e7])[:, None]
    sent = np.asarray(encode(make(clip, 0.0), value), float) / clip
    found = np.linalg.norm(sent, order, axis=1)
    np.testing.assert_allclose(found, np.minimum(true, 1), rtol=1e-5)


def test_a_link_declares_what_it_does_by_the_name_its_sender_knows():
    number, named = gaussian(2.0, 0.5), laplace(2, jsplit.Strength("mine", 0.5))
    on_grid = Mechanism("gaussian", 2.0, 0.5, secret=True, grid=2.0**-10)
    assert number.mechanism == on_grid
    assert named.mechanism == replace(on_grid, kind="laplace", scale="mine")
    state = trainer(jsplit.fused, {"h": (named, None)}).init(0, BATCH)
    assert isinstance(named.mechanism, Mechanism)
    assert named.mechanism.at(state.parties["client"].strengths).scale == 0.5
    for link in (marvell(1), max_norm(), isotropic(1)):
        declared = link.mechanism
        assert link.secret and isinstance(declared, Mechanism)
        assert not declared.private and declared.fault()


def test_what_noise_cannot_protect_is_refused():
    whole = {"h": np.ones((4, 2), np.float32), "mask": np.ones((4, 2), np.int32)}
    for link in (gaussian(1, 1), laplace(1, 1)):
        refused("is of floating arrays", lambda link=link: encode(link, whole))
        refused("the same records", lambda link=link: encode(link, jnp.float32(1)))
    for bad in (0, -1, np.inf, np.nan, True, "1"):
        refused("`clip` must be positive", lambda bad=bad: gaussian(bad, 1.0))
    refused("`scale` must be at most 80", lambda: laplace(1, 81))
    refused("at most 100", lambda: gaussian(1, jsplit.Strength("much", 101.0)))
    for bad in (-1.0, np.inf, np.nan, True, None):
        refused("`scale` must be", lambda bad=bad: gaussian(1.0, bad))
        refused("`scale` must be", lambda bad=bad: marvell(bad))
        refused("`ratio` must be", lambda bad=bad: isotropic(bad))
    refused("`label` must be", lambda: marvell(1, label=3))
    wide = np.ones((8, 2), np.float32)
    refused("needs one label a record", lambda: encode(marvell(1), G, label=wide))


def test_all_norms_are_alike_in_expectation_under_max_norm_and_unbiased():
    found = np.asarray(draws(max_norm(), G, 4 * COUNT))
    sizes = np.linalg.norm(G, axis=1)
    square = (found.astype(np.float64) ** 2).sum(-1).mean(0)
    # Along its own line, so a record's norm varies as a normal number does.
    np.testing.assert_allclose(square, np.full(8, sizes.max() ** 2), rtol=0.12)
    assert (found[:, sizes.argmax()] == G[sizes.argmax()]).all()
    bias = (found.mean(0) - G) / sizes.max()
    assert np.abs(bias).max() < 5 / np.sqrt(4 * COUNT)
    cross = found - (found @ (G / sizes[:, None]).T).diagonal(axis1=1, axis2=2)[
        ..., None
    ] * (G / sizes[:, None])
    assert np.abs(cross).max() < 1e-5 * sizes.max() * 10
    # Each is stretched by a draw of its own, but the longest, which stays as it is.
    stretched = np.delete((found * G).sum(-1) / sizes**2, sizes.argmax(), axis=1)
    alike = np.corrcoef(stretched.T) - np.eye(7)
    assert np.abs(alike).max() < 6 / np.sqrt(4 * COUNT)


@pytest.mark.parametrize("make", [max_norm, isotropic, marvell])
def test_noise_follows_cotangents_however_small_they_are(make):
    """Where squares are 0 in float32, too: a link of `unit` times a value is that of it."""
    value = jax.random.normal(jax.random.key(0), (6, 4))
    own = {"label": jnp.array([0, 1, 0, 1, 1, 0])}
    link = make(1.0)
    told = own if "label" in link.reads else {}
    plain = np.asarray(encode(link, value, **told))
    small = np.asarray(encode(link, value * 2.0**-80, **told), float)
    np.testing.assert_allclose(small * 2.0**80, plain, rtol=1e-4, atol=1e-4)
    # A small one beside large ones gets noise of their size.
    beside = np.asarray(encode(link, value.at[2].multiply(1e-25), **told), float)
    assert np.isfinite(beside).all() and np.linalg.norm(beside[2]) > 1e-2


def test_isotropic_noise_follows_the_largest_norm():
    noise = np.asarray(draws(isotropic(2.5), G, COUNT)) - G
    unit = 2.5 * np.linalg.norm(G, axis=1).max() / np.sqrt(3)
    assert abs(noise.std() / unit - 1) < 5 / np.sqrt(2 * noise.size)
    assert np.abs(noise.mean(0)).max() / unit < 5 / np.sqrt(COUNT)
    # One draw for all records would fall out of the difference of two of them.
    alike = np.corrcoef(noise.reshape(COUNT, -1).T) - np.eye(noise[0].size)
    assert np.abs(alike).max() < 6 / np.sqrt(COUNT)


CASES = [
    (0.3, 0.1, 1.0, 0.2, 8, 4.0),
    (0.1, 0.9, 1.0, 0.4, 3, 0.25),
    (0.5, 0.5, 2.0, 0.5, 5, 1.0),
    (0.01, 2.0, 0.3, 0.05, 16, 10.0),
    (0.2, 0.0, 1.0, 0.3, 4, 1.0),
    (0.4, 0.1, 1.0, 0.3, 1, 2.0),
]


def spent(power, p, d):
    q = 1 - p
    along = q * power.along_negative + p * power.along_positive
    return along + (d - 1) * (q * power.across_negative + p * power.across_positive)


@pytest.mark.parametrize("case", CASES)
def test_no_other_noise_of_that_power_hides_the_classes_better(case):
    *numbers, d, budget = case
    classes = Classes(*map(jnp.float32, numbers), d)
    p = numbers[3]
    power = least_kl(classes, jnp.float32(budget))
    assert all(x >= 0 for x in power)
    np.testing.assert_allclose(spent(power, p, d), budget, rtol=1e-4)
    best = float(sum_kl(classes, power))
    # At random over the whole budget, and near what was found.
    rng = np.random.default_rng(0)
    share = rng.dirichlet([0.5] * 4, size=20_000)
    near = np.array([*power]) * [(1 - p), (1 - p) * (d - 1), p, p * (d - 1)] / budget
    close = np.abs(near + rng.normal(size=(20_000, 4)) * rng.choice([1e-3, 0.03], 4))
    share = np.concatenate([share, close / close.sum(1, keepdims=True)])
    if d == 1:
        share = share[:, [0, 2]] / share[:, [0, 2]].sum(1, keepdims=True)
        share = np.insert(share, [1, 2], 0, axis=1)
    by = np.array([1 - p, (1 - p) * max(d - 1, 1), p, p * max(d - 1, 1)])
    others = Power(*jnp.asarray((budget * share / by).T, jnp.float32))
    assert best <= float(np.nanmin(sum_kl(classes, others))) * (1 + 1e-4) + 1e-5
    # And noise alike in all directions is worse by far more than rounding.
    same = Power(*[jnp.float32(budget / d)] * 4)
    assert best < float(sum_kl(classes, same)) or d == 1


def test_marvell_is_unbiased_has_the_power_it_states_and_more_along_the_difference():
    scale = 2.0
    noise = np.asarray(
        draws(marvell(scale), G, COUNT, label=jnp.asarray(LABEL)), np.float64
    )
    noise -= G
    difference = G[LABEL == 1].mean(0) - G[LABEL == 0].mean(0)
    gap = (difference.astype(np.float64) ** 2).sum()
    power = (noise**2).sum(-1).mean()
    assert abs(power / (scale * gap) - 1) < 0.03
    assert np.abs(noise.mean(0)).max() < 5 * np.sqrt(scale * gap / COUNT)
    along = ((noise @ difference) ** 2).mean() / gap
    assert along > 0.8 * power


def test_marvell_spends_its_power_by_how_frequent_each_class_is():
    """The narrow class, three of eight, gets all that there is, across."""
    g = np.where(LABEL[:, None] == 1, G[LABEL == 1].mean(0) + G / 100, G)
    drawn = draws(marvell(0.02), g, COUNT, label=jnp.asarray(LABEL))
    noise = np.asarray(drawn, np.float64) - g
    difference = g[LABEL == 1].mean(0) - g[LABEL == 0].mean(0)
    gap = (difference.astype(np.float64) ** 2).sum()
    assert abs((noise**2).sum(-1).mean() / (0.02 * gap) - 1) < 0.05


def test_marvell_follows_the_closed_solution_of_its_classes():
    """Each class has its own covariance, found with the statistics by hand."""
    noise = np.asarray(draws(marvell(1.0), G, COUNT, label=jnp.asarray(LABEL))) - G
    negative, positive = G[LABEL == 0] / 1e-4, G[LABEL == 1] / 1e-4
    difference = positive.mean(0) - negative.mean(0)
    gap = (difference**2).sum()
    variances = [jnp.float32(x.var(0).mean()) for x in (negative, positive)]
    classes = Classes(*variances, jnp.float32(gap), jnp.float32(3 / 8), 3)
    power = least_kl(classes, jnp.float32(gap))
    unit = difference / np.sqrt(gap)
    for c, wanted in ((0, power[:2]), (1, power[2:])):
        mine = noise[:, LABEL == c] / 1e-4
        along = mine @ unit
        across = mine - along[..., None] * unit
        np.testing.assert_allclose((along**2).mean(), wanted[0], rtol=0.05)
        np.testing.assert_allclose(
            (across**2).sum(-1).mean() / 2, wanted[1], rtol=0.05, atol=1e-8
        )


def test_a_batch_of_one_class_is_not_sent_as_it_is_and_several_classes_are_told():
    ones = jnp.ones(8, jnp.int32)
    for label in (ones, 0 * ones):
        sent = np.asarray(encode(marvell(1), G, label=label))
        assert np.isfinite(sent).all() and (sent != G).any(axis=1).all()
    three = ones.at[0].set(0).at[1].set(2)
    assert np.isnan(encode(marvell(1), G, label=three)).all()
    # The class that is meant may have any number, and the other one too.
    a = encode(marvell(1), G, label=jnp.asarray(LABEL))
    b = encode(marvell(1, positive=7), G, label=jnp.asarray(8 - LABEL))
    assert (a == encode(marvell(1), G, label=jnp.asarray(2 * LABEL - 1))).all()
    assert (b == a).all()


@pytest.mark.parametrize("make", [jsplit.fused, jsplit.messages])
def test_marvell_refuses_more_than_two_classes_before_the_first_step(make):
    classes = np.arange(32) % 3
    regression = BATCH["x"][:, 0]
    for label, others in ((classes, 2), (regression, 32), (2 * (classes % 2) + 2, 2)):
        batch = BATCH | {"label": label.astype(np.float32)}
        for link in (
            marvell(1.0),
            jsplit.chain(marvell(1.0), jsplit.compress.cast("bfloat16")),
        ):
            one = trainer(make, {"h": (None, link)})
            with pytest.raises(
                ValueError, match=f"beside it there are {others} numbers"
            ):
                one.init(0, batch)
    one = trainer(make, {"h": (None, marvell(1.0))})
    state = one.init(0, BATCH)
    with pytest.raises(jsplit.NotFinite):
        one.step(state, BATCH | {"label": classes.astype(np.float32)})
    # Noise that reads no label is for any.
    trainer(make, {"h": (None, isotropic(1.0))}).init(0, BATCH | {"label": regression})


@pytest.mark.parametrize("link", [marvell(1.0), max_norm(), isotropic(1.0)])
def test_a_batch_of_one_record_and_one_without_cotangents_give_numbers(link):
    for g in (G[:1], 0 * G[:1], 0 * G, np.ones((2, 1), np.float32)):
        sent = np.asarray(encode(link, g, label=jnp.ones(len(g), jnp.int32)))
        assert np.isfinite(sent).all() and ((g != 0).any() or (sent == 0).all())


def test_records_of_weight_0_do_not_count_in_the_statistics_of_classes():
    padded = np.concatenate([G, np.zeros_like(G)])
    label = jnp.concatenate([jnp.asarray(LABEL), jnp.ones(8, jnp.int32)])
    noise = np.asarray(draws(marvell(1.0), padded, COUNT, label=label)) - padded
    alone = np.asarray(draws(marvell(1.0), G, COUNT, label=jnp.asarray(LABEL))) - G
    np.testing.assert_allclose(noise[:, :8].std(0), alone.std(0), rtol=0.08)
    assert np.isfinite(encode(marvell(1), 0 * G, label=jnp.asarray(LABEL))).all()


def test_a_norm_and_a_cosine_tell_less_the_more_noise_marvell_adds():
    rng = np.random.default_rng(1)
    label = (rng.random(512) < 0.3).astype(np.int32)
    logit = rng.normal(size=512) - 1
    p = 1 / (1 + np.exp(-logit))
    g = ((p - label)[:, None] * rng.normal(size=16) * 1e-3).astype(np.float32)

    def auc(score):
        order = np.empty(512)
        order[np.argsort(score)] = np.arange(1, 513)
        one = label == 1
        n = one.sum()
        found = (order[one].sum() - n * (n + 1) / 2) / (n * (512 - n))
        return max(found, 1 - found)

    def leaks(scale):
        sent = np.asarray(encode(marvell(scale), g, label=jnp.asarray(label)))
        known = sent[label == 1][0]
        return auc(np.linalg.norm(sent, axis=1)), auc(sent @ known)

    plain, little, much = leaks(0.0), leaks(0.25), leaks(4.0)
    assert plain[1] > 0.99 and plain[0] > 0.7
    assert much[0] < 0.62 and much[1] < little[1] < plain[1] and much[1] < 0.75


def test_a_strength_above_what_its_grid_bears_is_refused_wherever_it_is_used():
    batch = {"x": jnp.ones((4, 3)), "label": jnp.ones(4)}
    bottom = jsplit.segment(
        lambda w, x: x * w, init=lambda key, x: jnp.ones(3), inputs=["x"]
    )
    top = jsplit.segment(lambda h: h.sum(-1), inputs=["h"])
    topology = jsplit.vanilla(bottom, top, loss=lambda y, label: (y - label) ** 2)
    # In a row of links too.
    noise = jsplit.chain(
        gaussian(1.0, jsplit.Strength("noise", 5.0)), jsplit.compress.cast(jnp.float32)
    )
    people = jsplit.population.grouped(list("aabb")).round(batch, 0, batch=2)
    for make in (jsplit.fused, jsplit.messages):
        trainer = make(topology, optax.sgd(0.1), links={"smashed": (noise, None)})
        state = trainer.init(0, batch)
        least = jsplit.set_hyperparams(state, {"noise": 100.0})
        out = trainer.predict(least, {"x": batch["x"]}, at="smashed")["smashed"]
        assert np.isfinite(out).all()
        much = jsplit.set_hyperparams(state, {"noise": 5000.0})
        for use in (
            lambda t=trainer, s=much: t.predict(s, {"x": batch["x"]}),
            lambda t=trainer, s=much: t.step(s, batch),
            lambda t=trainer, s=much: t.evaluate(s, batch),
        ):
            with pytest.raises(ValueError, match="`noise` of `client`.* at most 100"):
                use()
    relay = jsplit.rounds.alone(trainer)
    several = jsplit.set_hyperparams(
        relay.init(0, people), {"noise": np.array([1.0, 5000.0])}
    )
    for use in (relay.step, relay.evaluate, lambda s, r: relay.run(s, [r])):
        with pytest.raises(ValueError, match="`noise` of `client`.* at most 100"):
            use(several, people)
    with pytest.raises(ValueError, match="`value` must be at most 3, got 5"):
        jsplit.Strength("noise", 5, most=3)
