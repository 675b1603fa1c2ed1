"""One whole model into segments, by slicing its jaxpr at the cuts.

The segment of a cut is the backward slice from the cut's values
that stops at the other cuts. So it provably reads nothing but
what the slice lists: its own parameters, its fields, the cuts
before it. Composed again, the slices are the whole model,
equation for equation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from jsplit.core.base import Params, PyTree, Segment
from jsplit.core.checks import names_of
from jsplit.segments.arguments import Constants
from jsplit.segments.attention_caches import WholeDecoding
from jsplit.segments.flags import Flags
from jsplit.segments.from_model import Model, Told, segment_and_inputs
from jsplit.segments.trainable import Trainable
from jsplit.slicing.carrying import AroundCut, is_carried
from jsplit.slicing.cut_point import CutPoint
from jsplit.slicing.decoders import with_decoders
from jsplit.slicing.frozen_leaves import with_frozen
from jsplit.slicing.initial import initial
from jsplit.slicing.other_sizes import OtherSizes
from jsplit.slicing.slice_segment import slice_segment
from jsplit.slicing.stacked import divided_at
from jsplit.slicing.trace import Traced
from jsplit.slicing.traced_model import TracedModel
from jsplit.slicing.tying import divided_with, ties_of

End = str | CutPoint
Cuts = Mapping[str, End | Sequence[End]] | Sequence[End]


def split(
    model: Model,
    *example: PyTree,
    cuts: Cuts | None = None,
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
    trainable: Trainable | None = None,
    copies: bool = False,
    decoding: WholeDecoding | None = None,
) -> dict[str, Segment]:
    """Divide one whole model at its cuts into segments with only their own parameters.

    Walked in order, the segments compute what the whole computes:
    outputs, gradients, statistics and, given the same key,
    dropout. A statistic belongs to the segment that reads it, or
    else to the one that can compute its update. The batch size is
    free, and so is every other size at which the model runs, as a
    sequence length; a new one is traced anew. A segment that sees
    only cuts finds the sizes of the inputs that give them; where
    it cannot, and it matters, that is an error. What gives no value
    (`jax.debug.print`) is in no segment. A weight that several
    segments read (an embedding that is the output layer too)
    belongs to the first of them, and `tied` of each names it: a
    topology lets the others read it there, at one party, and
    refuses it across parties, but for copies of a frozen one. A leaf of a cut that the
    rest of the model does not read, in either mode, is not
    computed: in its place is `None`, and `unread` of the segment
    names it.

    Args:
        model: a Flax nnx or linen module, a function or a
            `Segment`, as `segment` takes it.
        *example: its inputs, arrays or `jax.ShapeDtypeStruct`,
            each [batch, ...]; only shapes and dtypes count. Or a
            batch: one dictionary of fields, of which the model's
            inputs are taken by their names, those with a default
            too. `None` is an input that is not given.
        cuts: where to cut: names of `jsplit.cut` in the model's
            code, paths of submodules whose output is meant
            (`"encoder.block1"`; `"block#2"` is the second call),
            places between the layers of a stack that a scan
            runs (`"blocks[10]"`, after the first ten; `"blocks"`
            is its result), or entries of `cut_points`. A mapping gives the cut a
            name of its own, and may join several places to one
            cut: `{"smashed": ["conv3", "skip"]}`. By default
            every `jsplit.cut` in the code, in either mode.
        outputs: names of what the model returns, where each is a
            segment of its own: the keys of a returned dictionary,
            or names for the elements of a tuple. By default all
            of it is one, `"output"`.
        public: inputs that are not secret (a mask, positions, lengths):
            several segments may read them, and they may cross.
        around: what becomes of values that go around a cut, as a padding
            mask that every block reads: `"refuse"`, an error that names the
            way; or `"carry"`: the fewest bytes that close the cut go with
            it, never a raw input. The value of such a cut is a dictionary,
            of its own value under its name and of what is carried, which
            `carried` of its segment lists. A value that several segments
            read goes from each to the next.
        init: for functions with parameters, `init(key, *inputs)
            -> params`.
        variables: for linen, what `module.init` would return:
            start from these values.
        inputs: names of the positional inputs, or the name of the
            only one; by default those of the signature that have
            no default.
        flags: what parameters that say the mode are in training,
            `{"is_train": True}`, as `segment` takes it.
        key: parameters that are given the key of each step, as
            `segment` takes them.
        fixed: constants by parameter, as `segment` takes them.
        name: as `segment` takes it; segments are named by what
            they produce all the same.
        trainable: which parameters are trained, as `segment` takes
            it; a segment may have none that are.
        copies: whether each segment that reads a frozen weight has a copy of
            it, so that several parties may read it; a variable of an nnx
            module that no call changes is frozen too. The copies never part,
            since no step changes them; trained weights are tied as ever.
        decoding: for `jsplit.session`, what gives the whole model as an nnx module
            that decodes, of (batch, length): `lambda b, n: nnx.view(model,
            decode=True, batch_size=b, max_length=n)`. It is cut as the model is,
            and each segment has the caches of its own slice (`with_cache`).

    Returns:
        Segments by the name of what they produce, cuts first,
        each after those it reads. The inputs of a segment are
        named as the model's inputs and the cuts. Parameters are
        nested dictionaries by path; `merge` puts them together
        again. Layers of a divided stack lie one level deeper than
        the stack, by their numbers: `{"kernel": {"0:10 of 24": ...}}`.

    Raises:
        ValueError: naming the culprit and the path: a cut that
            does not exist, exists in one mode only, lies in the
            body of a loop, or separates nothing; a skip
            connection around a cut; a statistic read on both
            sides; a cut that holds a raw input, as it is or
            moved, shifted or scaled by constants, or whose
            leading axis is not the batch; cuts that need each
            other; one name for two values; a mutable array.

    Example:
        >>> import jax, jax.numpy as jnp, jsplit
        >>> def model(weights, image):
        ...     h = jsplit.cut(image @ weights["stem"], "smashed")
        ...     return h @ weights["head"]
        >>> def init(key, image):
        ...     return {"stem": jnp.zeros((3, 4)), "head": jnp.zeros((4, 2))}
        >>> segments = jsplit.split(model, jnp.ones((8, 3)), init=init)
        >>> list(segments.values())
        [Segment(image -> smashed), Segment(smashed -> output)]
        >>> params, _ = segments["output"].init(jax.random.key(0), jnp.ones((8, 4)))
        >>> jax.tree.map(jnp.shape, params)
        {'head': (4, 2)}
    """
    carries = is_carried(around)
    told = Told(init, variables, inputs, flags, key, fixed, name, trainable)
    made, example = segment_and_inputs(model, example, told)
    if made.noise is not None:
        raise ValueError(
            "`model` adds noise to its gradient (`private`), which its parts would not: "
            "split first, and make the parts private."
        )
    # Apart from the traced model, which all segments hold: it
    # must not keep the arrays of all others alive in each of
    # them.
    start = initial(made, example)
    places = _places_of(cuts)
    ends = [end for found in (places or {}).values() for end in found]

    def trace() -> list[Traced]:
        return TracedModel(made, start, example, {}, outputs, public).both_modes()

    made, start = divided_at(made, start, example, ends, trace)
    traced = TracedModel(made, start, example, places, outputs, public, carries)
    # In both modes, since a segment owns what it reads in either.
    modes = traced.both_modes()
    divided = partial(divided_with, copies=copies, trains=made.trains)
    specs = divided(traced, modes)
    ties = ties_of(traced, modes, specs)
    sizes = OtherSizes(traced, specs, divided)
    made_of = {
        n: slice_segment(traced, start, n, spec, ties, sizes)
        for n, spec in specs.items()
    }
    parts = {
        n: with_frozen(made_of[n], traced, spec, made.trains)
        for n, spec in specs.items()
    }
    if decoding is None:
        return parts
    again = partial(split, cuts=cuts, outputs=outputs, public=public, around=around)
    told = told._replace(inputs=made.inputs)
    again = partial(again, copies=copies)
    return with_decoders(parts, decoding, told, again, example)


def _places_of(cuts: Cuts | None) -> dict[str, list[str]] | None:
    """For each cut its name, and the names of the values that it holds."""
    if cuts is None:
        return None
    # In a list, the name of a place is the name of the cut there.
    if not isinstance(cuts, Mapping):
        return {name: [name] for name in _names(cuts)}
    ends = zip(_names(cuts.keys()), cuts.values(), strict=True)
    return {name: _names(places) for name, places in ends}


def _names(ends: End | Iterable[End]) -> list[str]:
    """The names of places, which may be cut points, in a list or alone."""
    # A cut point is a tuple, and a string an iterable; neither is
    # a list of places.
    alone = isinstance(ends, str | CutPoint) or not isinstance(ends, Iterable)
    names: list[object] = []
    for end in (ends,) if alone else ends:
        names.append(end.name if isinstance(end, CutPoint) else end)
    return names_of("cuts", names)
