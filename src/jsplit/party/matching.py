"""Which records all parties have, found by keyed tags of their ids: no id leaves its owner.

Each who holds records makes tags, gives them to the others who do, and takes the records
whose tags all have. `jsplit.party.run` then compares what is left, as always.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

import numpy as np

from jsplit.party.contract.ids_key import IdsKey, secret_of
from jsplit.tabular.aligning import Alignment, align_by_tags, tags_of
from jsplit.tabular.table import Table


def tags(table: Table, ids_key: IdsKey) -> np.ndarray:
    """Make what stands for a party's ids where others look for records in common.

    A tag is a hash of an id under the secret of those who hold records (BLAKE2b, 16 bytes).
    Who has no key learns from tags how many records there are, and from those of two
    parties how many they have in common. Who has the key can try whether somebody is
    among the records, as with any keyed linkage: private set intersection, by which
    parties do not learn even that, is not done here.

    Args:
        table: of `jsplit.records`.
        ids_key: the secret, 16 bytes or more, or its file, as `jsplit ids-key` makes it.

    Returns:
        uint8 [record, 16], sorted. `numpy.save` writes them to a file for the others.

    Raises:
        ValueError: naming `ids_key`, if it is too short or others can read its file.

    Example:
        >>> import jsplit
        >>> table = jsplit.records({"patient": [7, 5], "x": [1.0, 2.0]}, id="patient")
        >>> jsplit.party.tags(table, b"sixteen bytes or more").shape
        (2, 16)
    """
    return tags_of(table, _key(ids_key))


def align(parties: Mapping[str, Table | np.ndarray], ids_key: IdsKey) -> Alignment:
    """Take a party's own records that all others have too, by the tags of their ids.

    As `jsplit.align` where one has all tables, and with the same result.

    Args:
        parties: by name, this one's table, and `tags` of each other one who holds
            records.
        ids_key: the secret under which the tags were made.

    Returns:
        The table of the records in common, in the order of their ids, and the counts.

    Raises:
        ValueError: naming the party, if what is given are no tags; if there is no
            record in common, as with tags under another secret; or naming `ids_key`.

    Example:
        >>> import jsplit
        >>> key = b"sixteen bytes or more"
        >>> lab = jsplit.records({"patient": [7, 5, 9], "x": [1, 2, 3]}, id="patient")
        >>> clinic = jsplit.records({"patient": [5, 6, 7], "y": [8, 4, 6]}, id="patient")
        >>> seen = jsplit.party.tags(clinic, key)  # at the clinic; it goes to the lab
        >>> found = jsplit.party.align({"lab": lab, "clinic": seen}, key)
        >>> found
        Alignment(2 records; lab lost 1, clinic lost 1)
        >>> found.tables["lab"].column("x").tolist()
        [2, 1]
    """
    return align_by_tags(parties, _key(ids_key))


def _key(ids_key: IdsKey) -> bytes:
    # The secret can be of any length; and what is compared in a run has another key.
    return blake2b(secret_of(ids_key), person=b"jsplit tags").digest()
