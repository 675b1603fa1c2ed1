"""The cheapest nodes that part a graph: a minimum cut, by the largest flow.

Dinic's algorithm (E. A. Dinic, Soviet Math. Doklady 11, 1970). Of several cheapest cuts
it is the one next to the source, which is unique.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable

_ENDLESS = 1 << 60
"""More than any sum of costs."""


class Graph:
    """Nodes with a cost each, and ways from one to another.

    Each node is two, its entry and its exit, and between them is its cost.
    """

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}
        self._ends: list[list[int]] = [[], []]  # of the source and the sink
        self._to: list[int] = []
        self._left: list[int] = []

    def node(self, name: Hashable, cost: int | None) -> None:
        """Add a node that is not there yet.

        Args:
            name: of it.
            cost: of parting the graph there; `None`: it cannot be.
        """
        if name not in self._numbers:
            self._numbers[name] = len(self._ends)
            self._ends += [[], []]
            entry = self._numbers[name]
            self._edge(entry, entry + 1, _ENDLESS if cost is None else cost)

    def way(self, start: Hashable, end: Hashable) -> None:
        """Whoever lacks the value of `start` cannot have that of `end`, unless it is sent."""
        self._edge(self._numbers[start] + 1, self._numbers[end], _ENDLESS)

    def with_side(self, one: Hashable, other: Hashable) -> None:
        """Where `one` is made on the side of the source, `other` is too."""
        self._edge(self._numbers[one], self._numbers[other], _ENDLESS)

    def source(self, name: Hashable) -> None:
        """A node is made on the side of the source."""
        self._edge(0, self._numbers[name], _ENDLESS)

    def sink(self, name: Hashable) -> None:
        """The value of a node is needed on the side of the sink."""
        self._edge(self._numbers[name] + 1, 1, _ENDLESS)

    def _edge(self, start: int, end: int, room: int) -> None:
        self._ends[start].append(len(self._to))
        self._ends[end].append(len(self._to) + 1)
        self._to += [end, start]
        self._left += [room, 0]

    def cut(self) -> tuple[set[Hashable], set[Hashable]] | None:
        """The cheapest nodes that part the source from the sink.

        Returns:
            Those nodes, and all that are made on the side of the sink; `None` if there
            is no such cut.
        """
        flow = 0
        while (level := self._levels())[1] >= 0:
            at = [0] * len(self._ends)
            while pushed := self._push(level, at):
                flow += pushed
                if flow >= _ENDLESS:
                    return None
        reached = self._levels()
        cut: set[Hashable] = set()
        beyond: set[Hashable] = set()
        for name, entry in self._numbers.items():
            if reached[entry] < 0:
                beyond.add(name)
            elif reached[entry + 1] < 0:
                cut.add(name)
        return cut, beyond

    def _levels(self) -> list[int]:
        """How many steps each end is from the source, where there is room; -1: no way."""
        level = [-1] * len(self._ends)
        level[0] = 0
        queue = deque([0])
        while queue:
            here = queue.popleft()
            for edge in self._ends[here]:
                there = self._to[edge]
                if self._left[edge] and level[there] < 0:
                    level[there] = level[here] + 1
                    queue.append(there)
        return level

    def _push(self, level: list[int], at: list[int]) -> int:
        """Send all that one more way from source to sink has room for."""
        # Not by recursion: a way is as long as the model is deep.
        path: list[int] = []
        here = 0
        while here != 1:
            edges = self._ends[here]
            while at[here] < len(edges):
                edge = edges[at[here]]
                there = self._to[edge]
                if self._left[edge] and level[there] == level[here] + 1:
                    path.append(edge)
                    here = there
                    break
                at[here] += 1
            else:
                if not path:
                    return 0
                # A dead end: its last edge is not tried again.
                here = self._to[path.pop() ^ 1]
                at[here] += 1
        room = min(self._left[edge] for edge in path)
        for edge in path:
            self._left[edge] -= room
            self._left[edge ^ 1] += room
        return room
