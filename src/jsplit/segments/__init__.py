"""Flax modules and functions as segments: the only room that knows Flax."""

from jsplit.segments.precision import mixed_precision
from jsplit.segments.segment import segment

__all__ = ["mixed_precision", "segment"]
