"""A `Topology`: who computes what, who holds what, and therefore what crosses.

Nodes name the values they read, so what crosses between parties follows and
is never written down. Whatever else follows from the nodes is a property
here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

from jsplit.topology import crossings as across
from jsplit.topology.crossings import Crossing
from jsplit.topology.metrics import Metric
from jsplit.topology.names import as_names
from jsplit.topology.nodes import Loss, Node, in_order
from jsplit.topology.own_values import reading_own
from jsplit.topology.replacing import replace_party
from jsplit.topology.text import in_html, in_words
from jsplit.topology.ties import loans
from jsplit.topology.validation import validate


@dataclass(frozen=True)
class Topology:
    """Segments at parties, the fields they hold, and the losses.

    Frozen, hashable, valid once built. Printed, it shows who holds and computes what.

    Attributes:
        nodes: `Node`, `Loss` and `Metric`, in any order.
        holds: The data fields of each party. Labels are fields like any
            other.
        instead_of: Of one that `replace` made: the topology that all other
            parties take it for.
        public: Fields that are not secret, which may cross as they are. `init` of a
            trainer refuses a value that holds another field, at most moved or scaled.

    Raises:
        ValueError: Naming the culprit, if a name is taken twice; an input
            is no field and no value; a field is read by a party that does
            not hold it; a loss cannot be computed; nodes read each other in
            a circle.

    Example:
        >>> import jsplit, optax
        >>> import jax.numpy as jnp
        >>> init = lambda key, x: jnp.ones((4, 4))
        >>> dense = jsplit.segment(lambda w, x: x @ w, init=init)
        >>> entropy = optax.softmax_cross_entropy_with_integer_labels
        >>> jsplit.Topology(
        ...     nodes=[
        ...         jsplit.Node("smashed", dense, party="hospital", inputs=["image"]),
        ...         jsplit.Node("logits", dense, party="server", inputs=["smashed"]),
        ...         jsplit.Loss("loss", entropy, "server", ["logits", "label"]),
        ...     ],
        ...     holds={"hospital": ["image"], "server": ["label"]},
        ... )
        Topology
          hospital  holds image; smashed = segment(image)
          server    holds label; logits = segment(smashed); loss = loss(logits, label)
          smashed: hospital <-> server
    """

    nodes: Sequence[Node | Loss | Metric]
    holds: Mapping[str, Sequence[str]]
    instead_of: Topology | None = field(default=None, compare=False)
    public: str | Sequence[str] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.holds, Mapping):
            got = type(self.holds).__name__
            what = "`holds` must be a dictionary of fields by party"
            raise ValueError(f"{what}, got {got}.")
        if not isinstance(self.nodes, Iterable):
            raise ValueError(
                f"`nodes` must be a list, got {type(self.nodes).__name__}."
            )
        held = {
            party: as_names(f"party `{party}`", fields, "holds")
            for party, fields in self.holds.items()
        }
        nodes = reading_own(self.nodes)
        public = as_names("the topology", self.public, "public")
        # What follows is computed once and kept, so neither argument may change later.
        object.__setattr__(self, "holds", MappingProxyType(held))
        object.__setattr__(self, "nodes", nodes)
        object.__setattr__(self, "public", public)
        validate(nodes, held, public)

    def __reduce__(self) -> tuple:
        # A mapping proxy cannot be pickled; building it anew drops the caches as well.
        return Topology, (self.nodes, dict(self.holds), self.instead_of, self.public)

    def __hash__(self) -> int:
        # By hand: the dataclass would hash `holds`, and a mapping has no hash.
        return hash((self.nodes, tuple(sorted(self.holds.items())), self.public))

    def add(self, *nodes: Node | Loss | Metric) -> Topology:
        """The same topology with further nodes, losses, penalties or metrics.

        Args:
            *nodes: `Node`, `Loss` and `Metric`, in any order.

        Returns:
            A new topology; this one is not changed.

        Raises:
            ValueError: As for `Topology`, naming the culprit.

        Example:
            >>> import jsplit
            >>> bottom, top = (jsplit.segment(lambda x: x) for _ in range(2))
            >>> topology = jsplit.vanilla(bottom, top, loss=max)
            >>> decay = jsplit.Penalty("decay", max, "client", "smashed.params")
            >>> [loss.name for loss in topology.add(decay).losses]
            ['loss', 'decay']
        """
        return dataclasses.replace(self, nodes=(*self.nodes, *nodes))

    # Written in the file of its idea: it makes a topology of the same class.
    replace = replace_party

    # What follows from the nodes is cached: interpreters ask for it in every trace, and a
    # frozen topology cannot change.
    @cached_property
    def segments(self) -> tuple[Node, ...]:
        """The nodes that compute values, each after those that it reads.

        Returns:
            Nodes in the order of a forward pass.

        Example:
            >>> import jsplit
            >>> bottom, top = (jsplit.segment(lambda x: x) for _ in range(2))
            >>> [n.name for n in jsplit.vanilla(bottom, top, loss=max).segments]
            ['smashed', 'output']
        """
        return in_order(n for n in self.nodes if isinstance(n, Node))

    @cached_property
    def losses(self) -> tuple[Loss, ...]:
        """The losses, metrics and penalties, as listed in `nodes`.

        Returns:
            All nodes that are a `Loss`.

        Example:
            >>> import jsplit
            >>> bottom, top = (jsplit.segment(lambda x: x) for _ in range(2))
            >>> jsplit.vanilla(bottom, top, loss=max).losses[0].reads
            ('output', 'label')
        """
        return tuple(n for n in self.nodes if isinstance(n, Loss))

    @cached_property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics of whole sets, as listed in `nodes`.

        Returns:
            All nodes that are a `Metric`.

        Example:
            >>> import jsplit
            >>> bottom, top = (jsplit.segment(lambda x: x) for _ in range(2))
            >>> jsplit.vanilla(bottom, top, loss=max).metrics
            ()
        """
        return tuple(n for n in self.nodes if isinstance(n, Metric))

    @cached_property
    def parties(self) -> tuple[str, ...]:
        """Every party, in the order of its first part in a step.

        Returns:
            Names, each once; parties that only hold fields come last.

        Example:
            >>> import jsplit
            >>> bottom, top = (jsplit.segment(lambda x: x) for _ in range(2))
            >>> jsplit.vanilla(bottom, top, loss=max, client="lab").parties
            ('lab', 'server')
        """
        parts = (*self.segments, *self.losses, *self.metrics)
        computing = [n.party for n in parts]
        return tuple(dict.fromkeys([*computing, *self.holds]))

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """The names of all data fields, labels included.

        Returns:
            Names, each once, however many parties hold the field.

        Example:
            >>> import jsplit
            >>> bottom, top = (jsplit.segment(lambda x: x) for _ in range(2))
            >>> jsplit.vanilla(bottom, top, loss=max).fields
            ('x', 'label')
        """
        return tuple(dict.fromkeys(f for held in self.holds.values() for f in held))

    @cached_property
    def node(self) -> Mapping[str, Node]:
        """The nodes that compute values, by name.

        Returns:
            A mapping that cannot be changed.

        Example:
            >>> import jsplit
            >>> bottom, top = (jsplit.segment(lambda x: x) for _ in range(2))
            >>> jsplit.vanilla(bottom, top, loss=max).node["smashed"].party
            'client'
        """
        return MappingProxyType({n.name: n for n in self.segments})

    @cached_property
    def depends_on_params(self) -> frozenset[str]:
        """Values that depend on some parameter, so that a cotangent for them is of use.

        Returns:
            Names of nodes.

        Example:
            >>> import jsplit
            >>> fixed = jsplit.segment(lambda x: x)
            >>> init = lambda key, h: 1.0
            >>> trained = jsplit.segment(lambda w, h: w * h, init=init)
            >>> sorted(jsplit.vanilla(fixed, trained, loss=max).depends_on_params)
            ['output']
        """
        return across.find_dependent(self.segments)

    @cached_property
    def on_loss_path(self) -> frozenset[str]:
        """Values that some loss depends on, other than through parameters it reads itself.

        Returns:
            Names of nodes.

        Example:
            >>> import jsplit
            >>> bottom, top = (jsplit.segment(lambda x: x) for _ in range(2))
            >>> topology = jsplit.vanilla(bottom, top, loss=max)
            >>> aside = jsplit.Node("aside", top, "client", ["smashed"])
            >>> sorted(topology.add(aside).on_loss_path)
            ['output', 'smashed']
        """
        return across.find_on_loss_path(self.node, self.losses)

    trained = property(lambda self: self.depends_on_params)  # the name until 0.1
    objective = property(lambda self: self.on_loss_path)  # the name until 0.1

    @cached_property
    def crossings(self) -> tuple[Crossing, ...]:
        """Every crossing of a step, in the order in which the values are made.

        Returns:
            A `Crossing` for every value and party that reads it elsewhere; for a
            `Metric` it crosses in `evaluate` alone.

        Example:
            >>> import jsplit
            >>> bottom, top = (jsplit.segment(lambda x: x) for _ in range(2))
            >>> jsplit.vanilla(bottom, top, loss=max).crossings
            (Crossing(name='smashed', sender='client', receiver='server', returns=False),)
        """
        readers = (*self.losses, *self.metrics)
        return across.find_crossings(
            self.node, readers, self.depends_on_params, self.on_loss_path
        )

    loans = cached_property(loans)

    @cached_property
    def sinks(self) -> tuple[str, ...]:
        """The values that no other node reads: what `predict` returns.

        Returns:
            Names of nodes.

        Example:
            >>> import jsplit
            >>> bottom, top = (jsplit.segment(lambda x: x) for _ in range(2))
            >>> jsplit.vanilla(bottom, top, loss=max).sinks
            ('output',)
        """
        read = {i for n in self.segments for i in n.reads}
        return tuple(n.name for n in self.segments if n.name not in read)

    def __repr__(self) -> str:
        return in_words(self)

    def _repr_html_(self) -> str:
        return in_html(self)
