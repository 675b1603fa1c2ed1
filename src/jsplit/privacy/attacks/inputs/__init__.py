"""Attacks on inputs, by whoever gets activations of records that it does not hold."""

from jsplit.privacy.attacks.inputs.decoder import decoder_attack
from jsplit.privacy.attacks.inputs.feature_space import fsha
from jsplit.privacy.attacks.inputs.hijackers import Hijackers
from jsplit.privacy.attacks.inputs.hijacking_segment import Hijacking, hijack
from jsplit.privacy.attacks.inputs.inversion import Inversion
from jsplit.privacy.attacks.inputs.inverter import inverted_tokens
from jsplit.privacy.attacks.inputs.membership import membership_inference
from jsplit.privacy.attacks.inputs.nearest import nearest_tokens
from jsplit.privacy.attacks.inputs.property import property_inference
from jsplit.privacy.attacks.inputs.simulation import Simulation, sdar
from jsplit.privacy.attacks.inputs.unsplit import unsplit_inversion
from jsplit.privacy.attacks.inputs.watched import Watched

__all__ = [
    "Hijackers",
    "Hijacking",
    "Inversion",
    "Simulation",
    "Watched",
    "decoder_attack",
    "fsha",
    "hijack",
    "inverted_tokens",
    "membership_inference",
    "nearest_tokens",
    "property_inference",
    "sdar",
    "unsplit_inversion",
]
