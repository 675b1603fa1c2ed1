"""Laws of the two drawings: both show all of a topology and each crossing once, names
are safe, nothing overlaps.
"""

from __future__ import annotations

import io
import os
import pickle
import random
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

import jsplit
from jsplit import Loss, Node, Penalty, Topology, figure, mermaid

AWKWARD = (
    "a.b/c",
    "#35;",
    'say "hi"',
    "end",
    "x]) --> n0[(",
    "`code`",
    "$\\alpha$",
    "<b>&",
    "1. list",
    "_it_",
    "{a|b}",
    "naïve",
)


def part(name, *inputs):
    return jsplit.segment(
        lambda p, *x: p, init=lambda key, *x: 0.0, inputs=inputs, name=name
    )


def loss(*inputs):
    return 0.0


def bottoms(n):
    return {f"clinic{i}": part(f"smashed{i}", f"image{i}") for i in range(n)}


def tangled(seed):
    """Any topology: parties that hold, compute and read what they like."""
    draw = random.Random(seed)
    parties = [f"party{i}" for i in range(draw.randint(1, 5))]
    holds = {
        p: ["shared", *(f"{p}.field{i}" for i in range(draw.randint(0, 2)))]
        for p in parties
    }
    nodes, made = [], []

    def reads(party):
        return draw.sample(
            [*made, *holds[party]],
            min(draw.randint(1, 3), len(made) + len(holds[party])),
        )

    for i in range(draw.randint(1, 8)):
        party = draw.choice(parties)
        nodes.append(Node(f"value{i}", part(f"value{i}", *reads(party)), party))
        made.append(f"value{i}")
        if draw.random() < 0.3:
            nodes.append(
                Penalty(
                    f"penalty{i}",
                    loss,
                    party,
                    [f"value{i}.params", draw.choice(holds[party])],
                )
            )
    for i in range(draw.randint(0, 3)):
        party = draw.choice(parties)
        nodes.append(Loss(f"loss{i}", loss, party, reads(party)))
    return Topology(nodes, holds)


def awkward():
    nodes = [Node(f"{n}!", part(f"{n}!", n), f"{n}?") for n in AWKWARD]
    return Topology(
        [*nodes, Loss("loss", loss, "server", [n.name for n in nodes])],
        {f"{n}?": [n] for n in AWKWARD},
    )


def long(name):
    return f"{name}_of_the_university_hospital_and_its_partners"


TWO_TASKS = {
    "prognosis": part(None, "smashed0", "smashed1"),
    "therapy": part(None, "smashed0", "smashed1"),
}
VANILLA = jsplit.vanilla(part("smashed", "image"), part("output", "smashed"), loss=loss)
SIX = {
    "vanilla": VANILLA,
    "u_shaped": jsplit.u_shaped(
        part("up", "image"), part("down", "up"), part("output", "down"), loss=loss
    ),
    "vertical": jsplit.vertical(
        bottoms(4), part("output"), loss=loss, merge=lambda *x: x
    ),
    "extended_vanilla": jsplit.extended_vanilla(
        bottoms(2), part("middle"), part("output", "middle"), loss=loss
    ),
    "multitask": jsplit.multitask(
        bottoms(2), TWO_TASKS, losses=dict.fromkeys(TWO_TASKS, loss)
    ),
    "multihop": jsplit.multihop(
        {p: part(None, "x") for p in ("one", "two", "three", "four")},
        loss=loss,
        fields=["image"],
    ),
}
ODD = {
    "one party": Topology(
        [Node("h", part("h", "x"), "a"), Loss("loss", loss, "a", ["h", "y"])],
        {"a": ["x", "y"], "b": []},
    ),
    "six clients": jsplit.vertical(bottoms(6), part("output"), loss=loss),
    "long names": jsplit.vertical(
        {long("radiology"): part(long("encoder"), long("image"))},
        part(long("output")),
        loss=loss,
        server=long("server"),
    ),
    "penalties": VANILLA.add(
        Penalty("decay", loss, "client", ["smashed.params"]),
        Penalty("nopeek", loss, "client", ["image", "smashed"]),
    ),
    "metric": VANILLA.add(Loss("errors", loss, "server", ["output", "label"], 0.0)),
    "fork": VANILLA.add(Loss("extra", loss, "server", ["smashed"])),
    "untrained": jsplit.vanilla(
        jsplit.segment(lambda image: image, name="smashed"),
        part("output", "smashed"),
        loss=loss,
    ),
    "awkward": awkward(),
    **{f"tangled {seed}": tangled(seed) for seed in range(12)},
}
TOPOLOGIES = [pytest.param(t, id=name) for name, t in (SIX | ODD).items()]
everywhere = pytest.mark.parametrize("topology", TOPOLOGIES)


# Laws only look at a drawing: each topology is laid out once for all of them.
drawn = cache(figure)
written = cache(mermaid)


