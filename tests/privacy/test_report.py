"""Laws of the report: what it runs, what it says it did not run, and what it never shows."""

from __future__ import annotations

import json
from base64 import b64decode
from dataclasses import replace
from functools import cache
from io import BytesIO

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from matplotlib.image import imread

import jsplit
from jsplit.privacy import (
    Adversary,
    Attempt,
    Budget,
    Finding,
    Outcome,
    Report,
    Score,
    attempts,
    leakage,
    norm_attack,
    report,
    views,
    watch,
)
from jsplit.privacy.attacks.inputs.likeness import unlike
from jsplit.privacy.reporting.doubts import doubt_of
from jsplit.privacy.reporting.knowing import classes_in
from jsplit.privacy.reporting.tables import tables
from tests.helpers import make_problem
from tests.privacy.seen import LOSS_OF_CLASSES, dense

NORM = next(a for a in attempts() if a.name == "norm")


def data_of(records=96, side=3):
    rng = np.random.default_rng(0)
    image = rng.uniform(size=(records, side, side)).astype("float32")
    label = (image[:, 0, 0] > 0.7).astype("int32")
    return {"image": image, "label": label}


def trainer_of(bottom=None, links=None, **options):
    """One trainer for all that ask for the same: what it has compiled is not compiled again."""
    return made(bottom, tuple((links or {}).items()), **options)


@cache
def made(bottom, links, **options):
    def flat(w, x):
        return jax.nn.relu(x.reshape(len(x), -1) @ w)

    def draw(key, x):
        return jax.random.normal(key, (x[0].size, 4)) / 3

    first = bottom or jsplit.segment(flat, init=draw, inputs=["image"])
    second = dense([4 if bottom is None else 9, 2], "smashed")
    public = ["image"] if bottom else []
    topology = jsplit.vanilla(first, second, loss=LOSS_OF_CLASSES, public=public)
    return jsplit.fused(topology, optax.sgd(0.1), links=dict(links), **options)


def a_score(traffic, given, value=0.2, **more):
    adversary = Adversary(traffic.party, "nothing")
    rest = (0.5, 0.4, False, adversary, Budget(1, len(given.truth), 0.1), more)
    return Score("guess", given.target, "MSE", value, (0.1, 0.3), *rest)


def guessing(view, traffic, given):
    """An attack on inputs that guesses nearly right."""
    return a_score(traffic, given, PSNR=float("inf")), given.truth + 0.125


GUESS = Attempt("guess", "inversion", guessing)


@pytest.fixture(scope="module")
def found():
    """A report with two defences that are none, pictures and attacks on both sides."""
    return report(
        trainer_of(),
        data_of(),
        attacks=[NORM, GUESS],
        defences={"again": trainer_of(), "<b>2|bits": trainer_of()},
        epochs=4,
        batch=16,
        watched=3,
        pictures=2,
    )


def test_a_score_is_that_of_what_the_party_saw_in_these_steps():
    data, trainer = data_of(), trainer_of()
    # Whole batches, so that the order of records is no matter.
    outcome = report(
        trainer, data, test=data, attacks=[NORM], epochs=3, batch=96, key=5
    )["none"]
    state = trainer.init(jax.random.key(5), data)
    state, seen = watch(trainer, state, [data] * 3, "client")
    score = norm_attack(seen, np.tile(data["label"], 3))
    (finding,) = outcome.findings
    assert finding.when == "all 3 steps" and finding.score.measure == "AUC"
    assert finding.score.value == pytest.approx(score.value, abs=1e-3)
    # The interval allows for records that were in several steps.
    assert finding.score.interval[0] < score.interval[0] - 1e-3
    loss = float(trainer.evaluate(state, data).loss)
    assert outcome.losses["loss"] == pytest.approx(loss, rel=1e-5)


