"""What parties agree on before they train together: all but anyone's model.

From it every party builds the whole topology, with its own segments in it and
placeholders for all others. What its file says is in `agreement_attributes`, its
checks in `checks`, reading and writing in `files`; `draft` makes one from a topology.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from jsplit.core.base import Link, PyTree
from jsplit.core.checks import first_line
from jsplit.core.links import identity
from jsplit.party.contract.agreement_attributes import (
    AgreementRecord,
    canonical,
    record_of,
)
from jsplit.party.contract.checks import checked, with_format
from jsplit.party.contract.entries import as_json
from jsplit.party.contract.epochs import check_epochs
from jsplit.party.contract.exchanged import exchanging
from jsplit.party.contract.field_types import check_known
from jsplit.party.contract.link_names import check_links, link
from jsplit.party.contract.placeholders import Own, assemble
from jsplit.party.contract.routes import routes
from jsplit.party.contract.turns import Turns
from jsplit.party.contract.unread import check_unread, unread_of, whole
from jsplit.topology.graph import Topology
from jsplit.training.configure import both_ways
from jsplit.training.crossing import without
from jsplit.training.kinds import WireKind
from jsplit.training.walk import Wire
from jsplit.training.walks import all_wires, scalar_shape


@dataclass(frozen=True, eq=False, repr=False)
class Agreement(AgreementRecord):
    """What the parties of a topology have agreed on.

    `jsplit.party.agreement` makes one, `jsplit.party.read` reads one from a file. Two
    are equal if they say the same.

    Attributes:
        roles: the parties of the topology. Where clients take turns, several parties
            play the same role; `parties` are all of them.
        lead: the party that keeps all together.
        addresses: `host:port` of every party that listens.
        holds: by role, the fields that it holds.
        nodes: of the topology, in its order.
        losses: of the topology, in its order.
        values: by the name of a value that crosses, its shapes in words.
        link_names: by the name of a value, the names of the links of its activation and
            of its cotangent; `None` for no link.
        batch: how many records a step takes.
        microbatches: into how many parts a batch is divided.
        steps: of the run.
        rotation: how clients take turns, see `turns`; `None` where they do not.
        staleness: how many of the last updates the parameters of a step may lack.
        seed: of data order and common randomness.
        checkpoint: all save their state every so many steps.
        patience: how long a party is waited for that is away, in seconds.
        stall: how long one that is there may be at work on one step, in seconds.
        nonfinite: `"refuse"`, `"skip"` or `"allow"` what is not finite.
        identities: by party, the URI in its certificate, where it is not the usual one.
        hosts: by party, the host name in its certificate, likewise.
        fields: by the name of a field, its dtype, or those of all arrays of a tree; empty
            in an agreement of an older format.
        metrics: of the topology, in its order.
        unread: by party, and by message in words, the parts of its value that do not
            cross, because that party does not read them, or has or needs no cotangent.
        norms: of `jsplit.clip_by_global_norm`, which all exchange.
        wants_loss: the parties whose optimizers are sent the loss.
        weight: the entry of every party's data that says how much a record counts.
        loss_scale: a number, or those of a `jsplit.DynamicScale` by name.
        public: fields that are not secret, which may cross as they are.
        carried: by value, what goes with it, since the other side reads it too.
        epochs: of a training by epochs, their steps, the validation, and who decides.
        rotation_of_all: of one client: the rotation by which its checkpoints were made.

    Example:
        >>> from jsplit.party.contract.sample import sample_agreement
        >>> agreed = sample_agreement()
        >>> agreed.roles, agreed.lead, agreed.batch, agreed.values
        (('client', 'server'), 'server', 4, {'h': 'float32[batch,3]'})
    """

    def of(self, client: str) -> Agreement:
        """The agreement of one client alone with the parties that are always there.

        Evaluation and prediction take it, since they are of one client's records.

        Args:
            client: its name among those that take turns.

        Returns:
            The agreement; it reads the checkpoints that all have trained together.

        Raises:
            ValueError: if there is no such client.

        Example:
            >>> from jsplit.party.contract.sample import sample_agreement
            >>> sample_agreement("north", "south").of("north").parties
            ('north', 'server')
        """
        if self.rotation is None or client not in self.rotation.clients:
            there = ", ".join(self.turns.names) or "none"
            raise ValueError(f"`client` must be one of {there}, got {client!r}.")
        turns = as_json(self.rotation.alone(client, self.steps))
        there = {*Turns(turns, self.roles, self.steps).parties}
        # An address or a certificate of somebody who is not there would be refused.
        kept = {}
        for name in ("addresses", "identities", "hosts"):
            kept[name] = {p: x for p, x in self[name].items() if p in there}
        one = self.replace(turns=turns, epochs=None, **kept)
        everyone = self.rotation_of_all or self.rotation
        return dataclasses.replace(one, rotation_of_all=everyone)

    def replace(self, **changes: object) -> Agreement:
        """The same agreement with other addresses, steps or the like.

        Args:
            **changes: entries by their names in the file, which are those of the
                arguments of `jsplit.party.agreement`.

        Returns:
            The other agreement, checked like any.

        Raises:
            ValueError: naming what is not as it must be.

        Example:
            >>> from jsplit.party.contract.sample import sample_agreement
            >>> sample_agreement().replace(steps=20).steps
            20
        """
        said = {**self.said, **changes}
        # What is exchanged may need another format than what was there.
        kept = {"format": changes["format"]} if "format" in changes else {}
        made = parsed(with_format(said) | kept)
        return dataclasses.replace(made, rotation_of_all=self.rotation_of_all)

    def topology(self, party: str | None = None, own: Own | None = None) -> Topology:
        """The whole topology: one party's own segments and losses, and placeholders.

        Args:
            party: whose they are, by its role where clients take turns.
            own: its segments and functions of losses and metrics by name, or a topology
                that has them.

        Returns:
            The topology.

        Raises:
            ValueError: naming what is missing or not the party's.

        Example:
            >>> import jsplit
            >>> from jsplit.party.contract.sample import sample_agreement
            >>> bottom = jsplit.segment(lambda x: 2 * x, inputs="x")
            >>> topology = sample_agreement().topology("client", {"h": bottom})
            >>> topology.node["h"].segment is bottom
            True
        """
        losses = (*self.losses, *self.metrics)
        return assemble(self.nodes, losses, self.holds, party, own, self.public)

    @cached_property
    def topology_of_strangers(self) -> Topology:
        """The topology with none of its models.

        Example:
            >>> from jsplit.party.contract.sample import sample_agreement
            >>> sample_agreement().topology_of_strangers.parties
            ('client', 'server')
        """
        return self.topology()

    @cached_property
    def wires(self) -> tuple[Wire, ...]:
        """All that crosses in a step; a frame names its wire by the place in it.

        Example:
            >>> from jsplit.party.contract.sample import sample_agreement
            >>> [wire.label for wire in sample_agreement().wires]
            ['activation h to server']
        """
        return tuple(all_wires(exchanging(self, self.topology_of_strangers)))

    def value(self, wire: Wire, batch: int) -> PyTree:
        """Shapes and dtypes of what crosses on a wire, before its link.

        Args:
            wire: one of `wires`.
            batch: how many records cross at once.

        Returns:
            A pytree of `jax.ShapeDtypeStruct`.

        Example:
            >>> from jsplit.party.contract.sample import sample_agreement
            >>> agreed = sample_agreement()
            >>> agreed.value(agreed.wires[0], 2).shape
            (2, 3)
        """
        if wire.kind == WireKind.SCALAR:
            return scalar_shape(exchanging(self, self.topology_of_strangers), wire)
        unread = unread_of(self).get(wire, frozenset())
        return without(whole(self, wire, batch), unread)

    def links(
        self, given: Mapping[str, Link] | None = None
    ) -> dict[str, tuple[Link | None, Link | None]]:
        """The links of every value that has one, made from their names.

        Args:
            given: links of one's own by the names that the agreement gives them, beside
                those that `jsplit.compress` makes.

        Returns:
            By value, the links of its activation and of its cotangent.

        Raises:
            ValueError: naming the link that there is not.

        Example:
            >>> import jsplit
            >>> from jsplit.party.contract.sample import sample_agreement
            >>> agreed = sample_agreement()
            >>> [type(link).__name__ for link in agreed.links()["h"]]
            ['Link', 'Link']
        """
        pairs = self.link_names.items()
        return {n: (link(a, given), link(b, given)) for n, (a, b) in pairs}

    def reach(self, party: str) -> dict[str, str]:
        """How a party reaches each other one.

        Args:
            party: whose connections are meant.

        Returns:
            By each other party: `"dial"`, this one dials it; `"wait"`, it dials this
            one; `"lead"`, neither does, and frames go by way of the lead.

        Raises:
            ValueError: if the party is none of the agreement's.

        Example:
            >>> from jsplit.party.contract.sample import sample_agreement
            >>> sample_agreement("north", "south").reach("north")
            {'south': 'lead', 'server': 'dial'}
        """
        return routes(self, party)


def parsed(found: object) -> Agreement:
    """The agreement that a dictionary of JSON stands for, after all in it was checked.

    Args:
        found: as `Agreement.said` gives it.

    Raises:
        ValueError: naming what is not as it must be.
    """
    # By way of the text: there keys are sorted, so that an agreement read from a file
    # and one just made name parties and clients in the same order, and places in these
    # orders are what frames say.
    text = canonical(checked(found))
    try:
        made = record_of(Agreement, json.loads(text))
        _check_whole(made)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"an agreement does not hold what it must: {first_line(error)}"
        ) from None
    both_ways(made.topology_of_strangers, dict.fromkeys(made.link_names, identity))
    check_links(made.link_names)
    return made


def _check_whole(made: Agreement) -> None:
    """Refuse what shows only in the whole topology. Building it is most of the check."""
    topology = made.topology_of_strangers
    if set(topology.parties) != set(made.roles):
        raise ValueError(
            f"`parties` are {[*made.roles]}, nodes and fields of {[*topology.parties]}."
        )
    check_known(made.fields, topology.fields)
    check_unread(made)
    check_epochs(made)
    # Shapes that are not there or cannot be read are found now, and not at a party.
    for wire in made.wires:
        made.value(wire, made.batch)
