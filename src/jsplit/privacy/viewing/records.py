"""What is proven of a message, of the messages to several parties: `Gives`, `Seen`, `Together`.

What a single party has and sees is in `view`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Gives:
    """What is proven that a message gives away of a field: the field itself, or a part of it.

    Attributes:
        field: of which party it is not.
        entries: how many entries of a record are given away; of class numbers as one-hot
            and of tokens the number of these.
        of: how many a record has.
        rounded: whether rounded to fewer bits.
        some: whether only where a mask or threshold lets them through, as `relu` does.
        up_to: nodes whose parameters stand between: the field is known up to a shift, a
            scale or a table that is the same for all records.
        needs_own: whether it takes what the receiver itself has, as the output from
            which a label was subtracted.

    Example:
        >>> from jsplit.privacy import Gives
        >>> str(Gives("image", 784, 784))
        'is `image`'
        >>> str(Gives("tokens", 16, 16, up_to=("h",)))
        'is `tokens` up to parameters of `h`'
        >>> str(Gives("image", 28, 784))
        'has 28 of 784 entries of `image`'
    """

    field: str
    entries: int
    of: int
    rounded: bool = False
    some: bool = False
    up_to: tuple[str, ...] = ()
    needs_own: bool = False

    @property
    def whole(self) -> bool:
        """Whether the whole field is given away.

        Returns:
            Whether it is, perhaps rounded or up to parameters.

        Example:
            >>> from jsplit.privacy import Gives
            >>> Gives("image", 28, 784).whole
            False
        """
        return self.entries == self.of and not self.some

    @property
    def strength(self) -> tuple[bool, int, bool, bool, bool, bool]:
        """An order among proofs of one field: the larger, the more is given away.

        Returns:
            What is compared.

        Example:
            >>> from jsplit.privacy import Gives
            >>> Gives("x", 4, 4).strength > Gives("x", 4, 4, rounded=True).strength
            True
        """
        conditions = (self.some, bool(self.up_to), self.rounded, self.needs_own)
        some, up_to, rounded, needs_own = (not c for c in conditions)
        return self.whole, self.entries, some, up_to, rounded, needs_own

    def __str__(self) -> str:
        if self.whole:
            verb = "gives away" if self.needs_own else "is"
            text = f"{verb} `{self.field}`"
        else:
            up = "up to " if self.some else ""
            text = f"has {up}{self.entries} of {self.of} entries of `{self.field}`"
        if self.rounded:
            text += ", rounded"
        if self.up_to:
            text += " up to parameters of " + ", ".join(f"`{n}`" for n in self.up_to)
        if self.needs_own:
            text += " to who knows its own values"
        return text


@dataclass(frozen=True)
class Seen:
    """A message that a party gets or sends, and what its receiver can tell from it.

    Attributes:
        name: of the value.
        kind: "activation", "cotangent" or "scalar".
        sender: the party that sends it.
        receiver: the party that gets it.
        modes: "training", "inference" or both.
        fields: those that it depends on.
        nodes: those whose parameters or statistics it depends on.
        shape: of what crosses, after its link; a tuple of shapes where that is several
            arrays; empty without a batch.
        dtype: of what crosses, as text.
        bytes: of what crosses in a step.
        numbers: how many numbers of it belong to each record.
        gives: what is proven that it gives away.
        enough_for: fields that have no more numbers than it has, so that the number of
            them alone does not keep anybody from undoing it.
        linked: whether it crosses through a link.
        value_gives: what the value would give away without its link.
        carries: what goes with the value, since its receiver reads that too.
        taught: fields that the parameters of `nodes` are trained on, of which it may
            tell without depending on them in this step.

    Example:
        >>> import jsplit
        >>> bottom, top = (jsplit.segment(lambda x: x) for _ in range(2))
        >>> topology = jsplit.vanilla(bottom, top, loss=lambda y, label: y[:, 0])
        >>> seen = jsplit.privacy.views(topology)["server"].receives[0]
        >>> seen.name, seen.kind, seen.fields
        ('smashed', 'activation', ('x',))
    """

    name: str
    kind: str
    sender: str
    receiver: str
    modes: tuple[str, ...]
    fields: tuple[str, ...]
    nodes: tuple[str, ...]
    shape: tuple = ()
    dtype: str = ""
    bytes: int = 0
    numbers: int = 0
    gives: tuple[Gives, ...] = ()
    enough_for: tuple[str, ...] = ()
    linked: bool = False
    value_gives: tuple[Gives, ...] = ()
    carries: tuple[str, ...] = ()
    taught: tuple[str, ...] = ()


@dataclass(frozen=True)
class Together:
    """What several parties have if they pool all they have and see.

    Attributes:
        parties: who pool.
        fields: those that they hold.
        reach: fields of others on which messages to them depend.
        gives: of these, those that are proven to be given away to them.
        between_others: messages that pass between others and never them.

    Example:
        >>> import jsplit
        >>> bottom, top = (jsplit.segment(lambda x: x) for _ in range(2))
        >>> topology = jsplit.vanilla(bottom, top, loss=lambda y, label: y[:, 0])
        >>> [both.parties for both in jsplit.privacy.views(topology).together]
        [('client',), ('server',)]
    """

    parties: tuple[str, ...]
    fields: tuple[str, ...]
    reach: tuple[str, ...]
    gives: tuple[Gives, ...]
    between_others: tuple[str, ...]
