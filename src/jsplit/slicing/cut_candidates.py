"""Every place where a model can be cut in two, with what it costs who has the input."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

import jax

from jsplit.core.base import Carried, Params, PyTree, Segment
from jsplit.core.trees import nbytes
from jsplit.jaxprs.flat import Atom, shape_of
from jsplit.jaxprs.macs import count
from jsplit.jaxprs.slices import backward_slice
from jsplit.segments.arguments import Constants
from jsplit.segments.flags import Flags
from jsplit.segments.from_model import Model, Told, segment_and_inputs
from jsplit.slicing.carrying import AroundCut, carry, is_carried
from jsplit.slicing.cut_point import CutPoint, CutPoints
from jsplit.slicing.initial import Initial, initial
from jsplit.slicing.ownership import SegmentSpec, divide
from jsplit.slicing.separators import labels, separating
from jsplit.slicing.stacked import divided_at
from jsplit.slicing.trace import LEAF, Traced, Value
from jsplit.slicing.traced_model import TracedModel
from jsplit.slicing.tying import tied_between


def cut_points(
    model: Model,
    *example: PyTree,
    outputs: Sequence[str] | None = None,
    public: Sequence[str] = (),
    around: AroundCut = "refuse",
    init: Callable[..., Params] | None = None,
    variables: Mapping[str, PyTree] | None = None,
    inputs: Sequence[str] | None = None,
    flags: Flags | None = None,
    key: str | Sequence[str] | None = None,
    fixed: Constants | None = None,
    name: str | None = None,
    u_shaped: bool = False,
) -> CutPoints:
    """List every place where one value separates input from output, from the input on.

    A place counts if `split` takes a cut there and two parties may have the
    two sides: no weight, statistic or input is read on both, something is
    computed before it and after it, it is no raw input (moved, shifted or
    scaled ones are raw too), and its leading axis is the batch, in training
    and in inference mode. A place that has several names is listed by the
    outermost. Between the layers of a stack that a scan runs there are places
    too, as `blocks[1]` after the first.

    Args:
        model: a Flax nnx or linen module, a function or a `Segment`, as
            `segment` takes it.
        *example: the model's inputs, arrays or `jax.ShapeDtypeStruct`, each
            [batch, ...]; or a batch, one dictionary that has them by name.
        outputs: names of what the model returns, where each is a segment of
            its own; by default all of it is one, `"output"`.
        public: inputs that are not secret, which several segments may read (a mask,
            say).
        around: "carry": what goes around a place goes with it, as `split` takes it;
            `bytes_per_example` counts it, and `carried` names it.
        init: for functions with parameters, `init(key, *inputs) -> params`.
        variables: for linen, what `module.init` would return.
        inputs: names of the positional inputs, or the name of the only one;
            by default those of the signature that have no default.
        flags: what parameters that say the mode are in training, as `segment`
            takes it.
        key: parameters that are given the key of each step, as `segment` takes
            them.
        fixed: constants by parameter, as `segment` takes them.
        name: as `segment` takes it; it has no effect here.
        u_shaped: whether one party has both the first and the last segment,
            so that these may read one weight (an embedding that is the
            output layer too).

    Returns:
        The places, each with its costs. Nothing is computed. `why` says of
        the other named places why they are none.

    Raises:
        ValueError: if the arguments do not fit the model.

    Example:
        >>> import jax, jax.numpy as jnp, jsplit
        >>> def model(x):
        ...     h = jax.nn.relu(2 * x)
        ...     return jnp.tanh(h + 1)
        >>> [point.name for point in jsplit.cut_points(model, jnp.ones((4, 3)))]
        ['relu', 'add']
    """
    told = Told(init, variables, inputs, flags, key, fixed, name)
    made, example = segment_and_inputs(model, example, told)
    start = initial(made, example)
    carries = is_carried(around)
    traced = _in_layers(made, start, example, outputs, public, carries)
    train, infer = traced.both_modes()
    found: list[CutPoint] = []
    refused: dict[str, str] = {}
    places = _in_both_modes(traced, train, infer)
    if carries:
        places = _with_named(traced, train, infer, places)
    carried: tuple[Carried, ...] = ()
    for name, values in places.items():
        traces = [
            trace._replace(cuts={name: value})
            for trace, value in zip((train, infer), values, strict=True)
        ]
        # Whether a cut is possible is asked of `divide`, which alone knows
        # the rules.
        try:
            if carries:
                traces, carried = _closed(traced, traces, name)
            specs = divide(traced, traces)
        except ValueError as error:
            refused[name] = str(error)
            continue

        tied = "" if u_shaped else tied_between(traced, traces, specs)
        # For one example, at both batch sizes: else its other axes depend
        # on the batch.
        one, same = (_of_one_example(value) for value in values)
        if one == same and not tied:
            point = _cut_point(traced, traces[0], name, values[0], specs[name])
            size = point.bytes_per_example + sum(c.bytes_per_example for c in carried)
            found.append(point._replace(bytes_per_example=size, carried=carried))
        else:
            refused[name] = tied or "its axes beside the first depend on the batch."

    def why() -> dict[str, str]:
        known = {*refused, *separating(train.flat, *train.ends(traced.public))}
        known |= {point.name for point in found}
        return refused | _others(traced, train, infer, known)

    return CutPoints(found, why)


def _in_layers(
    made: Segment,
    start: Initial,
    example: Sequence[PyTree],
    outputs: Sequence[str] | None,
    public: Sequence[str],
    carries: bool,
) -> TracedModel:
    """The model traced, its stacks of layers one by one, where there are any."""
    traced = TracedModel(made, start, example, {}, outputs, public, carries)
    divided = divided_at(made, start, example, None, traced.both_modes)
    if divided[0] is made:
        return traced
    return TracedModel(*divided, example, {}, outputs, public, carries)


def _others(
    traced: TracedModel, train: Traced, infer: Traced, known: Collection[str]
) -> dict[str, str]:
    """Why named places that separate no input from the output are no cut points."""
    there, found = {n: v for v, n in labels(infer.flat).items()}, {}
    for v, name in labels(train.flat).items():
        if name in known:
            continue
        if name not in there:
            found[name] = "it is not there in inference mode."
            continue
        pairs = ((train, v), (infer, there[name]))
        traces = [t._replace(cuts={name: Value(LEAF, [x])}) for t, x in pairs]
        try:
            divide(traced, traces)
        except ValueError as error:
            found[name] = str(error)
        else:
            found[name] = (
                "it separates some of the inputs alone; `split` takes it in `cuts`."
            )
    return found


def _in_both_modes(
    traced: TracedModel, train: Traced, infer: Traced
) -> dict[str, tuple[Value, Value]]:
    """The separating values by name, as they are in training and in inference."""
    separators = separating(train.flat, *train.ends(traced.public))
    others = separating(infer.flat, *infer.ends(traced.public))
    # The last name of a value is the outermost: a submodule's output is
    # named after all that is named inside of it.
    last = {separator.origin: name for name, separator in separators.items()}
    in_train = Counter(separator.family for separator in separators.values())
    in_infer = Counter(separator.family for separator in others.values())

    found: dict[str, tuple[Value, Value]] = {}
    for name, separator in separators.items():
        # A name must mean the same place in both modes: `relu#2` does not
        # where dropout makes one `relu` more.
        same_place = in_train[separator.family] == in_infer[separator.family]
        if last[separator.origin] == name and name in others and same_place:
            there = others[name]
            found[name] = (
                Value(LEAF, [separator.variable]),
                Value(LEAF, [there.variable]),
            )
    return found


def _closed(
    traced: TracedModel, traces: Sequence[Traced], name: str
) -> tuple[list[Traced], tuple[Carried, ...]]:
    """The traces of both modes with what goes around a cut carried, and what it is."""
    train, record = carry(traces[0], traced.public, None)
    infer, _ = carry(traces[1], traced.public, record)
    return [train, infer], tuple(record.get(name, ()))


def _with_named(
    traced: TracedModel,
    train: Traced,
    infer: Traced,
    places: Mapping[str, tuple[Value, Value]],
) -> dict[str, tuple[Value, Value]]:
    """The same with all other named values, past which something may be carried."""
    taken = {value.atoms[0] for value, _ in places.values()}
    there = {n: v for v, n in labels(infer.flat).items()}
    found = dict(places)
    for v, name in labels(train.flat).items():
        if name in there and name not in found and v not in taken:
            found[name] = Value(LEAF, [v]), Value(LEAF, [there[name]])
    written = [v for e in train.flat.equations for v in e.writes]
    at: dict[Atom, int] = {v: i for i, v in enumerate(written)}
    order = sorted(found, key=lambda name: at.get(found[name][0].atoms[0], -1))
    return {name: found[name] for name in order}


def _of_one_example(value: Value) -> jax.ShapeDtypeStruct:
    shape = shape_of(value.atoms[0])
    return jax.ShapeDtypeStruct(shape.shape[1:], shape.dtype)


def _cut_point(
    traced: TracedModel, trace: Traced, name: str, value: Value, spec: SegmentSpec
) -> CutPoint:
    """A place with the costs of the side that has the input."""
    params = [traced.params.shapes[i] for i in spec.params]
    one = _of_one_example(value)
    piece = backward_slice(trace.flat, trace.cuts[name].atoms)
    work = count((e.eqn for e in piece.equations), trace.weights)
    return CutPoint(
        name,
        one.shape,
        one.dtype,
        sum(p.size for p in params),
        nbytes(params),
        nbytes(one),
        work.forward / traced.batch,
        work.backward / traced.batch,
    )
