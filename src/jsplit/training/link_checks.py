"""Links are looked at when a trainer is made: their form, and that senders have what they read.

What a link reads lies at its sender, in a step and before the message goes out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import jax

from jsplit.core.base import Link, PyTree, Receiver
from jsplit.core.secret_keys import is_in_a_trace
from jsplit.topology.graph import Topology
from jsplit.training.kinds import WireKind


def check_reads(topology: Topology, links: Mapping[tuple[str, str], Link]) -> None:
    """Refuse a link that reads what its sender does not have when it sends.

    Args:
        topology: whose values cross.
        links: by the kind of message and the name of the value.

    Raises:
        ValueError: naming the link, what it reads, and the party.
    """
    for c in topology.crossings:
        up = links.get((WireKind.ACTIVATION, c.name))
        down = links.get((WireKind.COTANGENT, c.name))
        if up is not None:
            _check(topology, up, WireKind.ACTIVATION, c.name, c.sender)
        if down is not None and c.returns:
            _check(topology, down, WireKind.COTANGENT, c.name, c.receiver)


def check_fields(
    topology: Topology,
    links: Mapping[tuple[str, str], Link],
    parties: Collection[str],
    batch: Mapping[str, PyTree],
) -> None:
    """Refuse fields that a link is not for, as labels of more classes than it hides.

    Args:
        topology: whose values cross.
        links: by the kind of message and the name of the value.
        parties: whose fields are there.
        batch: the first one; of shapes alone, or within a trace, nothing is looked at.

    Raises:
        ValueError: as the link's `check` says.
    """
    for c in topology.crossings:
        for kind, sender in (
            (WireKind.ACTIVATION, c.sender),
            (WireKind.COTANGENT, c.receiver),
        ):
            link = links.get((kind, c.name))
            if link is None or link.check is None or sender not in parties:
                continue
            held = {n: batch[n] for n in link.reads if n in batch}
            leaves = jax.tree.leaves(held)
            shapes = any(isinstance(x, jax.ShapeDtypeStruct) for x in leaves)
            if not shapes and not is_in_a_trace(leaves):
                link.check(held)


def check_noise(topology: Topology, microbatches: int, *, scaled: bool) -> None:
    """Refuse what would clip gradients, or add noise to them, in other units than stated.

    Args:
        topology: whose segments may ask for noise.
        microbatches: how many the batch is cut into.
        scaled: whether there is a loss scale.

    Raises:
        ValueError: naming the node.
    """
    private = [n.name for n in topology.segments if n.segment.noise is not None]
    if not private or (microbatches == 1 and not scaled):
        return
    what = "`loss_scale`" if scaled else f"`microbatches={microbatches}`"
    raise ValueError(
        f"{what} cannot go with the private segment of `{private[0]}`: it clips what each "
        "record adds to the gradient of the whole batch, without a scale."
    )


def _check(topology: Topology, link: Link, kind: str, name: str, sender: str) -> None:
    where = f"the link of the {kind} `{name}`"
    _check_form(link, where)
    # A projection goes both ways, and its `pull` is of the value alone. Of noise that is
    # learned nothing would be learned.
    if link.pull is not None and link.secret and kind == WireKind.COTANGENT:
        raise ValueError(
            f"{where}: a cotangent has no `pull`; nothing comes back of it."
        )
    held = topology.holds.get(sender, ())
    # What is received is not among them: of it only that crosses which nodes read.
    made = [n.name for n in topology.segments if n.party == sender]
    if kind == WireKind.ACTIVATION:
        # Segments are in the order of a forward pass.
        made = made[: made.index(name) + 1]
    for n in link.reads:
        if n not in held and n not in made:
            late = n in topology.node and topology.node[n].party == sender
            why = (
                f"which `{sender}` computes later"
                if late
                else f"which is no field and no node of `{sender}`"
            )
            there = ", ".join(f"`{x}`" for x in (*held, *made)) or "nothing"
            raise ValueError(
                f"{where} reads `{n}`, {why}; it has {there}. Who holds a field that only "
                "links read is said by `dataclasses.replace(topology, holds=...)`."
            )


def _check_form(link: Link, where: str) -> None:
    """Refuse what are no names, as one text, whose letters would be taken for them."""
    names = link.reads
    if not isinstance(names, tuple) or not all(isinstance(n, str) for n in names):
        raise ValueError(
            f"`reads` of {where} must be a tuple of names, got {type(names).__name__}."
        )
    if not isinstance(link.secret, bool):
        raise ValueError(
            f"`secret` of {where} must be True or False, got {type(link.secret).__name__}."
        )
    if not isinstance(link.strengths, Mapping):
        raise ValueError(
            f"`strengths` of {where} must be numbers by name, got "
            f"{type(link.strengths).__name__}."
        )
    if link.receiver is not None and not isinstance(link.receiver, Receiver):
        raise ValueError(
            f"`receiver` of {where} must be a jsplit.Receiver or None, got "
            f"{type(link.receiver).__name__}."
        )
    if both := sorted({*names} & {*link.strengths}):
        raise ValueError(f"{where} has `{both[0]}` in `reads` and in `strengths`.")