def parsed(text):
    """What a Mermaid text says: subgraphs and nodes by id, as (label, subgraph), and
    arrows, as (from, arrow, label, to).

    Fails on a line of any other form, so on any name that breaks out of its quotes.
    """
    label = r'"((?:[^\W_]|[ _.-]|#\d+;)*)"'
    groups, nodes, arrows, inside = {}, {}, [], None
    for line in text.splitlines()[1:]:
        if m := re.fullmatch(rf"  subgraph (p\d+)\[{label}\]", line):
            inside = m[1]
            groups[inside] = decoded(m[2])
        elif m := re.fullmatch(
            rf"    (n\d+)(?:\[\(|\[/|\[|\(\[|\{{\{{|\(\(){label}(?:\)\]|/\]|\]|\]\)|\}}\}}|\)\))",
            line,
        ):
            nodes[m[1]] = decoded(m[2]), groups[inside]
        elif m := re.fullmatch(rf"  (n\d+) (-->|-\.->)(?:\|{label}\|)? (n\d+)", line):
            arrows.append((nodes[m[1]], m[2], decoded(m[3] or ""), nodes[m[4]]))
        else:
            assert re.fullmatch(r"  end|  linkStyle [\d,]+ stroke:#\w+", line), line
    return groups, nodes, arrows


def decoded(label):
    return re.sub(r"#(\d+);", lambda m: chr(int(m[1])), label)


def names(topology):
    """Every party, field at a party, and node, as often as it should be seen."""
    held = [field for fields in topology.holds.values() for field in fields]
    return Counter([*topology.parties, *held, *(n.name for n in topology.nodes)])


def texts(fig):
    """What is written in a figure above its legend, with the places."""
    return [t for t in fig.axes[0].texts if t.get_position()[1] > 0]


def place(fig, text):
    return next(t.get_position() for t in texts(fig) if t.get_text() == text)


@everywhere
def test_mermaid_names_every_party_field_and_node_once(topology):
    groups, nodes, _ = parsed(written(topology))
    seen = Counter([*groups.values(), *(label for label, _ in nodes.values())])
    forks = seen - names(topology)
    assert names(topology) <= seen and set(forks) <= {
        c.name for c in topology.crossings
    }
    for n in topology.nodes:
        assert (n.name, n.party) in nodes.values()


@everywhere
def test_figure_names_every_party_field_and_node_once(topology):
    assert Counter(t.get_text() for t in texts(drawn(topology))) == names(topology)


@everywhere
def test_mermaid_has_one_arrow_for_each_crossing_and_one_back_iff_it_returns(topology):
    arrows = parsed(written(topology))[2]
    over = [(a, kind, label, b) for a, kind, label, b in arrows if a[1] != b[1]]
    forward = Counter(
        (label, a[1], b[1])
        for a, kind, label, b in over
        if kind == "-->" and label == a[0]
    )
    back = Counter(
        (label.removeprefix("cotangent of "), b[1], a[1])
        for a, kind, label, b in over
        if kind == "-.->"
    )
    assert forward == Counter(c[:3] for c in topology.crossings)
    assert back == Counter(c[:3] for c in topology.crossings if c.returns)
    assert len(over) == sum(forward.values()) + sum(back.values())


@everywhere
def test_figure_has_one_arrow_for_each_crossing_and_one_back_iff_it_returns(topology):
    arrows = Counter(
        a.get_gid() for a in drawn(topology).axes[0].patches if a.get_gid()
    )
    forward = [
        f"activation {c.name} {c.sender} {c.receiver}" for c in topology.crossings
    ]
    back = [
        f"cotangent {c.name} {c.receiver} {c.sender}"
        for c in topology.crossings
        if c.returns
    ]
    assert arrows == Counter(forward + back)


@everywhere
def test_every_read_within_a_party_is_an_arrow_in_mermaid(topology):
    arrows = {(a, b) for a, kind, _, b in parsed(written(topology))[2] if kind == "-->"}
    for n in topology.nodes:
        for i in n.reads:
            base = (
                i
                if i in topology.node or i in topology.fields
                else i.rpartition(".")[0]
            )
            maker = topology.node[base].party if base in topology.node else n.party
            end = (n.name, n.party)
            direct = ((base, maker), end) in arrows
            forked = ((base, maker), (base, n.party)) in arrows and (
                (base, n.party),
                end,
            ) in arrows
            assert direct or forked


@everywhere
def test_no_two_texts_overlap_and_all_lie_in_the_figure(topology):
    canvas = FigureCanvasAgg(drawn(topology))
    boxes = [
        t.get_window_extent(canvas.get_renderer()) for t in canvas.figure.axes[0].texts
    ]
    assert not [
        (i, j)
        for i, a in enumerate(boxes)
        for j, b in enumerate(boxes[:i])
        if a.overlaps(b)
    ]
    wide, high = canvas.get_width_height()
    assert all(0 <= b.x0 and 0 <= b.y0 and b.x1 <= wide and b.y1 <= high for b in boxes)


@pytest.mark.parametrize(
    "topology", [pytest.param(t, id=name) for name, t in SIX.items()]
)
def test_every_crossing_passes_a_cut(topology):
    ax = drawn(topology).axes[0]
    heights = [float(np.asarray(line.get_ydata())[0]) for line in ax.lines]
    cuts = [height for height in heights if height > 0]
    arrows = [a for a in ax.patches if a.get_gid()]
    assert arrows
    for a in arrows:
        ends = ax.transData.inverted().transform(a.get_window_extent())[:, 1]
        assert any(ends[0] < y < ends[1] for y in cuts)


