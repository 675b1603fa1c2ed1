"""Split learning in JAX: parties train one network together, and it equals training it whole.

Whatever a user calls is listed in `__all__`; the rooms behind it (`jsplit.core`, `jsplit.training`,
...) may change from one version to the next.
"""

from jsplit import compress, fitting, party, population, privacy, rounds, runs
from jsplit.core import (
    Cache,
    Carried,
    Finite,
    Info,
    Link,
    Message,
    PartyState,
    Receiver,
    Segment,
    Tied,
    Trainer,
    TrainState,
    chain,
    identity,
    restore,
    save,
    stateless,
    with_secrets,
)
from jsplit.core.strength import Strength
from jsplit.costing import Cost, Device, Network, Summary, cost, plan, summary
from jsplit.fitting import fit
from jsplit.jaxprs import ConvolutionForm, convolution_forms, faster_convolutions
from jsplit.segments import mixed_precision, segment, with_cache
from jsplit.slicing import (
    CutPoint,
    CutPoints,
    cut,
    cut_points,
    join,
    load,
    load_variables,
    merge,
    restore_weights,
    save_safetensors,
    split,
    variables,
)
from jsplit.tabular import (
    Alignment,
    Categories,
    Labels,
    Numbers,
    Preprocessing,
    Table,
    align,
    load_preprocessing,
    preprocessing,
    records,
)
from jsplit.topology import (
    Crossing,
    Loss,
    Metric,
    Node,
    Penalty,
    Topology,
    decoupled,
    extended_vanilla,
    figure,
    mermaid,
    multihop,
    multitask,
    u_shaped,
    vanilla,
    vertical,
    whole,
)
from jsplit.training.dynamic_scale import DynamicScale
from jsplit.training.export import export
from jsplit.training.fused import fused
from jsplit.training.generating import generate
from jsplit.training.global_norm import clip_by_global_norm, with_loss
from jsplit.training.hyperparams import set_hyperparams
from jsplit.training.messages import messages
from jsplit.training.own_record import PartyRecord
from jsplit.training.record import RecordingTrainer, record
from jsplit.training.recording import Crossed, Passage, Recorded
from jsplit.training.sessions import Session, session
from jsplit.training.staleness import stale
from jsplit.training.step_numbers import Norms
from jsplit.training.trained_files import restore_trained, save_trained
from jsplit.training.verdicts import NotFinite

__version__ = "0.2.0"  # the only place: pyproject.toml reads it from here
__all__ = [
    "Alignment",
    "Cache",
    "Carried",
    "Categories",
    "ConvolutionForm",
    "Cost",
    "Crossed",
    "Crossing",
    "CutPoint",
    "CutPoints",
    "Device",
    "DynamicScale",
    "Info",
    "Labels",
    "Link",
    "Loss",
    "Message",
    "Finite",
    "Metric",
    "Network",
    "Node",
    "Norms",
    "NotFinite",
    "Numbers",
    "PartyRecord",
    "PartyState",
    "Passage",
    "Penalty",
    "Preprocessing",
    "Receiver",
    "Recorded",
    "RecordingTrainer",
    "Segment",
    "Session",
    "Strength",
    "Summary",
    "Table",
    "Tied",
    "Topology",
    "TrainState",
    "Trainer",
    "align",
    "chain",
    "clip_by_global_norm",
    "compress",
    "convolution_forms",
    "cost",
    "cut",
    "cut_points",
    "decoupled",
    "export",
    "extended_vanilla",
    "faster_convolutions",
    "figure",
    "fit",
    "fitting",
    "fused",
    "generate",
    "identity",
    "join",
    "load",
    "load_preprocessing",
    "load_variables",
    "merge",
    "mermaid",
    "messages",
    "mixed_precision",
    "multihop",
    "multitask",
    "party",
    "plan",
    "population",
    "preprocessing",
    "privacy",
    "record",
    "records",
    "restore",
    "restore_trained",
    "restore_weights",
    "rounds",
    "runs",
    "save",
    "save_safetensors",
    "save_trained",
    "segment",
    "session",
    "set_hyperparams",
    "split",
    "stale",
    "stateless",
    "summary",
    "u_shaped",
    "vanilla",
    "variables",
    "vertical",
    "with_cache",
    "with_loss",
    "with_secrets",
    "whole",
]


def __dir__() -> list[str]:
    # Importing a room makes it an attribute of the package. Completion in a notebook shows
    # what is meant to be called, and not these.
    return [*__all__]
