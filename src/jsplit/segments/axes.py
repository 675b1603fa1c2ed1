"""Named axes that a model reduces over: `axis_name` of a BatchNorm.

Where the user maps over the axis it is there; elsewhere its lack is said in
words that name the cure.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def naming_axes() -> Iterator[None]:
    """Run a model, and say which axis it lacks.

    Raises:
        ValueError: if the model reduces over a named axis that is not mapped over.
    """
    try:
        yield
    except NameError as error:
        said = str(error)
        # JAX has no class of its own for it.
        if "unbound axis name" not in said:
            raise
        axis = said.partition("unbound axis name")[2].strip(": .").split(".")[0]
        raise ValueError(
            f"the model reduces over the axis `{axis}` (the `axis_name` of a BatchNorm, say), "
            "which is not mapped over where it is called: a step has its whole batch, so "
            "`axis_name=None` computes the same; or the model maps over the axis within "
            f'its own call, `jax.vmap(..., axis_name="{axis}")`.'
        ) from error