@pytest.mark.parametrize(
    "name", ["vanilla", "vertical", "extended_vanilla", "multitask", "multihop"]
)
def test_values_cross_upwards(name):
    fig = drawn(SIX[name])
    for c in SIX[name].crossings:
        for n in SIX[name].nodes:
            if n.party == c.receiver and c.name in n.reads:
                assert place(fig, c.name)[1] < place(fig, n.name)[1]


def test_a_u_has_two_legs_and_the_server_at_the_turn():
    fig = drawn(SIX["u_shaped"])
    (x0, y0), (x1, y1), (x2, y2) = (place(fig, n) for n in ("up", "down", "output"))
    assert x0 < x1 < x2 and y1 > y0 == y2
    assert place(fig, "image")[1] < y0 and place(fig, "loss")[1] < y2


def test_a_value_read_by_two_nodes_of_its_receiver_arrives_once():
    _, _, arrows = parsed(mermaid(ODD["fork"]))
    fork = ("smashed", "server")
    assert [(a, kind, b) for a, kind, _, b in arrows if fork in (a, b)] == [
        (("smashed", "client"), "-->", fork),
        (fork, "-.->", ("smashed", "client")),
        (fork, "-->", ("output", "server")),
        (fork, "-->", ("extra", "server")),
    ]


def test_a_penalty_on_parameters_says_so():
    arrows = parsed(mermaid(ODD["penalties"]))[2]
    assert (("smashed", "client"), "-->", "params", ("decay", "client")) in arrows


def test_a_metric_is_drawn_as_a_loss_that_nothing_learns_from():
    assert '(["errors"])' in mermaid(ODD["metric"])
    shapes = figure(ODD["metric"]).axes[0].patches
    colours = {to_hex(p.get_facecolor()) for p in shapes}
    assert {"#fbe3dc", "#ffffff"} <= colours and "#222222" in colours
    assert '[/"label"/]' in mermaid(ODD["metric"])


def test_labels_are_fields_that_a_loss_but_no_segment_reads():
    text = mermaid(VANILLA)
    assert '[/"label"/]' in text and '[("image")]' in text


def test_dollars_are_no_mathematics():
    fig = figure(
        jsplit.vanilla(part("$\\frac$", "image"), part("output", "$\\frac$"), loss=loss)
    )
    fig.savefig(io.BytesIO(), format="png")
    assert place(fig, "$\\frac$")


@pytest.mark.parametrize("size", [(3, 2), (12, 12)])
def test_figure_fits_into_given_axes(size):
    given = Figure(figsize=size)
    ax = given.add_subplot(1, 2, 2)
    assert figure(SIX["multitask"], ax) is given
    canvas = FigureCanvasAgg(given)
    canvas.draw()
    inside = ax.get_window_extent()
    boxes = [t.get_window_extent(canvas.get_renderer()) for t in ax.texts]
    assert all(
        inside.x0 <= b.x0
        and b.x1 <= inside.x1
        and inside.y0 <= b.y0
        and b.y1 <= inside.y1
        for b in boxes
    )
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


@pytest.mark.parametrize("form", ["pdf", "svg"])
def test_figure_can_be_saved(form):
    out = io.BytesIO()
    figure(SIX["u_shaped"]).savefig(out, format=form)
    assert out.getvalue()


def test_importing_leaves_matplotlib_alone_and_drawing_leaves_pyplot_alone():
    code = """
import sys
import jsplit
assert "matplotlib" not in sys.modules
init = lambda key, *x: 0.0
seg = lambda name, *reads: jsplit.segment(lambda p, *x: p, init=init, inputs=reads, name=name)
topology = jsplit.vanilla(seg("smashed", "image"), seg("output", "smashed"), loss=lambda *x: 0.0)
jsplit.figure(topology)
assert "matplotlib" in sys.modules and "matplotlib.pyplot" not in sys.modules
print(jsplit.mermaid(topology), end="")
"""
    env = os.environ | {"PYTHONHASHSEED": "7", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == mermaid(VANILLA)


def test_a_notebook_shows_a_figure_though_pyplot_was_never_imported():
    drawn = figure(jsplit.vanilla(part("h", "x"), part("y", "h"), loss=loss))
    each: Any
    for each in (drawn, pickle.loads(pickle.dumps(drawn))):
        # As IPython asks an object for a picture.
        assert each._repr_png_().startswith(b"\x89PNG")


def test_a_message_is_printed_in_words():
    one = np.dtype("float32")
    about = "h", "activation", "client", "server"
    words = "activation h: client -> server, float32[4, 3]"
    assert str(jsplit.Message(*about, (4, 3), one, 48, 120)) == f"{words}, 48 bytes"
    both = jsplit.Message(*about, ((4, 3), ()), (one, np.dtype("int8")), 49, 128)
    assert str(both) == f"{words} and int8[], 49 bytes"
