"""From gradients to the next parameters.

Gradients of micro-batches are summed, and each party takes one step of
its optimizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jsplit.core.base import PyTree
from jsplit.core.finite import few_numbers
from jsplit.core.trees import combine, inexact_part
from jsplit.topology.nodes import Loss
from jsplit.training.config import Config
from jsplit.training.gradient_noise import noise_ops
from jsplit.training.kinds import Kind, OpKind
from jsplit.training.loss_scale import unscale_op
from jsplit.training.losses import loss_name
from jsplit.training.optimizers import run_optimizer
from jsplit.training.scalar_exchange import Exchange, exchange_ops
from jsplit.training.step_numbers import numbers_name, numbers_of, watches
from jsplit.training.strengths import weight_in, weight_names
from jsplit.training.sums import gradient_of, gradients, total
from jsplit.training.walk import Name, Op
from jsplit.training.whole_paths import without_pieces

_PROPOSED = {
    Kind.PARAMS: Kind.PROPOSED_PARAMS,
    Kind.OPTIMIZER: Kind.PROPOSED_OPTIMIZER,
}

SQUARED_NORMS = "squared norms"
"""What their messages are called."""


def proposed(name: Name) -> Name:
    """Where parameters or an optimizer state lie that a step may yet leave out."""
    return name._replace(kind=_PROPOSED[name.kind])


def updated(config: Config, party: str) -> list[Name]:
    """What the optimizer step of a party replaces: its state, and parameters."""
    nodes = gradients(config, party)
    params = [Name(party, Kind.PARAMS, n) for n in nodes]
    return [Name(party, Kind.OPTIMIZER), *params] if params else []


def tells(config: Config, party: str) -> bool:
    """Whether a party's step has more to tell: one without parameters has nothing."""
    return watches(config) and bool(updated(config, party))


def few_before(party: str) -> Name:
    """Where the few numbers of an optimizer's state lie that may be infinite, as they were."""
    return Name(party, Kind.FEW_BEFORE)


def norms(config: Config) -> Exchange:
    """The exchange of squared norms."""
    owners = [p for p in config.topology.parties if updated(config, p)]
    return Exchange(SQUARED_NORMS, tuple(owners), tuple(owners))


def losses(config: Config) -> Exchange:
    """The exchange of the loss, which goes to those alone that ask for it."""
    # In the order of the parties, each once.
    having = {x.party for x in config.topology.losses if x.weight}
    givers = tuple(p for p in config.topology.parties if p in having)
    return Exchange("loss", givers, config.wants_loss)


def exchanges(config: Config) -> list[Exchange]:
    """What parties exchange before their optimizers' steps."""
    return [
        *([norms(config)] if config.norms else []),
        *([losses(config)] if config.wants_loss else []),
    ]


def update_ops(config: Config) -> list[Op]:
    """One optimizer step at each party, from its gradients or, with micro-batches, their mean.

    Before them all exchange what some optimizer needs of others.
    """
    ops: list[Op] = []
    for party in config.topology.parties:
        ops += unscale_op(config, party, gradient_names(config, party))
        ops += noise_ops(config, party)
    # The loss first: an optimizer may look at it before it clips.
    for exchange in reversed(exchanges(config)):
        measure = _norms_op if exchange.name == norms(config).name else _loss_op
        ops += [measure(config, party, exchange) for party in exchange.givers]
        ops += exchange_ops(config.topology, exchange)
    return ops + [update_op(config, party) for party in config.topology.parties]


def gradient_names(config: Config, party: str) -> list[Name]:
    """Where all lies that adds up to the gradients of a party, at the end of a step."""
    names = [x for found in gradients(config, party).values() for x in found]
    return [total(x) for x in names] if config.microbatches > 1 else names


class _Inputs(NamedTuple):
    """Where lies what a party's optimizer is given.

    Attributes:
        updated: its state, and parameters by node.
        gradients: by node, what adds up to their gradient.
        losses: of the party, those that are minimised.
    """

    updated: list[Name]
    gradients: dict[str, list[Name]]
    losses: list[Loss]

    def names(self, config: Config) -> list[Name]:
        """All of it, in the order that `optimizer_inputs` reads."""
        grads = [name for names in self.gradients.values() for name in names]
        if config.microbatches > 1:
            grads = [total(x) for x in grads]
        return [*self.updated, *grads, *self.objective(config)]

    def objective(self, config: Config) -> list[Name]:
        """The losses, and the strengths that are their weights."""
        losses = [loss_name(x) for x in self.losses]
        if config.microbatches > 1:
            losses = [total(x) for x in losses]
        return losses + [n for x in self.losses for n in weight_names(x)]


def _inputs(config: Config, party: str) -> _Inputs:
    losses = [x for x in config.topology.losses if x.party == party and x.weight]
    return _Inputs(updated(config, party), gradients(config, party), losses)


class _Given(NamedTuple):
    """What a party's optimizer is given: values, where `_Inputs` has names."""

    memory: PyTree
    params: dict[str, PyTree]
    gradient: dict[str, PyTree]
    loss: jax.Array

    @property
    def weights(self) -> PyTree:
        """The floating leaves of the parameters, which are what is trained."""
        return inexact_part(self.params)


