"""The secret without which a digest of ids is the ids: who sees it could try all that there are.

A patient number of seven digits is one of ten millions, which a laptop tries at once. Those who
hold records share a key that nobody else has, above all not a lead that holds none; without it a
digest leaves its party only if it is of so many ids that nobody can try all sets of them.
"""

from __future__ import annotations

import logging
import os
import secrets
from hashlib import blake2b
from pathlib import Path
from typing import TypeAlias

from jsplit.core.files import private_file, private_folder, to_disk
from jsplit.party.contract.record_order import KEYED, Records
from jsplit.wire.private import check_private

_log = logging.getLogger("jsplit.party")

IdsKey: TypeAlias = bytes | str | os.PathLike[str]
"""A secret, or the file that holds one."""

LEAST = 32
"""Ids whose digest is sent without a key, at least: of 32 out of 100 alone there are 2**86 sets."""
_SHORTEST = 16
"""Bytes of a key, at least: so many that nobody tries all. A word can be tried as an id can."""


def made(file: str | os.PathLike[str]) -> Path:
    """Draw a key for those who hold records, and write it to a file for its owner alone.

    Args:
        file: that is written.

    Returns:
        The file.

    Raises:
        ValueError: if it is there already.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from jsplit.party.contract.ids_key import made, secret_of
        >>> file = made(Path(tempfile.mkdtemp()) / "ids.key")
        >>> len(secret_of(file))
        64
    """
    file = Path(file)
    # All who hold records have this one, and a new one would be refused by theirs.
    if file.exists():
        raise ValueError(f"{file} is there already; it is not written over.")
    private_folder(file.parent)
    with private_file(file) as f:
        f.write(f"{secrets.token_hex(32)}\n".encode())
    to_disk(file.parent)
    return file


def secret_of(given: IdsKey | None) -> bytes:
    """Read the key that a party was given.

    Args:
        given: it, or the file that holds it.

    Returns:
        The secret; nothing if there is none.

    Raises:
        ValueError: naming `ids_key` or the file, if it is too short, or others can read it.
    """
    if given is None:
        return b""
    if isinstance(given, bytes):
        secret, named = given, "`ids_key`"
    elif isinstance(given, (str, os.PathLike)):
        file = Path(given)
        if not file.is_file():
            raise ValueError(
                f"`ids_key` must be bytes or a file, and there is no file {file}; "
                "`jsplit ids-key` makes one."
            )
        check_private(file)
        # An editor puts a newline at the end, and another does not.
        secret, named = file.read_bytes().strip(), f"`ids_key` {file}"
    else:
        raise ValueError(
            f"`ids_key` must be bytes or a file, got {type(given).__name__}."
        )
    if len(secret) < _SHORTEST:
        raise ValueError(
            f"{named} must have {_SHORTEST} bytes or more, drawn at random as by "
            f"`jsplit ids-key`, got {len(secret)}."
        )
    return secret


def key_of(schema: str, secret: bytes) -> bytes:
    """Give what a digest is keyed by.

    Args:
        schema: hash of what all have agreed on.
        secret: of those who hold records, if they have one.

    Returns:
        Up to 64 bytes, which is the longest key that BLAKE2 takes.
    """
    if not secret:
        return schema.encode()[:64]
    # The secret can be of any length, and the same in several agreements.
    key = blake2b(secret, person=b"jsplit ids").digest()
    return blake2b(schema.encode(), key=key).digest()


def told(records: Records, client: str, *, alone: bool) -> str | None:
    """Give the digest that the lead may see.

    Args:
        records: of a client.
        client: its name; "" if there is one alone.
        alone: whether no other party has records of it in this task.

    Returns:
        The digest; `None` if there is nothing to compare.

    Raises:
        ValueError: if it would say too much, naming the cure.
    """
    # Not even of many ids, nor under a key: nobody compares it.
    if alone:
        return None
    if records.order is None and records.fields:
        # Equal counts are all that is compared then, and a sorted table has those too.
        _log.warning(
            "the records%s have no ids, so they are taken by their place: nobody finds out "
            "whether another party has them in another order.",
            f" of `{client}`" if client else "",
        )
    digest, many = records.digest, (records.count or 0) >= LEAST
    if digest is None or digest.startswith(KEYED):
        return digest
    # Of weights without ids: most are the same number, and the few that are not are soon tried.
    if many and records.order is not None:
        _log.warning(
            "ids are compared by a digest without a key: who knows all of them but a few "
            "can try out those; `ids_key` prevents it."
        )
        return digest
    what = "weights" if records.order is None else f"fewer than {LEAST} ids"
    whose = f" of `{client}`" if client else ""
    raise ValueError(
        f"`ids_key` must be given, the same at all who hold records{whose}: the lead compares a "
        f"digest, and who sees one of {what} without a key can try out what they are. "
        "`jsplit ids-key` makes one."
    )
