"""The kinds of things that a step reads and writes, of messages and of operations.

Each is listed once, here; everything else compares members and takes no
label apart.
"""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """What sort of thing a `Name` stands for."""

    PARAMS = "params"
    FROZEN = "frozen"
    FROZEN_STATE = "frozen state"
    STATE = "state"
    OPTIMIZER = "optimizer"
    LINK = "link"
    KEY = "key"
    STEP = "step"
    SECRET = "secret"
    NOISE = "noise"
    STRENGTH = "strength"
    VALUE = "value"
    WEIGHT = "weight"
    MICRO = "micro"
    VJP = "vjp"
    GRAD = "grad"
    COTANGENT = "cotangent"
    LOSS = "loss"
    HALFWAY = "halfway"
    HELD_PARAMS = "held params"
    HELD_STATE = "held state"
    HELD_LINK = "held link"
    FEW_BEFORE = "few before"
    PROPOSED_PARAMS = "proposed params"
    PROPOSED_OPTIMIZER = "proposed optimizer"
    SCALARS = "scalars"
    RANGE = "range"
    FINITE = "finite"
    CACHE = "cache"
    SAME = "same"
    NUMBERS = "numbers"

    # `Enum.__hash__` is Python code; names are hashed several times in
    # every turn.
    __hash__ = str.__hash__


# What training changes, and each party keeps for itself, hands over or
# averages.
LEARNED = (Kind.PARAMS, Kind.STATE, Kind.OPTIMIZER, Kind.LINK)

# What no step changes of parameters and state; it lies apart from the rest of these.
FROZEN = (Kind.FROZEN, Kind.FROZEN_STATE)

# What outlasts a step: all else is dropped after its last use.
PERSISTENT = (*LEARNED, *FROZEN, Kind.KEY, Kind.STEP, Kind.SECRET, Kind.STRENGTH)


class WireKind(StrEnum):
    """What a message carries: a value forward, its cotangent back, or numbers for a sum."""

    ACTIVATION = "activation"
    COTANGENT = "cotangent"
    SCALAR = "scalar"

    # As for `Kind`: wires are keys too.
    __hash__ = str.__hash__


class OpKind(StrEnum):
    """What an operation of a walk does."""

    FORWARD = "forward"
    BACKWARD = "backward"
    LOSS = "loss"
    SEND = "send"
    RECEIVE = "receive"
    PULL = "pull"
    ACCUMULATE = "accumulate"
    MEASURE = "measure"
    SUM = "sum"
    UNSCALE = "unscale"
    UPDATE = "update"
    CHECK = "check"
    SETTLE = "settle"

    __hash__ = str.__hash__
