"""A party's trained segments as programs that run without the model's code, by `jax.export`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Lock

import jax
from jax import export as jax_export

from jsplit.core.base import PyTree, TrainState
from jsplit.core.checks import first_line
from jsplit.core.federation import Federation, one_model
from jsplit.core.loans import Loans, params_for
from jsplit.core.trees import abstract, as_arrays
from jsplit.topology.graph import Topology
from jsplit.topology.nodes import Node
from jsplit.training.free_sizes import BATCH, with_free_sizes


def export(
    topology: Topology,
    state: TrainState | Federation,
    fields: Mapping[str, PyTree],
    *,
    client: int | str | None = None,
    free: Mapping[str, Sequence[str | None]] | None = None,
    constraints: Sequence[str] = (),
    platforms: str | Sequence[str] | None = None,
) -> dict[str, dict[str, jax_export.Exported]]:
    """Export every party's segments in inference mode, with the batch size free.

    The weights are inside, and no path of a file of whoever exports.
    `export(...)["hospital"]["smashed"].call(image)` computes the node's
    value. `.serialize()` makes bytes of it (this needs the extra
    `jsplit[export]`), which `jax.export.deserialize` reads anywhere,
    without the model's code.

    Args:
        topology: of the trainer.
        state: the trained state, of a trainer or of an algorithm over
            rounds.
        fields: a batch, for shapes and dtypes alone; those fields that
            the nodes read, [batch, ...] each.
        client: whose model, by number or name, where `state` is of an
            algorithm whose clients have weights or statistics of their
            own.
        free: by field, names of its axes after the batch that are free too,
            as `{"tokens": ["time"], "mask": ["time"]}`: axes of one name
            have one size. `None` is an axis whose size is that of `fields`;
            so are those for which no name is given.
        constraints: what holds of these sizes, as `["time <= 512"]` for a table
            of so many positions; as `jax.export.symbolic_shape` takes it.
        platforms: where it shall run, as `("cpu", "cuda", "tpu")`; by
            default where it is exported.

    Returns:
        By party and node, the exported functions of the node's inputs,
        in their order.

    Raises:
        ValueError: if a field is missing, the state is of another
            topology, a client is needed and missing, `free` names no field
            or no axis, or a segment does not run with these sizes free.

    Example:
        >>> import jax.numpy as jnp, jsplit
        >>> client = jsplit.segment(lambda x: 2 * x**2, inputs=["x"], name="h")
        >>> server = jsplit.segment(lambda h: h.sum(-1), inputs=["h"], name="sum")
        >>> topology = jsplit.vanilla(client, server, loss=lambda o, y: (o - y) ** 2)
        >>> batch = {"x": jnp.ones((4, 3)), "label": jnp.ones(4)}
        >>> state = jsplit.fused(topology, {}).init(0, batch)
        >>> exported = jsplit.export(topology, state, {"x": batch["x"]})
        >>> {party: list(nodes) for party, nodes in exported.items()}
        {'client': ['h'], 'server': ['sum']}
        >>> exported["client"]["h"].call(jnp.ones((7, 3))).shape
        (7, 3)
    """
    state = one_model(state, client)
    _check_complete(topology, state, fields)
    platforms = (platforms,) if isinstance(platforms, str) else platforms
    # In sorted order, so that of two wrong fields the same is named each time.
    read = sorted(_fields_read(topology))
    shapes = {
        f: abstract(x) for f, x in as_arrays({f: fields[f] for f in read}).items()
    }
    values = with_free_sizes(shapes, free or {}, constraints)
    exported: dict[str, dict[str, jax_export.Exported]] = {
        party: {} for party in topology.parties
    }
    for n in topology.segments:
        inputs = [values[i] for i in n.reads]
        made = _exported(topology.loans, n, state, inputs, platforms)
        exported[n.party][n.name] = made

        # Nodes downstream are given what this one gives, in the same
        # symbol.
        outputs = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in made.out_avals]
        values[n.name] = jax.tree.unflatten(made.out_tree, outputs)
    return exported


def _fields_read(topology: Topology) -> set[str]:
    """The fields that nodes read; those of losses alone are not needed."""
    return {i for n in topology.segments for i in n.reads if i in topology.fields}


def _check_complete(
    topology: Topology, state: TrainState, fields: Mapping[str, PyTree]
) -> None:
    """Refuse missing fields, and a state of another topology."""
    if missing := sorted(_fields_read(topology) - fields.keys()):
        raise ValueError(
            f"`fields` lacks `{missing[0]}`; it has {', '.join(fields) or 'none'}."
        )
    for n in topology.segments:
        own = state.parties.get(n.party)
        if own is None or n.name not in own.params:
            raise ValueError(
                f"`state` is of another topology: it has nothing of the node `{n.name}` "
                f"at `{n.party}`."
            )


def _freed(inputs: Sequence[PyTree]) -> str:
    """The sizes of inputs that are free, in words."""
    sizes = {str(n) for x in jax.tree.leaves(inputs) for n in x.shape if not _fixed(n)}
    others = sorted(sizes - {BATCH})
    return f"a free {' and '.join(['batch size', *others])}"


_PLACES = "jax_traceback_in_locations_limit"
_one_at_a_time = Lock()


@contextmanager
def _without_places() -> Iterator[None]:
    """Have JAX write no place in the code beside each operation of a program.

    A program that another party is given would tell it the folders, and so the users and
    the projects, of the machine that made it.
    """
    # JAX has one setting for all threads; what others trace meanwhile lacks places too.
    with _one_at_a_time:
        before = getattr(jax.config, _PLACES)
        jax.config.update(_PLACES, 0)
        try:
            yield
        finally:
            jax.config.update(_PLACES, before)


def _fixed(size: object) -> bool:
    return isinstance(size, int)


def _exported(
    loans: Loans,
    node: Node,
    state: TrainState,
    inputs: Sequence[PyTree],
    platforms: Sequence[str] | None,
) -> jax_export.Exported:
    """One node with its weights, exported for inputs of these shapes."""
    own = state.parties[node.party]
    params, statistics = params_for(loans, node.name, own.params), own.state[node.name]

    def run(*inputs: PyTree) -> PyTree:
        # Inference draws nothing, so there is no key.
        value, _ = node.segment.apply(params, statistics, None, *inputs, train=False)
        return value

    try:
        with _without_places():
            return jax_export.export(jax.jit(run), platforms=platforms)(*inputs)
    except Exception as error:
        # It ran with numbers in training, so it is the free size that
        # it cannot have.
        raise ValueError(
            f"`{node.name}` cannot be exported, it does not run with {_freed(inputs)}: "
            f"{first_line(error)}"
        ) from error
