"""`plan`: where to cut, every place ranked by what it costs a client over a network.

A model cut at all its cut points at once is a chain; what a client pays for
a cut is what the chain costs up to there. So one traced step of one chain
gives the cost of every cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import optax

from jsplit.core.base import Link, Params, PyTree, Segment
from jsplit.core.frozen import trained_part
from jsplit.core.links import encoded, identity
from jsplit.core.trees import abstract, as_arrays, batch_of, inexact_part, nbytes
from jsplit.costing.cut_plan import Choice, CutPlan, is_better
from jsplit.costing.leak_scores import Leakage, leaks_at
from jsplit.costing.machines import Device, Network, Setting, check_setting
from jsplit.costing.party_cost import Work
from jsplit.costing.passes import size_of
from jsplit.costing.prefixes import Prefix, prefixes
from jsplit.costing.traced_step import TracedStep
from jsplit.segments.arguments import Constants
from jsplit.segments.flags import Flags
from jsplit.segments.from_model import (
    Model,
    Told,
    segment_and_inputs,
    unnamed_inputs,
)
from jsplit.slicing.carrying import AroundCut
from jsplit.slicing.cut_candidates import cut_points
from jsplit.slicing.cut_point import CutPoint, CutPoints
from jsplit.slicing.splitting import split
from jsplit.topology.graph import Topology
from jsplit.topology.nodes import Loss, Node
from jsplit.training.configure import configure
from jsplit.training.initial import initial_shapes
from jsplit.training.kinds import OpKind

_CLIENT = "client"


def plan(
    model: Model,
    *example: PyTree,
    client: Device,
    link: Network,
    server: Device | None = None,
    encoding: Link | tuple[Link | None, Link | None] = identity,
    optimizer: optax.GradientTransformation | None = None,
    backward: str = "residuals",
    leakage: Leakage | None = None,
    outputs: Sequence[str] | None = None,
    public: Sequence[str] = (),
    around: AroundCut = "refuse",
    init: Callable[..., Params] | None = None,
    variables: Mapping[str, PyTree] | None = None,
    inputs: Sequence[str] | None = None,
    flags: Flags | None = None,
    key: str | Sequence[str] | None = None,
    fixed: Constants | None = None,
) -> CutPlan:
    """Every place to cut a model, ranked by the time and the bytes of a training step.

    Listed is each of `cut_points` that has parameters before it. Nothing
    runs.

    Args:
        model: A Flax nnx or linen module, a function or a `Segment`.
        *example: The model's inputs, arrays or `jax.ShapeDtypeStruct`, each
            [batch, ...], with the batch size of a step; or a batch, one
            dictionary that has them by name. Only shapes and dtypes count.
        client: What the client can do.
        link: The network between client and server.
        server: What the server can do; without it, its time is left out.
        encoding: What happens to the activation and to its cotangent on the
            way, as `jsplit.compress.quantize(8)`, or a pair.
        optimizer: The client's, whose state takes memory; by default plain
            SGD, which has none.
        backward: The backward mode; `"recompute"` counts the client's whole
            forward pass twice, though XLA may leave out its end.
        leakage: What leaks at each point, as a third aim beside seconds and bytes: a
            function of a `CutPoint`, or a dictionary by its name, of numbers (less is
            better) or scores, which say themselves which way they point; or findings
            of a report, one for each cut. `jsplit.privacy.leakage` makes a function
            that measures. Whether more may leak (`Choice.doubt`) is kept, and a score
            that is worse than a guess counts as the guess. A point without a score (`None`, or
            not in the dictionary) is listed, and is on no front.
        outputs: Names of what the model returns, where each is a segment of
            its own; see `jsplit.split`.
        public: Inputs that are not secret, which several segments may read (a mask,
            say).
        around: "carry": what goes around a cut goes with it and is counted, as
            `jsplit.split` takes it.
        init: Of a function with parameters, `init(key, *inputs) -> params`.
        variables: Of a linen module, what `module.init` would return.
        inputs: Names of the model's positional inputs; by default those of
            its signature.
        flags: What parameters that say the mode are in training, as
            `jsplit.segment` takes it.
        key: Parameters that are given the key of each step, as
            `jsplit.segment` takes them.
        fixed: Constants by parameter, as `jsplit.segment` takes them.

    Returns:
        A `CutPlan`. `print` shows a table, `figure` draws it.

    Raises:
        ValueError: Naming the argument that does not fit, or if the model
            has no cut point with parameters before it.

    Example:
        >>> import jax, jsplit
        >>> import jax.numpy as jnp
        >>> model = lambda w, x: jnp.tanh(x @ w["a"]) @ w["b"]
        >>> start = lambda key, x: {"a": jnp.ones((4, 3)), "b": jnp.ones((3, 2))}
        >>> plan = jsplit.plan(
        ...     model,
        ...     jax.ShapeDtypeStruct((8, 4), jnp.float32),
        ...     init=start,
        ...     client=jsplit.Device(flops=1e6),
        ...     link=jsplit.Network(bits=1e6),
        ... )
        >>> [(c.point.name, c.bytes, c.front) for c in plan.choices]
        [('dot_general', 432, True), ('tanh', 432, False)]

        With what leaks at each cut, here numbers from elsewhere:

        >>> plan = jsplit.plan(
        ...     model,
        ...     jax.ShapeDtypeStruct((8, 4), jnp.float32),
        ...     init=start,
        ...     client=jsplit.Device(flops=1e6),
        ...     link=jsplit.Network(bits=1e6),
        ...     leakage={"dot_general": 0.9, "tanh": 0.8},
        ... )
        >>> [(c.point.name, c.leakage, c.front) for c in plan.choices]
        [('dot_general', 0.9, True), ('tanh', 0.8, True)]
    """
    setting = check_setting(client, link, server, encoding, backward, leakage)
    # Made once: it is looked at twice, and says once what is wrong with its mode.
    told = Told(init, variables, inputs, flags, key, fixed)
    made, example = segment_and_inputs(model, example, told)
    points, segments = _divide(made, example, outputs, public, around)
    chain = _chain(segments, {p.name for p in points})

    # The links of the real crossings are counted apart: in the chain nothing crosses.
    config = configure(chain, optimizer or optax.sgd(1.0), None, "residuals", 1)
    names = made.inputs or unnamed_inputs(len(example))
    given = dict(zip(names, example, strict=True))
    arrays = as_arrays({n: given[n] for n in chain.fields}, "the example of `{}`")
    fields = {name: abstract(x) for name, x in arrays.items()}
    state = initial_shapes(config, fields)
    step = TracedStep(config, state, fields)

    leaks = leaks_at(setting.leakage, points)
    total = step.work(_CLIENT, OpKind.FORWARD, OpKind.BACKWARD)
    own = config.optimizer[_CLIENT]
    choices = []
    for prefix in prefixes(points, step, state.parties[_CLIENT]):
        # The optimizer is over what is trained of it.
        trained = {
            n: inexact_part(trained_part(chain.node[n].segment, x))
            for n, x in prefix.params.items()
        }
        optimizer_state = jax.eval_shape(own.init, trained)
        lasting = nbytes((prefix.params, prefix.statistics, optimizer_state))
        returns = any(chain.node[n].segment.trainable for n in prefix.params)
        choice = _choice(setting, prefix, lasting, fields, total, returns)
        choices.append(choice.scored(leaks[prefix.point.name]))
    return _ranked(choices)


def _divide(
    made: Segment,
    example: Sequence[PyTree],
    outputs: Sequence[str] | None,
    public: Sequence[str],
    around: AroundCut,
) -> tuple[list[CutPoint], dict[str, Segment]]:
    """The places to choose from, and the model cut at all of them."""
    found = cut_points(made, *example, outputs=outputs, public=public, around=around)
    # What comes before any parameter is the raw input in other words: it may not cross.
    points = [p for p in found if p.params]
    if not points:
        raise ValueError(
            "`model` has no cut point with parameters before it: no single value "
            f"separates its input from its output.{_reason(found)}"
        )
    segments = split(
        made, *example, cuts=points, outputs=outputs, public=public, around=around
    )
    return points, segments


def _reason(points: CutPoints) -> str:
    """What is said of one place that is none, as an example of the others."""
    why = [f" `{name}`: {said}" for name, said in points.why.items()]
    return why[-1] if why else ""


def _chain(segments: Mapping[str, Segment], cuts: set[str]) -> Topology:
    """All segments at one party, with some loss on every output."""

    def mean(output: PyTree) -> jax.Array:
        total = jnp.float32(0)
        for x in jax.tree.leaves(output):
            if jnp.issubdtype(x.dtype, jnp.inexact):
                total = total + jnp.mean(x.astype(jnp.float32))
        return total

    nodes: list[Node | Loss] = [Node(n, s, _CLIENT) for n, s in segments.items()]
    # Which loss does not matter: only segments are counted. Without one there would be
    # no backward pass.
    for name in segments:
        if name not in cuts:
            nodes.append(Loss(f"loss of {name}", mean, _CLIENT, [name]))
    read = dict.fromkeys(i for s in segments.values() for i in s.inputs or ())
    return Topology(nodes, {_CLIENT: [i for i in read if i not in segments]})


def _choice(
    setting: Setting,
    prefix: Prefix,
    lasting: int,
    fields: Mapping[str, PyTree],
    total: Work,
    returns: bool,
) -> Choice:
    """What a step costs where the client has `prefix`.

    Args:
        setting: The machines, the network, and what happens on the way.
        prefix: The client's part.
        lasting: Bytes of its parameters, statistics and optimizer state.
        fields: The shapes of the client's inputs.
        total: Work of the whole model.
        returns: Whether anything is trained of it, so that cotangents come back.
    """
    client, link, server, encodings, backward, _ = setting
    point, work = prefix.point, prefix.work
    kept = prefix.kept
    if backward == "recompute":
        work += prefix.forward
        kept = nbytes(fields)
    batch = batch_of(fields)
    like: PyTree = jax.ShapeDtypeStruct((batch, *point.shape), point.dtype)
    if point.carried:
        like = {
            c.name: jax.ShapeDtypeStruct((batch, *c.shape), c.dtype)
            for c in point.carried
        } | {"": like}
    # Of whole numbers and masks no cotangent comes back.
    ways = (like, inexact_part(like)) if returns else (like,)
    sent = sum(
        _encoded_size(x or identity, y) for x, y in zip(encodings, ways, strict=False)
    )

    # One after the other: nobody computes while a message is under way.
    waits = len(ways) * link.latency
    seconds = work.flops / client.flops + waits + 8 * sent / link.bits
    if server is not None:
        # The server has the rest, and it need not compute anything twice.
        seconds += (total.flops - prefix.work.flops) / server.flops
    memory = lasting + kept
    fits = memory <= client.memory
    return Choice(point, seconds, sent, work, memory, None, fits)


def _ranked(choices: Sequence[Choice]) -> CutPlan:
    """The front marked, and what fits first, then the quickest, then the smallest."""
    marked = []
    asked = any(c.leakage is not None for c in choices)
    for c in choices:
        beaten = any(is_better(other, c) for other in choices)
        # Of what leaks unknown, nobody can say that nothing beats it.
        known = c.leakage is not None or not asked
        marked.append(c._replace(front=c.fits and known and not beaten))
    marked.sort(key=lambda c: (not c.fits, c.seconds, c.bytes))
    return CutPlan(tuple(marked))


def _encoded_size(encoding: Link, like: jax.ShapeDtypeStruct) -> int:
    """Bytes of one message: the encoded value and its frame."""
    payload, _ = encoded(encoding, like)
    return size_of(payload)
