"""Party by party: each runs its own jitted turns, and what crosses is an explicit, recorded message.

All parties live in one process here, but each has a memory of its own, and a turn is a function of
what its party has and has received, of nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jsplit.core.base import Info, Message, PyTree, Trainer, TrainState
from jsplit.jaxprs.halves import divide
from jsplit.topology.graph import Topology
from jsplit.training.configure import (
    Links,
    Memories,
    Optimizers,
    apart,
    check_batch,
    collect,
    configure,
    fields_of,
    info_of,
    initial_state,
    place,
    places_of,
    together,
    zero_sums,
)
from jsplit.training.losses import of_mean_one, weight_of
from jsplit.training.meshes import Meshes, at_home, check_even, constrained, gathered, zeros
from jsplit.training.step import inference_ops, message_of, training_ops
from jsplit.training.update import accumulate_ops, total, update_ops
from jsplit.training.walk import Name, Op, Turn, Wire, turns

LASTING = ("params", "state", "optimizer", "link", "key", "step")


class Compiled:
    """The turns of a walk, each jitted as one program or two, run in order against the memories of the parties.

    What a program replaces of the kinds `donate` is given up for the new."""

    def __init__(
        self, ops: Sequence[Op], keep: Iterable[Name | Wire], meshes: Meshes | None = None,
        donate: Sequence[str] = ("optimizer", "params"),
    ):  # fmt: skip
        keep = set(keep)
        self.turns = turns(ops, keep)
        self.programs = [program for turn in self.turns for program in programs(turn)]
        last = {r: i for i, program in enumerate(self.programs) for r in program.reads}
        self.records: dict[tuple, Message] = {}
        self.functions: list[Callable[..., tuple]] = []
        self.spent: list[list] = []
        for i, (party, _, reads, writes, run) in enumerate(self.programs):
            donated = tuple(k for k, r in enumerate(reads) if r.kind in donate and r in writes)
            self.functions.append(at_home(jax.jit(run, donate_argnums=donated), party, reads, meshes))
            self.spent.append([r for r in reads if last[r] == i and r not in keep and r.kind not in LASTING])

    def __call__(self, memories: Memories) -> list[Message]:
        sent: list[Message] = []
        for program, function, spent in zip(self.programs, self.functions, self.spent, strict=True):
            own = memories[program.party]
            results = function(*[own[r] for r in program.reads])
            for r in spent:
                del own[r]
            for name, result in zip(program.writes, results, strict=True):
                if isinstance(name, Wire):
                    memories[name.receiver][name] = result
                    sent.append(self.record(name, result))
                else:
                    own[name] = result
        return sent

    def record(self, wire: Wire, sent: PyTree) -> Message:
        """What the message is, worked out once for each shape of what is sent."""
        at = (wire, *[(x.shape, x.dtype) for x in jax.tree.leaves(sent)])
        if at not in self.records:
            self.records[at] = message_of(wire, sent)
        return self.records[at]


def programs(turn: Turn) -> list[Op]:
    """A turn as it is compiled: what it sends does not wait for what its party learns.

    A turn that sends and computes gradients of its parameters too is two programs: all that can be had without these
    gradients, and then the gradients and whatever the turn reads and replaces: parameters, statistics, memories. Nobody
    waits for the second, and each needs less memory than one program for both."""
    sends = any(isinstance(w, Wire) for w in turn.writes)
    if not sends or not any(w.kind == "grad" for op in turn.ops for w in op.writes):
        return [Op(turn.party, "turn", turn.reads, turn.writes, turn.run)]
    early = [w.kind != "grad" and w not in turn.reads for w in turn.writes]
    at_once, later = (tuple(w for w, e in zip(turn.writes, early, strict=True) if e == which) for which in (True, False))
    first, second = divide(turn.run, early)
    halfway = Name(turn.party, "halfway")
    return [
        Op(turn.party, "send", turn.reads, (halfway, *at_once), first),
        Op(turn.party, "learn", (halfway, *turn.reads), later, second),
    ]


def messages(
    topology: Topology,
    optimizer: Optimizers,
    *,
    links: Links | None = None,
    backward: str = "residuals",
    microbatches: int = 1,
    mesh: Mesh | Mapping[str, Mesh] | None = None,
) -> Trainer:
    """Train a topology party by party, with every activation and cotangent exchanged explicitly.

    Equals `fused` to float tolerance. `info.messages` of every call lists what crossed: name, kind,
    sender, receiver, shape, dtype and the bytes of the payload.

    Args:
        topology, optimizer, links, backward, microbatches: as for `fused`.
        mesh: by party, the devices over which it spreads what it computes along the batch, as for `fused`; a party without a
            mesh computes on the default device, and what crosses moves from one's devices to the other's. One mesh alone is
            every party's.

    Returns:
        A `Trainer`. `step` donates the parameters and optimizer states that it is given.

    Raises:
        ValueError: naming the argument that does not fit.
    """
    config = configure(topology, optimizer, links, backward, microbatches, mesh)
    walked = constrained(config)
    losses = [Name(x.party, "loss", x.name) for x in topology.losses]
    outputs = [Name(topology.node[n].party, "value", n) for n in topology.sinks]
    training, adds, updates = training_ops(walked), accumulate_ops(walked), update_ops(walked)
    sums = [w for op in adds for w in op.writes]
    lasting = [w for op in (*training, *updates) for w in op.writes if w.kind in LASTING]
    if microbatches == 1:  # the last turns of the backward pass then update as well
        training, updates = [*training, *updates], []
    walk = Compiled([*training, *(adds if microbatches > 1 else ())], [*losses, *lasting, *sums], config.mesh)
    finish = Compiled(updates, [*lasting, *map(total, losses)], config.mesh)
    measure = Compiled(inference_ops(walked, topology.losses), losses, config.mesh)
    infer = Compiled(inference_ops(walked), outputs, config.mesh)
    needed, inputs = fields_of(topology, losses=True), fields_of(topology, losses=False)
    combine = partial(info_of, topology)
    if len(losses) > 1 or any(x.weight != 1 for x in topology.losses):
        combine = jax.jit(combine)
    combine = gathered(combine, config)
    places = places_of(config)
    zeros_for = zeros(lambda state, part: zero_sums(config, together(place(places, state, part))), config)

    def step(state: TrainState, batch: Mapping[str, PyTree], weight: Any = None) -> tuple[TrainState, Info]:
        size = check_batch(topology, batch, needed, microbatches, weight)
        check_even(config, size)
        size //= microbatches
        weight = of_mean_one(weight)
        memories = place(places, state, batch, weight)
        if microbatches == 1:
            sent = walk(memories)
            found = {n.what: memories[n.party][n] for n in losses}
        else:
            parts = [jax.tree.map(lambda x, m=m: x[m * size : (m + 1) * size], dict(batch)) for m in range(microbatches)]
            for party, zeros in apart(places, zeros_for(state, parts[0])).items():
                memories[party].update(zeros)
            sent = []
            for number, part in enumerate(parts):
                for party, own in memories.items():
                    own[Name(party, "micro")] = np.int32(number)
                    own[weight_of(party)] = None if weight is None else weight[number * size : (number + 1) * size]
                    own.update({name: part[f] for f, name in places[party].fields.items() if f in part})
                sent += walk(memories)
            sent += finish(memories)
            found = {n.what: memories[n.party][total(n)] / microbatches for n in losses}
        return collect(places, memories), combine(found)._replace(messages=tuple(sent))

    def evaluate(state: TrainState, batch: Mapping[str, PyTree], weight: Any = None) -> Info:
        check_batch(topology, batch, needed, weight=weight)
        memories = place(places, state, batch, of_mean_one(weight))
        sent = measure(memories)
        return combine({n.what: memories[n.party][n] for n in losses})._replace(messages=tuple(sent))

    def predict(state: TrainState, fields: Mapping[str, PyTree]) -> dict[str, PyTree]:
        check_batch(topology, fields, inputs)
        memories = place(places, state, fields)
        infer(memories)
        return {n.what: memories[n.party][n] for n in outputs}

    return Trainer(partial(initial_state, config), step, evaluate, predict, config)