def test_binary_labels_are_attacked_as_floats_too():
    """As a binary cross-entropy takes them; other whole floats may be of a regression."""

    def loss(output, label):
        return LOSS_OF_CLASSES(output, label.astype("int32"))

    trainer = jsplit.fused(
        jsplit.vanilla(
            jsplit.segment(
                lambda w, x: jnp.tanh(x.reshape(len(x), -1) @ w),
                init=lambda key, x: jax.random.normal(key, (9, 4)) / 3,
                inputs=["image"],
            ),
            dense([4, 2], "smashed"),
            loss=loss,
        ),
        optax.sgd(0.1),
    )
    data = data_of()
    floats = data | {"label": data["label"].astype("float32")}
    one, other = (
        report(trainer, d, test=d, attacks=[NORM], epochs=1, batch=96)["none"]
        for d in (data, floats)
    )
    (found,), (same,) = one.findings, other.findings
    assert found.score.value == pytest.approx(same.score.value)
    assert [e.probes for e in other.exposures] == [e.probes for e in one.exposures]
    for label in ([0.0, 2.0], [0.0, 0.5], [0.0, float("nan")], [0.0, 0.0]):
        assert classes_in(np.array(label)) is None


def test_the_first_and_the_last_steps_are_attacked_and_the_inference_after(found):
    when = [(f.score.attack, f.when) for f in found["none"].findings]
    assert when == [
        ("norm", "first 3 steps"),
        ("norm", "last 3 steps"),
        ("guess", "after training"),
    ]


def test_a_trainer_is_its_own_defence_and_scores_the_same(found):
    def without_time(outcome):
        scores = [
            replace(f.score, budget=replace(f.score.budget, seconds=0.0))
            for f in outcome.findings
        ]
        return replace(outcome, name="", seconds=0.0, findings=tuple(scores))

    # On the same batches, from the same start: what differs is the defence alone.
    assert without_time(found["none"]) == without_time(found["again"])


def test_a_state_that_is_given_is_not_trained_and_stays_valid():
    data, trainer = data_of(), trainer_of(donate=True, nonfinite="allow")
    state = trainer.init(3, data)
    state, _ = trainer.step(state, data)
    outcome = report(
        *(trainer, data), test=data, attacks=[NORM], states={"none": state}, watched=2
    )["none"]
    assert outcome.steps == 0 and outcome.findings[0].when == "2 steps more"
    loss = float(trainer.evaluate(state, data).loss)
    assert outcome.losses["loss"] == pytest.approx(loss, rel=1e-6)


def test_json_is_read_back_as_the_same_report(found):
    text = found.json()
    assert Report.from_json(text) == found
    # An infinite number is none of JSON's.
    assert json.loads(text, parse_constant=lambda x: pytest.fail(x))["format"] == 1
    assert found["none"].findings[-1].score.more["PSNR"] == float("inf")
    with pytest.raises(ValueError, match="format 1, got 7"):
        Report.from_json('{"format": 7}')


def test_names_draw_nothing_in_html_and_markdown(found):
    assert "<b>2|bits" in found.table()
    page = found.html()
    assert "<b>2" not in page and "&lt;b&gt;2|bits" in page
    assert "http" not in page and "src='data:image/png" in page
    for line in found.markdown().splitlines():
        assert "<b>" not in line
        if line.startswith("| again | smashed |"):
            # A row has as many columns as its head.
            assert line.replace("\\|", "").count("|") in (8, 17)
    assert "&lt;b&gt;2\\|bits" in found.markdown()


def test_pictures_are_the_records_given_away_most_and_only_if_asked_for(found):
    pictures = found["none"].findings[-1].pictures
    assert len(pictures) == 2 and pictures[0].error == pytest.approx(1 / 64, rel=1e-3)
    shown = imread(BytesIO(b64decode(pictures[0].original)), format="png")
    assert shown.shape[:2] == (3, 3)
    pixels = 255 * shown[..., 0]
    image = data_of()["image"]
    scaled = (image - image.min()) / (image.max() - image.min()) * 255
    # Up to the scale of those records that were trained on.
    assert np.abs(scaled - pixels).max((1, 2)).min() < 3
    unasked = report(trainer_of(), data_of(), attacks=[GUESS], epochs=1)
    assert not unasked["none"].findings[0].pictures
    for text in (unasked.json(), unasked.html(), unasked.markdown()):
        assert "image/png" not in text and "iVBOR" not in text


