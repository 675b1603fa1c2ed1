"""How an agreement is made: from a topology, some of whose segments its maker may not have, and the shapes of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from jsplit.core.base import Link, PyTree
from jsplit.core.checks import first_line
from jsplit.core.trees import abstract, describe
from jsplit.party.contract import schema as shapes
from jsplit.party.contract.agreement import FORMAT, Agreement, check_addresses, checked
from jsplit.topology.graph import Topology
from jsplit.training.configure import check_batch, fields_of
from jsplit.training.initial import example


def agreement(
    topology: Topology,
    batch: Mapping[str, PyTree],
    *,
    steps: int,
    addresses: Mapping[str, str],
    lead: str | None = None,
    links: Mapping[str, Any] | None = None,
    microbatches: int = 1,
    turns: Mapping[str, Any] | None = None,
    staleness: int = 0,
    seed: int = 0,
    checkpoint: int = 100,
    patience: float = 600.0,
    nonfinite: str = "refuse",
    values: Mapping[str, PyTree] | None = None,
    identities: Mapping[str, str] | None = None,
    hosts: Mapping[str, str] | None = None,
) -> Agreement:
    """What the parties of a topology agree on.

    Args:
        topology: whose segments may be `foreign`, where nobody has them all.
        batch: shapes and dtypes of one batch; its size is that of every step.
        steps: of the run.
        addresses: `host:port` of every party that listens; others only dial out.
        lead: the party that all others have a connection with, and that keeps them together; by default the first that listens.
        links: by the name of a value, what is done to it on its way: `"quantize(8)"`, `"cast(bfloat16)"`, several joined by
            `" | "`, a name of one's own, or a pair of them (activation, cotangent) with `None` for none.
        microbatches: of a step, on their way at the same time.
        turns: who plays which role in which step, where clients take turns; see `jsplit.party.turns`.
        staleness: 0, every step with the parameters that the one before has left; else how many of the last updates these may
            lack, so that steps overlap: another training, which does not wait for the way there and back. See
            `jsplit.party.pipeline`.
        seed: of data order and randomness.
        checkpoint: all save their state every so many steps.
        patience: seconds to wait for a party before giving up.
        nonfinite: `"refuse"`, whoever gets an activation or cotangent that holds NaN or an infinite value ends the run and says
            so to all; `"allow"`.
        values: shapes of one batch of what `foreign` segments produce, where it crosses.
        identities: by party, the URI in its certificate, where it is not that of `jsplit certs`; `hosts`: the host name.

    Raises:
        ValueError: naming the argument that does not fit.
    """
    size = check_batch(topology, batch, set(), microbatches)
    small, large = (_measured(topology, batch, n, values) for n in (size, 2 * size))
    crossing = dict.fromkeys(c.name for c in topology.crossings)
    lead = lead if lead is not None else next(iter(addresses), None)
    if odd := [n for n, x in (links or {}).items() if isinstance(x, Link)]:
        raise ValueError(
            f'`links` of `{odd[0]}` must be a name, as "quantize(8)", from which each party makes the link.'
        )
    check_addresses(addresses)
    pairs = {
        n: list(x) if isinstance(x, (list, tuple)) else [x, x]
        for n, x in (links or {}).items()
    }
    return checked(
        {
            "format": FORMAT,
            "parties": list(topology.parties),
            "lead": lead,
            "addresses": dict(addresses),
            "holds": {p: list(fields) for p, fields in topology.holds.items()},
            "nodes": [
                {
                    "name": n.name,
                    "party": n.party,
                    "reads": list(n.reads),
                    "trainable": n.segment.trainable,
                }
                for n in topology.segments
            ],
            "losses": [
                {
                    "name": x.name,
                    "party": x.party,
                    "reads": list(x.reads),
                    "weight": float(x.weight),
                    "local": x.local,
                }
                for x in topology.losses
            ],
            "values": {n: shapes.write(small[n], large[n], size, n) for n in crossing},
            "links": pairs,
            "batch": size,
            "microbatches": microbatches,
            "steps": steps,
            "seed": seed,
            "checkpoint": checkpoint,
            "turns": turns,
            "staleness": staleness,
            "nonfinite": nonfinite,
            "patience": patience,
            "identities": dict(identities or {}),
            "hosts": dict(hosts or {}),
        }
    )


def _measured(
    topology: Topology,
    batch: Mapping[str, PyTree],
    size: int,
    given: Mapping[str, PyTree] | None,
) -> dict[str, PyTree]:
    """Shapes of every value at a batch size. Computes nothing."""
    found = {
        f: example(f, batch[f], size)
        for f in fields_of(topology, losses=False)
        if f in batch
    }
    own = next(iter(jax.tree.leaves(dict(batch)))).shape[0]
    for n in topology.segments:
        if n.name in (given or {}):
            scale = lambda x: jax.ShapeDtypeStruct(
                (x.shape[0] * size // own, *x.shape[1:]), x.dtype
            )  # noqa: E731
            found[n.name] = jax.tree.map(scale, abstract((given or {})[n.name]))
        elif all(i in found for i in n.reads) and not hasattr(
            n.segment.init, "foreign"
        ):
            inputs = [found[i] for i in n.reads]
            try:

                def first(*inputs, n=n):
                    key = jax.random.key(0)
                    params, state = n.segment.init(key, *inputs)
                    return n.segment.apply(params, state, key, *inputs)[0]

                found[n.name] = jax.eval_shape(first, *inputs)
            except Exception as error:
                got = ", ".join(
                    f"`{i}` {describe(x)}" for i, x in zip(n.reads, inputs, strict=True)
                )
                raise ValueError(
                    f"node `{n.name}` at `{n.party}` does not run on {got}: {first_line(error)}"
                ) from error
    for c in topology.crossings:
        if c.name not in found:
            raise ValueError(
                f"`values` must give the shapes of `{c.name}`, which crosses and cannot be computed here."
            )
    return found
