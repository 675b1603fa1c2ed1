"""`jsplit certs`, `ids-key`, `agree` and `show`: what is done before a run."""

from __future__ import annotations

import argparse
import json

from jsplit import party as parties
from jsplit.commands.functions import load
from jsplit.party.contract import schema
from jsplit.party.contract.epochs import Epochs
from jsplit.party.contract.ids_key import made
from jsplit.training.walk import Wire


def certs(options: argparse.Namespace) -> int:
    """Make throw-away certificates, and print the names of their files."""
    for file in parties.certs(options.folder, options.parties, days=options.days):
        print(file)
    return 0


def ids_key(options: argparse.Namespace) -> int:
    """Draw a key for the digests of ids, and print the name of its file."""
    print(made(options.file))
    return 0


def agree(options: argparse.Namespace) -> int:
    """Write the agreement that a function gives, and print its file and hash.

    Raises:
        ValueError: if the function gives something else.
    """
    agreed = load(options.function)()
    if not isinstance(agreed, parties.Agreement):
        raise ValueError(
            f"`{options.function}` must give an agreement, got {type(agreed).__name__}."
        )
    # By the hash people can compare, on the phone, whether they have the same file.
    print(f"{parties.write(options.agreement, agreed)}  {agreed.hash}")
    return 0


def show(options: argparse.Namespace) -> int:
    """Print for people what the file of an agreement holds."""
    agreed = parties.read(options.agreement)
    print(agreed.topology_of_strangers)
    for wire in agreed.wires:
        value = json.dumps(_crossing(agreed, wire))
        # A value and its cotangent may have different links.
        there, back = agreed.link_names.get(wire.what, (None, None))
        link = there if wire.kind == "activation" else back
        print(f"  {wire.label}: {value}, link {link or 'none'}")
    for name, carried in agreed.carried.items():
        print(f"  {name} carries {', '.join(carried)}")
    for party, own in agreed.unread.items():
        for message, parts in own.items():
            print(f"  {party} needs no {', '.join(parts)} of {message}")
    if agreed.rotation is not None:
        _show_rotation(agreed)
    print(
        f"  {agreed.steps} steps of {agreed.batch}, seed {agreed.seed}, "
        f"a checkpoint every {agreed.checkpoint}, patience {agreed.patience:g} s, "
        f"stall {agreed.stall:g} s"
    )
    if agreed.epochs is not None:
        _show_epochs(agreed.epochs, agreed.epochs.decider(agreed.turns))
    listening = [f"{p} listens at {a}" for p, a in agreed.addresses.items()]
    print(f"  {', '.join(listening)}, lead {agreed.lead}")
    print(f"  hash {agreed.hash}")
    return 0


def _crossing(agreed: parties.Agreement, wire: Wire) -> schema.Words:
    """Shapes in words of what crosses: of masks no cotangent, and nothing unread."""
    small, large = (agreed.value(wire, n * agreed.batch) for n in (1, 2))
    found = schema.write(small, large, agreed.batch, wire.what)
    if isinstance(found, dict):
        return {name: words for name, words in found.items() if words is not None}
    return found


def _show_epochs(epochs: Epochs, decider: str) -> None:
    """Print what comes after how many steps, and who decides."""
    told = f", tells all {epochs.tells}" if epochs.tells else ", tells no number"
    print(
        f"  an epoch every {epochs.steps} steps, then {epochs.validation} records to "
        f"validate; {decider} decides{told}"
    )


def _show_rotation(agreed: parties.Agreement) -> None:
    """Print which clients there are, and in which order they take turns."""
    assert agreed.rotation is not None
    for client, cast in agreed.rotation.clients.items():
        roles = ", ".join(f"{party} is {role}" for role, party in cast.items())
        print(f"  client {client}: {roles}")
    order = ", ".join(f"{client} {steps}" for client, steps in agreed.rotation.order)
    print(
        f"  turns: {order}, and so on; hand-off {agreed.rotation.handoff}, "
        f"a missing client: {agreed.rotation.missing}"
    )
