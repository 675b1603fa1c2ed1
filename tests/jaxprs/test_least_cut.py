"""The cheapest nodes that part a graph are those that trying all sets finds."""

from itertools import combinations

import numpy as np
import pytest

from jsplit.jaxprs.least_cut import Graph


def parts(ways, sources, sinks, cut):
    """Whether nothing is read around a set of nodes."""
    there = {n for n in sources if n not in cut}
    for start, end in ways:  # in the order of a program
        if start in there and end not in cut:
            there.add(end)
    return there.isdisjoint(sinks)


def drawn(seed):
    """A random program: nodes in order, costs, ways, inputs without a cost, readers."""
    rng = np.random.default_rng(seed)
    nodes = range(8)
    costs = {
        n: None if n < 2 or rng.random() < 0.15 else int(rng.integers(1, 9))
        for n in nodes
    }
    ways = [
        (a, b) for b in nodes for a in nodes if a < b and b > 1 and rng.random() < 0.4
    ]
    return nodes, costs, ways, [0, 1], [6, 7]


@pytest.mark.parametrize("seed", range(30))
def test_the_cut_is_the_cheapest_of_all_sets(seed):
    nodes, costs, ways, sources, sinks = drawn(seed)
    graph = Graph()
    for n in nodes:
        graph.node(n, costs[n])
    for a, b in ways:
        graph.way(a, b)
    for n in sources:
        graph.source(n)
    for n in sinks:
        graph.sink(n)
    free = [n for n in nodes if costs[n] is not None]
    tried = [
        sum(costs[n] for n in some)
        for size in range(len(free) + 1)
        for some in combinations(free, size)
        if parts(ways, sources, sinks, some)
    ]
    found = graph.cut()
    if not tried:
        assert found is None
    else:
        assert found is not None
        cut, beyond = found
        assert parts(ways, sources, sinks, cut) and not cut & beyond
        assert sum(costs[n] for n in cut) == min(tried)


def test_of_two_cuts_as_cheap_it_is_the_one_next_to_the_source():
    graph = Graph()
    for n, cost in (("x", None), ("a", 3), ("b", 3)):
        graph.node(n, cost)
    graph.way("x", "a")
    graph.way("a", "b")
    graph.source("x")
    graph.sink("b")
    assert graph.cut() == ({"a"}, {"b"})


def test_what_must_be_on_one_side_is():
    """A weight of the sink takes with it what reads it, though that costs more."""
    graph = Graph()
    for n, cost in (("x", None), ("w", None), ("a", 5), ("b", 1)):
        graph.node(n, cost)
    graph.way("x", "a")
    graph.way("a", "b")
    graph.way("w", "b")
    graph.with_side("b", "w")
    graph.source("x")
    graph.sink("b")
    assert graph.cut() == ({"b"}, set())
    graph.sink("w")
    assert graph.cut() == ({"a"}, {"w", "b"})
