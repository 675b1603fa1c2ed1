"""A plan's numbers are those of the cut itself, and its front is the Pareto front."""

from __future__ import annotations

import json
from itertools import combinations
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from matplotlib.backends.backend_agg import FigureCanvasAgg

import jsplit
from jsplit import Device, Network
from jsplit.compress import quantize
from jsplit.costing import Choice, CutPlan, Work
from jsplit.costing.leak_scores import leaks_at
from tests.helpers import cross_entropy


class Net(nnx.Module):
    """Two values that could be cut at convolutions, two at dense layers; BatchNorm on
    the client's side of most.
    """

    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 3, (3, 3), strides=2, rngs=rngs)
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.dense = nnx.Linear(3, 8, rngs=rngs)
        self.head = nnx.Linear(8, 4, rngs=rngs)

    def __call__(self, image):
        h = nnx.relu(self.norm(self.conv(image))).mean((1, 2))
        return self.head(jnp.tanh(self.dense(h)))


IMAGE = jax.ShapeDtypeStruct((6, 8, 8, 2), jnp.float32)
SLOW, LINK = Device(1e6), Network(1e6, 0.01)


def abstract():
    return nnx.eval_shape(lambda: Net(nnx.Rngs(0)))


@pytest.fixture(scope="module")
def found():
    return jsplit.plan(
        abstract(),
        IMAGE,
        client=SLOW,
        link=LINK,
        server=Device(1e7),
        optimizer=optax.adam(0.1),
    )


