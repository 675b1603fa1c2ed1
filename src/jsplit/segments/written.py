"""Layers of nnx that write their parameters when they are called.

What a step leaves of a parameter is the optimizer's: what is written counts in the call,
and in plain Flax it would be what the optimizer starts from.
"""

from __future__ import annotations

from flax import nnx

from jsplit.core.checks import warn_user

# A layer of Flax that does so is added here.
_WRITERS = (nnx.SpectralNorm, nnx.WeightNorm)


def warn_of_writers(model: nnx.Module) -> None:
    """Warn of layers that train otherwise than in plain Flax.

    Args:
        model: that becomes a segment.
    """
    for path, child in nnx.iter_modules(model):
        if isinstance(child, _WRITERS):
            where, kind = ".".join(map(str, path)), type(child).__name__
            warn_user(
                f"`{where or 'the model'}` is nnx.{kind}, which writes its weights when it "
                "is called. They count so in the call, but steps go on from the weights as "
                "they were, where plain Flax goes on from those that were written. A layer "
                f"that writes none, as linen.{kind}, trains as in plain Flax."
            )
            return
