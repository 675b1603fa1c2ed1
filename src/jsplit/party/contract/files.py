"""An agreement as a file, which all parties get: `write` and its inverse `read`."""

from __future__ import annotations

import json
import os
from pathlib import Path

from jsplit.party.contract.agreement import Agreement, parsed
from jsplit.wire.said import printable


def write(file: str | os.PathLike, agreed: Agreement) -> Path:
    """Write an agreement to a file, for all parties; `read` is the inverse.

    The file is JSON. It holds names, shapes, addresses and numbers, and of anyone's
    model nothing but the shapes of what crosses.

    Args:
        file: where to write; what was there is replaced.
        agreed: the agreement.

    Returns:
        The path of the file.

    Raises:
        OSError: if it cannot be written.

    Example:
        >>> import tempfile, jax.numpy as jnp, optax, jsplit
        >>> topology = jsplit.vanilla(
        ...     jsplit.segment(lambda x: 2 * x, inputs="x", name="h"),
        ...     jsplit.segment(lambda h: h + 1, inputs="h", name="y"),
        ...     loss=optax.squared_error,
        ... )
        >>> agreed = jsplit.party.agreement(
        ...     topology,
        ...     {"x": jnp.ones((4, 3)), "label": jnp.ones((4, 3))},
        ...     steps=10,
        ...     addresses={"server": "localhost:8476"},
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = jsplit.party.write(f"{folder}/agreement.json", agreed)
        ...     jsplit.party.read(file) == agreed
        True
    """
    # Keys are sorted so that two files of equal agreements are equal, to a `diff` too.
    text = json.dumps(agreed.said, sort_keys=True, indent=1)
    Path(file).write_text(text + "\n")
    return Path(file)


def read(file: str | os.PathLike) -> Agreement:
    """Read the agreement in a file that `write` has written.

    Args:
        file: as `write` has written it.

    Returns:
        The agreement, after all in it was checked.

    Raises:
        ValueError: naming the file and what in it is not as it must be.

    Example:
        >>> import pathlib, tempfile
        >>> from jsplit import party
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = pathlib.Path(folder, "agreement.json")
        ...     _ = file.write_text('{"format": "another"}')
        ...     try:
        ...         party.read(file)
        ...     except ValueError as error:
        ...         print(str(error).removeprefix(str(file)))
        : an agreement says `format`: one of 'jsplit agreement 1', \
'jsplit agreement 2', 'jsplit agreement 3'.
    """
    # `ValueError` also stands for text that is not UTF-8, as of a file chosen by mistake.
    try:
        found = json.loads(Path(file).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{file} holds no agreement: {printable(str(error))}"
        ) from None
    # A second `try`, so that what is JSON but no agreement is not called unreadable.
    try:
        return parsed(found)
    except ValueError as error:
        # Cut: a list that should be none may be as long as the file.
        raise ValueError(f"{file}: {printable(str(error))}") from None