def test_every_choice_costs_what_that_cut_costs(found):
    names = [p.name for p in jsplit.cut_points(abstract(), IMAGE)]
    assert sorted(c.point.name for c in found.choices) == sorted(names)
    # The first, the last and what is between: a cut costs alike wherever it is.
    for choice in found.choices[:: (len(found.choices) - 1) // 2]:
        parts = jsplit.split(abstract(), IMAGE, cuts=[choice.point])
        topology = jsplit.vanilla(*parts.values(), loss=cross_entropy)
        batch = {"image": IMAGE, "label": jax.ShapeDtypeStruct((6,), jnp.int32)}
        cost = jsplit.cost(topology, batch, optimizer=optax.adam(0.1))
        client = cost.parties["client"]
        assert choice.work.macs == (client.forward + client.backward["residuals"]).macs
        assert choice.work.macs == 6 * (
            choice.point.forward_macs + choice.point.backward_macs
        )
        assert choice.work.flops == pytest.approx(
            (client.forward + client.backward["residuals"]).flops, rel=0.02
        )
        assert choice.bytes == sum(m.bytes + m.frame for m in cost.messages)
        assert choice.memory == client.memory()
        other = cost.total.work().flops - choice.work.flops
        expected = (
            choice.work.flops / 1e6 + 2 * 0.01 + 8 * choice.bytes / 1e6 + other / 1e7
        )
        assert choice.seconds == pytest.approx(expected, rel=0.02)


def test_the_front_is_what_nothing_beats(found):
    for c in found.choices:
        beaten = any(
            o.seconds <= c.seconds
            and o.bytes <= c.bytes
            and (o.seconds, o.bytes) != (c.seconds, c.bytes)
            for o in found.choices
        )
        assert c.front == (not beaten)
    assert 0 < len(found.front) < len(found.choices)
    assert [c.seconds for c in found.choices] == sorted(
        c.seconds for c in found.choices
    )


def test_a_faster_client_moves_the_cut_deeper_and_a_faster_network_moves_it_up():
    def best(client, bits):
        return (
            jsplit.plan(
                abstract(),
                IMAGE,
                client=Device(client),
                link=Network(bits),
                server=Device(1e12),
            )
            .choices[0]
            .point
        )

    slow, fast = best(1e5, 1e12), best(1e12, 1e5)
    names = [p.name for p in jsplit.cut_points(abstract(), IMAGE)]
    assert (
        names.index(slow.name) < names.index(fast.name)
        and slow.bytes_per_example > fast.bytes_per_example
    )


def test_a_link_s_encoding_and_a_small_memory_count(found):
    limit = sorted(c.memory for c in found.choices)[len(found.choices) // 2]
    narrow = jsplit.plan(
        abstract(),
        IMAGE,
        client=Device(1e6, limit),
        link=LINK,
        encoding=quantize(8, axis=None),
        optimizer=optax.adam(0.1),
    )
    plain = {c.point.name: c for c in found.choices}
    for c in narrow.choices:
        values = (
            6 * int(np.prod(c.point.shape))
        )  # a byte each in place of four, and a scale of 4, framed for 8 and an axis of 8
        axes = 1 + len(c.point.shape)
        assert c.bytes == plain[c.point.name].bytes - 2 * (
            3 * values - 4 - 8 - 8 + 8 * axes
        )
        assert c.fits == (c.memory <= limit) and not (c.front and not c.fits)
    fits = [c.fits for c in narrow.choices]
    assert set(fits) == {True, False} and fits == sorted(fits, reverse=True)


def test_recomputing_takes_less_memory_and_more_time(found):
    again = jsplit.plan(
        abstract(),
        IMAGE,
        client=SLOW,
        link=LINK,
        optimizer=optax.adam(0.1),
        backward="recompute",
    )
    before = {c.point.name: c for c in found.choices}
    deep = next(c for c in again.choices if c.point.name == "dense")
    assert deep.memory < before["dense"].memory
    assert deep.work.macs == before["dense"].work.macs + 6 * deep.point.forward_macs


def test_a_loop_costs_all_its_turns_and_decides():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(8, 4, rngs=rngs)
            self.rnn = nnx.RNN(nnx.SimpleCell(4, 64, rngs=rngs))

        def __call__(self, x):
            return self.rnn(self.first(x))[:, -1]

    x = jax.ShapeDtypeStruct((4, 100, 8), jnp.float32)
    model = nnx.eval_shape(lambda: Net(nnx.Rngs(0)))
    found = jsplit.plan(
        model, x, client=Device(1e8), link=Network(1e9), server=Device(1e12)
    )
    assert all(c.work.flops >= 2 * c.work.macs for c in found.choices)
    assert found.choices[0].point.shape == (100, 4) and found.choices[
        -1
    ].point.name.startswith("rnn")


def test_what_comes_before_any_parameter_is_no_choice():
    def model(p, x):
        return jnp.tanh(jnp.sin(jnp.reshape(x, (len(x), -1))) @ p["a"]) @ p["b"]

    start = lambda key, x: {"a": jnp.ones((6, 5)), "b": jnp.ones((5, 2))}  # noqa: E731
    assert "sin" in [
        p.name for p in jsplit.cut_points(model, jnp.ones((4, 3, 2)), init=start)
    ]
    found = jsplit.plan(model, jnp.ones((4, 3, 2)), init=start, client=SLOW, link=LINK)
    assert {c.point.name for c in found.choices} == {"dot_general", "tanh"}


def test_the_two_ways_may_be_encoded_differently(found):
    one_way = jsplit.plan(
        abstract(),
        IMAGE,
        client=SLOW,
        link=LINK,
        encoding=(quantize(8), None),
        optimizer=optax.adam(0.1),
    )
    both = jsplit.plan(
        abstract(),
        IMAGE,
        client=SLOW,
        link=LINK,
        encoding=quantize(8),
        optimizer=optax.adam(0.1),
    )
    size = lambda plan: sum(c.bytes for c in plan.choices)  # noqa: E731
    assert 2 * size(one_way) == size(both) + size(found)


def test_a_leakage_score_is_a_third_aim(found):
    deeper = jsplit.plan(
        abstract(),
        IMAGE,
        client=SLOW,
        link=LINK,
        server=Device(1e7),
        leakage=lambda p: 1 / p.forward_macs,
    )
    assert {c.point.name for c in found.front} < {c.point.name for c in deeper.front}
    assert all(c.leakage == 1 / c.point.forward_macs for c in deeper.choices)


class Wrong(NamedTuple):
    """A score of which less leaks more, as an MSE."""

    value: float
    interval: tuple[float, float]
    larger_leaks: bool = False
    measure: str = "MSE"


class At(NamedTuple):
    cut: str
    score: object


@pytest.fixture(scope="module")
def leaking():
    """A plan of which some cuts have an error of an attack, given as a report has them."""
    options = {"client": SLOW, "link": LINK, "server": Device(1e7)}
    names = [p.name for p in jsplit.cut_points(abstract(), IMAGE)]
    rng = np.random.default_rng(0)
    errors = {n: float(x) for n, x in zip(names, rng.uniform(size=len(names)))}  # noqa: B905
    del errors["dense"]
    scores = {n: Wrong(x, (x / 2, 2 * x)) for n, x in errors.items()}
    best = [At(n, s) for n, s in scores.items()]
    plan = jsplit.plan(abstract(), IMAGE, leakage=best, **options)
    return errors, scores, plan, options


def test_no_choice_of_a_front_with_leaks_is_beaten_and_every_other_is(leaking):
    errors, _, plan, _ = leaking

    def beats(a, b):
        # A larger error of the attack is the smaller leak.
        x, y = ((c.seconds, c.bytes, -errors[c.point.name]) for c in (a, b))
        return x != y and all(p <= q for p, q in zip(x, y, strict=True))

    scored = [c for c in plan.choices if c.point.name in errors]
    for c in scored:
        assert c.leakage == errors[c.point.name]
        assert c.front == (not any(beats(o, c) for o in scored))
    assert 0 < len(plan.front) < len(scored)
    # One of which nobody knows what leaks is listed, is on no front, and beats none.
    (other,) = (c for c in plan.choices if c.point.name not in errors)
    assert other.point.name == "dense" and not other.front and other.leakage is None
    (line,) = (x for x in str(plan).splitlines() if x.startswith("dense "))
    assert "no score" in line and "leakage MSE" in str(plan)


def test_scores_by_name_by_point_by_function_and_as_findings_are_one_plan(leaking):
    _, scores, plan, options = leaking
    points = {p.name: p for p in jsplit.cut_points(abstract(), IMAGE)}
    forms = [scores, {points[n]: s for n, s in scores.items()}]
    for form in (*forms, lambda p: scores.get(p.name)):
        again = jsplit.plan(abstract(), IMAGE, leakage=form, **options)
        assert again == plan
    wrong = {
        "`leakage` names 'nowhere', where no cut": {**scores, "nowhere": 0.5},
        "several findings at the cut `conv`": [At("conv", 0.1), At("conv", 0.2)],
        "scores of one measure to be compared, got MSE and plain": {
            **scores,
            "dense": 0.5,
        },
        "gives no score at any cut point": {},
        "must give finite numbers, got 'much' for the cut point `dense`": {
            "dense": "much"
        },
    }
    for message, form in wrong.items():
        with pytest.raises(ValueError, match=message):
            jsplit.plan(abstract(), IMAGE, leakage=form, **options)
    for number in (float("inf"), float("nan"), True, 10**400):
        with pytest.raises(ValueError, match="finite numbers"):
            jsplit.plan(abstract(), IMAGE, leakage={"dense": number}, **options)


def test_the_picture_of_a_plan_has_bytes_leak_and_seconds_of_every_cut_with_a_score(
    leaking,
):
    errors, _, plan, _ = leaking
    drawn = plan.figure()
    ax, bar = drawn.axes
    assert "bytes" in ax.get_xlabel() and "MSE" in ax.get_ylabel()
    # Of an error the axis is turned: farther up leaks more.
    assert ax.yaxis_inverted()
    assert bar.get_ylabel() == "seconds per step"
    seen = set()
    for dots in ax.collections:
        for (x, y), z in zip(dots.get_offsets(), dots.get_array(), strict=True):
            seen.add((float(x), float(y), float(z)))
    scored = [c for c in plan.choices if c.leakage is not None]
    assert seen == {(c.bytes, c.leakage, c.seconds) for c in scored}
    texts = [t.get_text() for t in drawn.legends[0].get_texts()]
    numbered = [t.split()[1].rstrip(",") for t in texts if t[0].isdigit()]
    assert sorted(numbered) == sorted(c.point.name for c in plan.front)


class Doubted(NamedTuple):
    """A score of an attack that may reach more, beside what a guess gets."""

    value: float
    doubt: str
    chance: float = 0.07
    interval: tuple[float, float] = (0.01, 0.02)
    larger_leaks: bool = False
    measure: str = "MSE"


def test_a_plan_says_where_more_may_leak_and_no_failed_attack_is_a_protection():
    scores = {"good": Doubted(0.01, ""), "early": Doubted(0.02, "9 of 1000 steps")}
    scores["failed"] = Doubted(14.1, "9 of 1000 steps")
    rest = (4,), "float32", 8, 32, 16, 8.0, 8.0
    points = [jsplit.CutPoint(name, *rest) for name in scores]
    leaks, work = leaks_at(scores, points), Work(16, 40.0)
    found = CutPlan(
        tuple(
            Choice(p, 1.0 + n, 300 + n, work, 64, None, True, True).scored(
                leaks[p.name]
            )
            for n, p in enumerate(points)
        )
    )
    good, early, failed = found.choices
    assert good.doubt == "" and early.doubt == "not converged: 9 of 1000 steps"
    # Of an error of 14 where the mean record has 0.07, as much leaks as by a guess.
    assert failed.leakage == failed.chance == 0.07 and failed.interval is None
    assert "no attack did better than a guess; the best reached 14.1" in failed.doubt
    lines = str(found).splitlines()
    ends = [x.split(")")[1].strip() for x in lines[1:4]]
    assert ends == ["", "†1", "†2"] and all("(guess 0.07)" in x for x in lines[1:4])
    assert lines[4] == f"†1 {early.doubt}" and lines[5] == f"†2 {failed.doubt}"
    assert "less leaks more" in lines[6] and early.doubt in found.to_json()
    drawn = found.figure()
    assert [t.get_text() for t in drawn.axes[0].texts] == ["1", "2†", "3†"]
    legend = [t.get_text() for t in drawn.legends[0].get_texts()]
    assert any("more may leak" in x for x in legend) and "what a guess gets" in legend


def test_any_model_can_be_planned():
    class Linen(linen.Module):
        @linen.compact
        def __call__(self, x, train):
            h = linen.BatchNorm(use_running_average=not train)(linen.Dense(5)(x))
            return linen.Dense(2)(linen.relu(h))

    assert (
        len(jsplit.plan(Linen(), jnp.ones((4, 3)), client=SLOW, link=LINK).choices) >= 3
    )
    function = jsplit.plan(
        lambda p, x: jnp.sin(x @ p["a"]) @ p["b"],
        jnp.ones((4, 3)),
        client=SLOW,
        link=LINK,
        init=lambda key, x: {"a": jnp.ones((3, 5)), "b": jnp.ones((5, 2))},
    )
    assert [c.point.shape for c in function.choices].count((5,)) == 2


def test_a_plan_is_a_table_json_and_a_figure(found):
    lines = str(found).splitlines()
    assert lines[0].split() == [
        "cut",
        "front",
        "seconds",
        "bytes",
        "MACs",
        "FLOPs",
        "memory",
        "leakage",
    ]
    assert (
        len(lines) == 1 + len(found.choices) and found.choices[0].point.name in lines[1]
    )
    assert (
        json.loads(found.to_json())[0]["point"]["name"] == found.choices[0].point.name
    )
    ax = found.figure().axes[0]
    assert ax.get_xscale() == ax.get_yscale() == "log"


def test_the_front_of_a_picture_is_of_its_axes_and_not_of_seconds(found):
    # One choice is quickest and smallest, so it alone is the front of seconds and bytes;
    # two others ask less of the client, one of them of the same FLOPs and more bytes.
    point = found.choices[0].point._replace
    rest = 64, None
    choices = [
        Choice(point(name="all"), 0.1, 100, Work(1, 90.0), *rest, True, True),
        Choice(point(name="half"), 0.5, 500, Work(1, 40.0), *rest, True),
        Choice(point(name="more"), 0.6, 600, Work(1, 40.0), *rest, True),
        Choice(point(name="large"), 0.7, 400, Work(1, 10.0), *rest, False),
    ]
    for plan in (CutPlan(tuple(choices)), found):
        drawn = plan.figure()
        texts = [t.get_text() for t in drawn.legends[0].get_texts()]
        named = {t.split(None, 1)[1] for t in texts if t[0].isdigit()}
        fits = [c for c in plan.choices if c.fits]
        unbeaten = {
            c.point.name
            for c in fits
            if not any(
                (o.work.flops < c.work.flops and o.bytes <= c.bytes)
                or (o.work.flops <= c.work.flops and o.bytes < c.bytes)
                for o in fits
            )
        }
        assert named == unbeaten
        (line,) = [x for x in drawn.axes[0].lines if x.get_label() == "Pareto front"]
        # Along a front of two axes, less of one is more of the other.
        assert list(line.get_ydata()) == sorted(line.get_ydata(), reverse=True)
    assert [c.point.name for c in CutPlan(tuple(choices)).front] == ["all"]


@pytest.mark.parametrize("span", (1.5, 4, 8, 12, 30, 80, 500, 1e6))
@pytest.mark.parametrize("start", (1e3, 3.5e3, 7e4))
def test_every_axis_of_a_picture_tells_a_scale_by_numbers_apart(found, span, start):
    point = found.choices[0].point._replace
    places = (start, span * start), (span * start, start)
    choices = [
        Choice(point(name=f"{x}"), 0.1, int(y), Work(1, x), 64, None, True)
        for x, y in places
    ]
    drawn = CutPlan(tuple(choices)).figure()
    FigureCanvasAgg(drawn).draw()
    axes = drawn.axes[0]
    for place, axis in enumerate((axes.xaxis, axes.yaxis)):
        low, high = axis.get_view_interval()
        texts = [
            text
            for text in axis.get_ticklabels(which="both")
            if low <= text.get_position()[place] <= high and text.get_text()
        ]
        assert len(texts) > 1
        boxes = [text.get_window_extent() for text in texts]
        assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))


