"""Records, and the small tools that every room uses: trees, keys, checks, links, files."""

from jsplit.core.base import Info, Link, Message, PartyState, Segment, TrainState
from jsplit.core.cache import Cache
from jsplit.core.carried import Carried
from jsplit.core.checkpoint import restore, save
from jsplit.core.finite import Finite
from jsplit.core.link import Receiver
from jsplit.core.links import chain, identity, stateless
from jsplit.core.secret_keys import with_secrets
from jsplit.core.tied import Tied
from jsplit.core.trainer import EvaluateFn, InitFn, PredictFn, StepFn, Trainer

__all__ = [
    "Cache",
    "Carried",
    "EvaluateFn",
    "Finite",
    "Info",
    "InitFn",
    "Link",
    "Message",
    "PartyState",
    "PredictFn",
    "Receiver",
    "Segment",
    "StepFn",
    "Tied",
    "TrainState",
    "Trainer",
    "chain",
    "identity",
    "restore",
    "save",
    "stateless",
    "with_secrets",
]