def test_an_attack_is_given_only_what_its_party_has():
    given = []

    def look(view, traffic, told):
        given.append((view, traffic, told))
        return a_score(traffic, told)

    tried = [
        Attempt("a", "labels", look, reads="cotangents"),
        Attempt("b", "inversion", look),
        Attempt("c", "labels", look, reads="activations"),
    ]
    report(trainer_of(), data_of(), attacks=tried, epochs=1, batch=24, watched=2)
    assert {v.party for v, _, _ in given} == {"client", "server"}
    for view, traffic, told in given:
        assert {*traffic.fields} == {*view.fields} == {*view.fields} - {told.target}
        assert traffic.party == view.party
        held = (traffic.received, traffic.sent, traffic.returned, traffic.gave)
        assert all(name == "smashed" for values in held for name in values)
        assert told.known is None and told.public is None and told.asked is None
        # Rows belong to the records whose truth is told.
        for name, x in traffic.fields.items():
            np.testing.assert_array_equal(
                np.asarray(x)[:, 0] if name == "label" and x.ndim > 1 else x, x
            )
        assert len(told.truth) == len(told.ids) == len(traffic.step)


def test_public_records_are_asked_of_the_trained_model_through_its_link():
    asked = []

    def look(view, traffic, told):
        asked.append(told)
        return a_score(traffic, told)

    data, rounded = data_of(), jsplit.compress.quantize(2, axis=None)
    trainer = trainer_of(links={"smashed": rounded})
    tried = [Attempt("look", "inversion", look, needs=("public", "data_range"))]
    public = {"image": data["image"][:20] + 0.5}
    options = {"attacks": tried, "epochs": 1, "public": public}
    report(trainer, data, **options, ranges={"image": (0.0, 1.0)})
    (told,) = asked
    np.testing.assert_array_equal(told.public, public["image"])
    assert told.asked.shape == (20, 4) and told.data_range == (0.0, 1.0)
    # Two bits a number: what crossed has three levels at most.
    assert len(np.unique(told.asked)) <= 3
    outcome = report(trainer, data, **options)["none"]
    assert any("`ranges`" in u.why for u in outcome.untested) and len(asked) == 1


def test_what_was_not_given_is_said_to_be_untested():
    outcome = report(trainer_of(), data_of(), epochs=1, steps=2)["none"]
    why = {u.what: u.why for u in outcome.untested if not u.proven}
    assert "(`known`)" in why["cosine"] and "(`known`)" in why["model completion"]
    assert "active attacker" in why["hijacking"] and "membership" in why
    tried = {f.score.attack for f in outcome.findings}
    assert tried == {"norm", "direction clusters", "gradient matching"}
    assert not any("broke" in w or "raised" in w for w in why.values())


@pytest.mark.parametrize("known", [3, range(40)])
def test_known_labels_are_no_part_of_what_is_guessed(known):
    seen = []

    def look(view, traffic, told):
        seen.append(told)
        return a_score(traffic, told)

    tried = [Attempt("look", "labels", look, reads="activations", needs=("known",))]
    data = data_of()
    report(trainer_of(), data, test=data, attacks=tried, epochs=1, known=known)
    (told,) = seen
    if known == 3:
        label = told.truth[told.known]
        assert (label == 0).sum() == 3 == (label == 1).sum()
    else:
        np.testing.assert_array_equal(np.sort(told.ids[told.known]), np.arange(40))


@pytest.mark.parametrize("known", [np.ones(96, bool), np.zeros(96, bool)])
def test_an_adversary_who_would_know_all_or_nothing_is_refused(known):
    with pytest.raises(ValueError, match="`known` must be some of the 72 records"):
        report(trainer_of(), data_of(), known=known, attacks=[], epochs=1)


def test_a_known_number_is_refused_from_the_size_of_the_rarest_class_on():
    data = data_of()
    data["label"] = (np.arange(96) < 5).astype("int32")
    options = {"test": data, "attacks": [], "epochs": 1}
    report(trainer_of(), data, known=4, **options)
    with pytest.raises(ValueError, match="of `label` 5 are trained on, got 5"):
        report(trainer_of(), data, known=5, **options)


