"""Flax modules and functions as segments: the only room that knows Flax."""

from jsplit.segments.decoding import with_cache
from jsplit.segments.from_model import segment
from jsplit.segments.precision import mixed_precision

__all__ = ["mixed_precision", "segment", "with_cache"]
