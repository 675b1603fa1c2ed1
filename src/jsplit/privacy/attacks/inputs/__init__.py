"""Attacks on inputs, by whoever gets activations of records that it does not hold."""

from jsplit.privacy.attacks.inputs.decoder import decoder_attack
from jsplit.privacy.attacks.inputs.fsha import fsha
from jsplit.privacy.attacks.inputs.hijackers import Hijackers
from jsplit.privacy.attacks.inputs.inversion import Inversion
from jsplit.privacy.attacks.inputs.unsplit import unsplit_inversion

__all__ = [
    "Hijackers",
    "Inversion",
    "decoder_attack",
    "fsha",
    "unsplit_inversion",
]