def test_a_failed_attack_is_never_a_protection_and_the_best_is_then_the_guess():
    adversary = Adversary("server", "few records", public=20)
    rest = (14.0, 0.07, False, adversary, Budget(150, 8, 0.1))
    score = Score("decoder", "image", "MSE", 14.1, (13.0, 15.0), *rest)
    outcome = Outcome("none", 1, 8, 8, 8, findings=(Finding("h", "after", score),))
    best, every = tables([outcome])[1:3]
    assert best.rows[0][-1].startswith("nobody tried better than a guess (0.07); ")
    assert "knows few records, 20 public records; the attack failed" in best.rows[0][-1]
    assert every.rows[0][-1] == "the attack failed (worse than a guess)"
    assert "compiling included" in every.heads[-2]
    better = replace(score, value=0.01, interval=(0.005, 0.02))
    outcome = replace(outcome, findings=(Finding("h", "after", better),))
    best, every = tables([outcome])[1:3]
    assert best.rows[0][-1].startswith("0.01 [") and every.rows[0][-1] == ""


def test_an_attack_with_few_steps_or_that_still_gains_is_not_said_to_have_converged(
    caplog,
):
    caplog.set_level("INFO", "jsplit")

    def look(view, traffic, given):
        return a_score(
            traffic, given, **{"gained in the last tenth": late[given.steps]}
        )

    late = {None: 0.0, 9: 0.0, 10: 0.1}
    tried = [Attempt("look", "inversion", look, steps=10)]
    said = {}
    for steps in late:
        outcome = report(trainer_of(), data_of(), attacks=tried, epochs=1, steps=steps)
        (finding,) = outcome["none"].findings
        said[steps] = finding.doubt
        assert ("not converged: guess" in outcome.table()) == bool(finding.doubt)
        assert ("not converged" in str(finding)) == bool(finding.doubt)
        assert Report.from_json(outcome.json()) == outcome
    assert said[None] == "" and said[9] == "9 of the 10 steps that it takes by itself"
    assert said[10] == "10% of its gain came in the last tenth of its steps"
    # So does the score of a cut, for whoever plans with it, and the best beside it.
    point = jsplit.CutPoint("h", (4,), "float32", 8, 32, 16, 8.0, 8.0)
    options = {"target": "image", "attacks": [tried[0], GUESS], "epochs": 1, "steps": 9}
    score = leakage(lambda point: trainer_of(), data_of(), **options)(point)
    assert score.doubt == f"guess: {said[9]}"
    # What begins is in the log, before it begins.
    log = [r.getMessage() for r in caplog.records if r.name == "jsplit"][:2]
    assert log[0].startswith("report: trainer 1 of 1, `none`: training,")
    assert log[1].endswith(
        "attack 1 of 1, look on `image` by server at smashed, after training"
    )
    budget = Budget(36, 8, 0.1, starts=4)
    four = Score("x", "y", "MSE", 1, (0, 2), 1, 1, False, Adversary("s", ""), budget)
    assert doubt_of(tried[0], 9, four) == f"{said[9]}, at each of 4 starts"
    assert budget.effort == "4 starts x 9"
    # The attacks that learn say by themselves how many they take.
    own = {a.name: a.steps for a in attempts()}
    assert own["decoder"] == own["UnSplit"] == 1000 and own["norm"] == 0


def test_every_attack_of_jsplit_is_tried_or_said_not_to_be(found):
    names = {a.name for a in attempts()} - {"norm"}
    why = {u.what: u.why for u in found["none"].untested}
    assert all("left out of `attacks`" in why[n] for n in names)
    assert "property_inference" in why["property inference"]
    assert "a bottom of its own" in why["simulation of a watched bottom (SDAR)"]
    assert "no field" in why["recovery of tokens"]
    assert "jsplit.privacy.fsha" in why["hijacking"]
    assert "membership_inference" in why["membership"]


def test_where_the_topology_rules_a_threat_out_nothing_is_run():
    def never(view, traffic, given):
        raise AssertionError(view.party)

    tried = [Attempt("never", "inversion", never), NORM]
    flow = jsplit.segment(jnp.tanh, inputs=["h"])
    part = jsplit.segment(lambda w, x: w * x, init=lambda key, x: x[0], inputs=["x"])
    # The server reads nobody's features, and gives labels back as cotangents.
    topology = jsplit.Topology(
        [
            jsplit.Node("h", part, "server", inputs=["x"]),
            jsplit.Node("out", flow, "server", inputs=["h"]),
            jsplit.Loss("loss", lambda o, y: (o[:, 0] - y) ** 2, "lab", ["out", "y"]),
        ],
        holds={"server": ["x"], "lab": ["y"]},
    )
    rng = np.random.default_rng(0)
    data = {"x": rng.normal(size=(64, 2)).astype("float32")}
    data["y"] = rng.integers(0, 2, 64)
    trainer = jsplit.fused(topology, optax.sgd(0.01))
    outcome = report(trainer, data, attacks=tried, epochs=1, batch=16)["none"]
    out = [u for u in outcome.untested if u.proven and u.party == "server"]
    ruled = {u.what: u.why for u in out}
    assert ruled["inversion"] == views(topology)["server"].can("inversion").why
    assert [f.score.adversary.party for f in outcome.findings] == ["server"]