def _given(config: Config, at: _Inputs, values: Sequence[PyTree]) -> _Given:
    """What an optimizer is given, from the values of `_Inputs.names`."""
    memory, rest = (), list(values)
    if at.updated:
        memory, *rest = rest
    count = len(at.gradients)
    params = dict(zip(at.gradients, rest[:count], strict=True))
    rest = rest[count:]
    gradient = {}
    for n, names in at.gradients.items():
        terms, rest = rest[: len(names)], rest[len(names) :]
        gradient[n] = gradient_of(config, inexact_part(params[n]), terms)
    return _Given(memory, params, gradient, _loss(config, at, rest))


def _loss(config: Config, at: _Inputs, values: Sequence[jax.Array]) -> jax.Array:
    """The sum of a party's losses, each times its weight, from what lies at `objective`."""
    loss = jnp.zeros((), jnp.result_type(float))
    count = len(at.losses)
    found = dict(zip(at.objective(config)[count:], values[count:], strict=True))
    for x, value in zip(at.losses, values[:count], strict=True):
        loss = (
            loss + weight_in(x, found) * value.astype(loss.dtype) / config.microbatches
        )
    return loss


def knows_loss(config: Config, party: str) -> bool:
    """Whether a party computes every loss that is minimised, or is sent their sum."""
    minimised = [x.party for x in config.topology.losses if x.weight]
    return party in config.wants_loss or {*minimised} == {party}


def _loss_op(config: Config, party: str, exchange: Exchange) -> Op:
    """The party's part of the loss that is minimised."""
    at = _inputs(config, party)

    def run(*values):
        return (_loss(config, at, values).reshape(1),)

    names = at.objective(config)
    return Op(party, OpKind.MEASURE, "", tuple(names), (exchange.part(party),), run)


def _norms_op(config: Config, party: str, exchange: Exchange) -> Op:
    """The squares of the norms of the party's own gradients."""
    at, optimizer = _inputs(config, party), config.optimizer[party]
    sent = _sent_loss(config, party)

    def run(*values):
        whole, values = values[: len(sent)], values[len(sent) :]
        given = _given(config, at, values)
        *_, parts = run_optimizer(
            optimizer,
            given.gradient,
            given.memory,
            given.weights,
            value=_value(config, party, whole, given),
        )
        dtype = jnp.result_type(float)
        return (jnp.stack([parts[n].astype(dtype) for n in config.norms]),)

    reads = (*sent, *at.names(config))
    return Op(party, OpKind.MEASURE, "", reads, (exchange.part(party),), run)


def _sent_loss(config: Config, party: str) -> list[Name]:
    """Where the loss lies that a party is sent, if it is sent one."""
    return [losses(config).sum(party)] if party in config.wants_loss else []


def _value(
    config: Config, party: str, sent: Sequence[jax.Array], given: _Given
) -> jax.Array | None:
    """The loss that an optimizer is given, if its party knows it."""
    if sent:
        return sent[0][0]
    return given.loss if knows_loss(config, party) else None


def update_op(config: Config, party: str) -> Op:
    """The optimizer step of one party, over the floating leaves of its parameters.

    Other leaves stay as they are.
    """
    step, at = Name(party, Kind.STEP), _inputs(config, party)
    # A party without parameters counts steps nevertheless: randomness
    # is a function of them.
    if not at.updated:
        return Op(party, OpKind.UPDATE, "", (step,), (step,), lambda step: (step + 1,))
    optimizer, sent = config.optimizer[party], _sent_loss(config, party)
    squares = [norms(config).sum(party)] if config.norms else []
    looks, tells = config.nonfinite != "allow", watches(config)

    def run(step, *values):
        whole, values = values[: len(sent)], values[len(sent) :]
        sums = {}
        if squares:
            squared, *values = values
            sums = dict(zip(config.norms, squared, strict=True))
        given = _given(config, at, values)
        _check_optimizer_state(party, optimizer, given.weights, given.memory)
        updates, memory, _ = run_optimizer(
            optimizer,
            given.gradient,
            given.memory,
            given.weights,
            value=_value(config, party, whole, given),
            sums=sums,
        )
        moved = optax.apply_updates(given.weights, updates)
        new: dict[str, PyTree] = combine(given.params, moved)
        # Given by this program, which may use up the state that it reads.
        few = [few_numbers(given.memory)] if looks else []
        told = []
        if tells:
            told = [numbers_of(config, party, given.gradient, updates, memory)]
        return step + 1, memory, *[new[n] for n in at.gradients], *few, *told

    reads = (step, *sent, *squares, *at.names(config))
    skips = config.nonfinite == "skip"
    writes = [proposed(x) if skips else x for x in at.updated]
    if looks:
        writes.append(few_before(party))
    if tells:
        writes.append(numbers_name(party))
    return Op(party, OpKind.UPDATE, "", reads, (step, *writes), run)


def _check_optimizer_state(
    party: str,
    optimizer: optax.GradientTransformation,
    weights: PyTree,
    state: PyTree,
) -> None:
    """Refuse a state of another optimizer before that fails with a message about trees."""
    first = jax.eval_shape(optimizer.init, without_pieces(weights))
    expected = jax.tree.structure(first)
    if expected != jax.tree.structure(state):
        raise ValueError(
            f"the optimizer state of `{party}` is of another optimizer than the "
            "trainer's; take that of its `init`."
        )