def test_wrong_arguments_are_refused():
    wrong = {
        "`client` must be a jsplit.Device, got float": {"client": 1e9, "link": LINK},
        "`link` must be a jsplit.Network, got Device": {"client": SLOW, "link": SLOW},
        "`server` must be a jsplit.Device, got int": {
            "client": SLOW,
            "link": LINK,
            "server": 3,
        },
        "`client` must be positive numbers, got": {"client": Device(0.0), "link": LINK},
        "`client` must be positive numbers, got Device.flops='fast'": {
            "client": Device("fast"),
            "link": LINK,
        },
        "`encoding` must be a Link or a pair of them": {
            "client": SLOW,
            "link": LINK,
            "encoding": "q8",
        },
        "`leakage` must be a function of a CutPoint, scores by .*, got 3": {
            "client": SLOW,
            "link": LINK,
            "leakage": 3,
        },
        "`leakage` must give finite numbers, got nan for the cut point": {
            "client": SLOW,
            "link": LINK,
            "leakage": lambda p: float("nan"),
        },
        '`backward` must be "residuals" or "recompute"': {
            "client": SLOW,
            "link": LINK,
            "backward": "both",
        },
    }
    for message, options in wrong.items():
        with pytest.raises(ValueError, match=message):
            jsplit.plan(abstract(), IMAGE, **options)
    with pytest.raises(ValueError, match="`model` has no cut point"):
        jsplit.plan(
            lambda p, x: x @ p,
            jnp.ones((2, 3)),
            init=lambda key, x: jnp.ones((3, 3)),
            client=SLOW,
            link=LINK,
        )