def test_what_tells_of_others_and_no_attack_reads_is_said_to_be_untested():
    problem = make_problem("vertical", "mlp", "nnx")
    data = {
        f: np.concatenate([np.asarray(x)] * 4)[:32] for f, x in problem.batch.items()
    }
    once = optax.chain(jsplit.clip_by_global_norm(1.0), optax.sgd(0.1))
    trainer = jsplit.fused(problem.topology, once)
    tried = [Attempt("look", "inversion", lambda *_: 1 / 0), NORM]
    with pytest.warns(match="broke"):
        outcome = report(trainer, data, attacks=tried, epochs=1, batch=16)["none"]
    found = {(u.what, u.party, u.cut): u.why for u in outcome.untested if not u.proven}
    # The other clinic's field is in the cotangent of one's own activation.
    why = "no attack of this kind reads a cotangent here"
    assert found["inversion", "lab", "left"] == why
    why = why.replace("cotangent", "scalar")
    assert found["labels", "lab", "squared norms"] == why
    assert not any(u.what == "inversion" for u in outcome.untested if u.proven)


def test_an_attack_that_breaks_is_said_and_the_others_run():
    def breaks(view, traffic, given):
        return {}["secret 17.25"]

    def refuses(view, traffic, given):
        raise ValueError("it takes two of them")

    def quotes(view, traffic, given):
        # A library that has read a record, and quotes it.
        return json.loads("17.25e")

    tried = [Attempt(f.__name__, "inversion", f) for f in (breaks, refuses, quotes)] + [
        GUESS
    ]
    with pytest.warns(UserWarning, match="breaks on `smashed`: it broke with a KeyErr"):
        found = report(trainer_of(), data_of(), attacks=tried, epochs=1)
    why = {u.what: u.why for u in found["none"].untested}
    assert "broke with a KeyError" in why["breaks"]
    assert "it takes two of them" in why["refuses"]
    assert "raised a JSONDecodeError" in why["quotes"]
    assert "17.25" not in found.json()
    assert [f.score.attack for f in found["none"].findings] == ["guess"]


def test_a_raw_field_that_crosses_is_proven_and_needs_no_attack():
    raw = jsplit.segment(lambda image: image.reshape(len(image), -1))
    outcome = report(trainer_of(raw), data_of(), attacks=[], epochs=1)["none"]
    assert outcome.proven[0] == (
        "the activation of `smashed` from client to server is `image`"
    )
    assert not report(trainer_of(), data_of(), attacks=[], epochs=1)["none"].proven


def test_measures_know_what_depends_and_what_the_receiver_has(found):
    of = {e.field: e for e in found["none"].exposures}
    assert {*of} == {"image", "label"} and of["label"].held and not of["image"].held
    image = of["image"].dependence
    assert image.batch == 16 and image.biased.interval[0] > image.shuffled.value
    assert {p.kind for p in of["label"].probes} == {"linear", "neighbours"}


def test_bytes_are_those_of_the_messages_with_links():
    data = data_of(64)
    for links in ({}, {"smashed": jsplit.compress.cast("bfloat16")}):
        trainer = trainer_of(links=links)
        topology = getattr(trainer.config, "topology")  # noqa: B009
        sent = jsplit.messages(topology, optax.sgd(0.1), links=links)
        _, info = sent.step(sent.init(0, data), data)
        outcome = report(trainer, data, test=data, attacks=[], epochs=1)["none"]
        assert outcome.bytes == sum(m.bytes for m in info.messages)


@pytest.mark.parametrize(
    "kind",
    ["vanilla", "u_shaped", "vertical", "extended_vanilla", "multitask", "multihop"],
)
def test_every_cut_and_party_with_a_threat_is_attacked(kind):
    places = []

    def look(view, traffic, given):
        places.append((view.party, given.value, given.target))
        return a_score(traffic, given)

    problem = make_problem(kind, "mlp", "nnx")
    data = {
        f: np.concatenate([np.asarray(x)] * 4)[:32] for f, x in problem.batch.items()
    }
    trainer = jsplit.fused(problem.topology, optax.sgd(0.01))
    tried = [
        Attempt("labels", "labels", look, reads="cotangents"),
        Attempt("inputs", "inversion", look),
    ]
    options = {"epochs": 1, "batch": 16, "watched": 1}
    outcome = report(trainer, data, attacks=tried, **options)["none"]
    expected = set()
    for view in views(problem.topology).parties.values():
        for s in view.receives:
            hidden = {f for f in s.fields if f not in view.fields}
            labels = hidden & {*view.labels}
            aim = labels if s.kind == "cotangent" else hidden - labels
            expected |= {(view.party, s.name, f) for f in aim}
    assert {(p, v.split(" ")[0], f) for p, v, f in places} == expected
    assert not any("broke" in u.why for u in outcome.untested)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"defences": {"none": None}}, "`defences` must not name one 'none'"),
        ({"defences": {"x": None}}, r"`defences\['x'\]` must be a trainer"),
        ({"states": {"nopeek": None}}, "`states` must be of none, got 'nopeek'"),
        ({"test": {"image": np.ones((4, 3, 3))}}, "`test` must have every field"),
        ({"test": {**data_of(), "image": np.ones((64, 2))}}, "`test` must hold `ima"),
        ({"public": {"image": np.ones((4, 2))}}, "`public` must hold `image` in the"),
        ({"epochs": 0}, "`epochs` must be a positive integer"),
        ({"pictures": -1}, "`pictures` must be 0 or more"),
        ({"known": [500]}, "`known` must be how many records of each class"),
        ({"known": 0}, "`known` must be a positive integer"),
    ],
)
def test_an_argument_that_does_not_fit_is_refused_by_name(options, match):
    with pytest.raises(ValueError, match=match):
        report(trainer_of(), data_of(), **options)


def test_public_records_that_are_of_another_kind_leave_a_doubt():
    """In other units nothing is learned, and what is off by them is no chance."""
    private, public = np.random.default_rng(0).normal(3, 2, (2, 40, 5))
    assert unlike(public, private) == unlike(public[:4], private) == ""
    assert unlike(None, private) == unlike(np.ones((4, 5)), np.ones((9, 5))) == ""
    assert "in other units" in unlike(public / 255, private)
    assert "in other units" in unlike(public * 1e6, private)
    assert unlike(public * 1e30, private * 1e30) == ""  # and no overflow is warned of
    same = np.broadcast_to(private.mean(0), public.shape)
    assert "do not vary" in unlike(same, private)
    data, other = data_of(), data_of()
    fields = {"image": np.asarray(other["image"]) * 1e4}
    tried = [a for a in attempts() if a.name == "decoder"]
    outcome = report(
        trainer_of(), data, public=fields, attacks=tried, epochs=1, steps=2
    )["none"]
    assert outcome.findings
    assert all("in other units" in f.score.doubt for f in outcome.findings)


def test_an_entry_with_an_unknown_threat_or_need_is_refused():
    with pytest.raises(ValueError, match="`threat` must be one of labels, inversion"):
        Attempt("x", "hijacking", guessing)
    with pytest.raises(ValueError, match="`needs` must be one of public"):
        Attempt("x", "labels", guessing, needs=("luck",))


def test_the_form_of_a_given_segment_is_drawn_anew():
    from flax import nnx

    from jsplit.privacy.reporting.forms import fresh

    own = jsplit.segment(nnx.Linear(5, 4, rngs=nnx.Rngs(0)))
    form, h = fresh(own), jnp.ones((2, 5))
    one, two = (form.init(jax.random.key(n), h)[0] for n in (0, 1))
    given = own.init(jax.random.key(0), h)[0]
    assert jax.tree.map(jnp.shape, one) == jax.tree.map(jnp.shape, given)
    sames = [
        np.array_equal(a, b)
        for x, y in ((one, two), (one, given))
        for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True)
    ]
    # The kernel is another one each time; a bias of zeros stays one.
    assert sorted(sames) == [False, False, True, True]
