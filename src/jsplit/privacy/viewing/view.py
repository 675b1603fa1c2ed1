"""What one party has and sees, and which attacks have anything to attack there.

Where a threat does not exist the topology itself proves it, so an attack asks `View.can`
before it spends anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from jsplit.core.checks import one_of
from jsplit.privacy.viewing.records import Seen
from jsplit.topology.metrics import Metric
from jsplit.topology.nodes import Loss, Node

ATTACKS = ("inversion", "hijacking", "labels", "membership")


@dataclass(frozen=True)
class Possible:
    """Whether an attack has anything to attack at a party, and why.

    Attributes:
        attack: its kind.
        party: who would attack.
        possible: whether there is a threat at all.
        why: in words.

    Example:
        >>> from jsplit.privacy import Possible
        >>> bool(Possible("labels", "server", False, "it holds `label`"))
        False
    """

    attack: str
    party: str
    possible: bool
    why: str

    def __bool__(self) -> bool:
        return self.possible


@dataclass(frozen=True)
class View:
    """What one party has and sees: all that an attack by it may use, beside `Traffic`.

    Attributes:
        party: its name.
        fields: those that it holds.
        runs: the nodes that it runs, whose parameters, statistics and optimizer state it
            keeps.
        trains: of these, the nodes with parameters.
        statistics: of these, the nodes with statistics (BatchNorm and the like).
        optimizer: whether it keeps the state of an optimizer.
        losses: those that it computes, metrics included.
        labels: fields that losses of any party read, the labels of this topology.
        computes: values that it makes or gets in the clear: its own nodes' and what it
            receives.
        receives: messages that it gets.
        sends: messages that it sends.
        tied: of its nodes, those that read weights of another of its nodes, in words.
        parts: the nodes, losses and metrics themselves, which it runs; of a view read
            from JSON none.

    Example:
        >>> import jsplit
        >>> bottom, top = (jsplit.segment(lambda x: x) for _ in range(2))
        >>> topology = jsplit.vanilla(bottom, top, loss=lambda y, label: y[:, 0])
        >>> view = jsplit.privacy.views(topology)["server"]
        >>> view.fields, view.runs, view.losses
        (('label',), ('output',), ('loss',))
    """

    party: str
    fields: tuple[str, ...]
    runs: tuple[str, ...]
    trains: tuple[str, ...]
    statistics: tuple[str, ...]
    optimizer: bool
    losses: tuple[str, ...]
    labels: tuple[str, ...]
    computes: tuple[str, ...]
    receives: tuple[Seen, ...]
    sends: tuple[Seen, ...]
    tied: tuple[str, ...] = ()
    # Functions are no data: a view that went through JSON is equal without them.
    parts: Sequence[Node | Loss | Metric] = field(default=(), repr=False, compare=False)

    def holds(self, name: str) -> bool:
        """Whether the party holds a field itself.

        Args:
            name: of the field.

        Returns:
            Whether it does.

        Example:
            >>> import jsplit
            >>> bottom, top = (jsplit.segment(lambda x: x) for _ in range(2))
            >>> topology = jsplit.vanilla(bottom, top, loss=lambda y, label: y[:, 0])
            >>> jsplit.privacy.views(topology)["server"].holds("label")
            True
        """
        return name in self.fields

    def sees_activation_of(self, name: str) -> bool:
        """Whether the party gets an activation that depends on a field it does not hold.

        Args:
            name: of the field.

        Returns:
            Whether it does. If not, nothing of the field reaches it forward.

        Example:
            >>> import jsplit
            >>> bottom, top = (jsplit.segment(lambda x: x) for _ in range(2))
            >>> topology = jsplit.vanilla(bottom, top, loss=lambda y, label: y[:, 0])
            >>> views = jsplit.privacy.views(topology)
            >>> [views[p].sees_activation_of("x") for p in ("client", "server")]
            [False, True]
        """
        got = (s for s in self.receives if s.kind == "activation")
        return not self.holds(name) and any(name in s.fields for s in got)

    def gets_cotangent(self, value: str) -> bool:
        """Whether a cotangent of a value comes to the party.

        Args:
            value: its name.

        Returns:
            Whether it does.

        Example:
            >>> import jsplit
            >>> bottom, top = (jsplit.segment(lambda x: x) for _ in range(2))
            >>> topology = jsplit.vanilla(bottom, top, loss=lambda y, label: y[:, 0])
            >>> jsplit.privacy.views(topology)["client"].gets_cotangent("smashed")
            False
        """
        return any(s.kind == "cotangent" and s.name == value for s in self.receives)

    def returns_cotangent(self, value: str) -> bool:
        """Whether the party sends a cotangent of a value to another party.

        Args:
            value: its name.

        Returns:
            Whether it does. If not, it cannot train the segment that makes the value.

        Example:
            >>> import jsplit
            >>> bottom, top = (jsplit.segment(lambda x: x) for _ in range(2))
            >>> topology = jsplit.vanilla(bottom, top, loss=lambda y, label: y[:, 0])
            >>> jsplit.privacy.views(topology)["server"].returns_cotangent("smashed")
            False
        """
        return any(s.kind == "cotangent" and s.name == value for s in self.sends)

    def can(self, attack: str) -> Possible:
        """Whether an attack has anything to attack from here.

        Args:
            attack: "inversion": an input field of others, from whatever the party gets;
                "hijacking": training another's segment to leak by the cotangents sent
                to it; "labels": a label that the party does not hold; "membership":
                whether a record, or a property of all, was trained on.

        Returns:
            `Possible`, which is false where the topology itself rules it out, and says
            why. That one is possible does not say that it succeeds.

        Raises:
            ValueError: if there is no such attack.

        Example:
            >>> import jsplit
            >>> bottom, top = (jsplit.segment(lambda x: x) for _ in range(2))
            >>> topology = jsplit.vanilla(bottom, top, loss=lambda y, label: y[:, 0])
            >>> print(jsplit.privacy.views(topology)["server"].can("hijacking").why)
            it returns no cotangent of an activation that depends on fields of others
        """
        one_of("attack", attack, ATTACKS)
        found, otherwise = _targets(self, attack)
        why = "; ".join(found) if found else otherwise
        return Possible(attack, self.party, bool(found), why)


def _targets(view: View, attack: str) -> tuple[list[str], str]:
    """What a party can attack, in words, and what to say where that is nothing."""
    if attack == "hijacking":
        texts = [
            f"it returns the cotangent of `{s.name}`"
            for s in view.receives
            if s.kind == "activation"
            and not {*s.fields} <= {*view.fields}
            and view.returns_cotangent(s.name)
        ]
        no = "it returns no cotangent of an activation that depends on fields of others"
        return texts, no
    found = [t for s in view.receives if (t := _tells(view, s, attack))]
    if attack == "labels":
        no = (
            "no message that it gets depends on a label that it does not hold, nor on "
            "parameters trained on one"
        )
        return found, no
    no = "no message that it gets depends on fields of others"
    what = "inputs" if attack == "inversion" else "fields"
    return found, no.replace("fields", what) + ", nor on parameters trained on some"


def hidden_in(
    view: View, seen: Seen, attack: str, *, taught: bool = False
) -> list[str]:
    """The fields of others that an attack may find in a message.

    Args:
        view: of the party that gets it.
        seen: the message.
        attack: "inversion", "labels" or "membership".
        taught: whether those that the parameters behind it are trained on are meant;
            else those that it depends on.
    """
    found = [f for f in (seen.taught if taught else seen.fields) if not view.holds(f)]
    if attack == "labels":
        return [f for f in found if f in view.labels]
    return [f for f in found if attack == "membership" or f not in view.labels]


def gets_inputs(view: View) -> bool:
    """Whether an activation that a party gets depends on inputs of others."""
    got = [s for s in view.receives if s.kind == "activation"]
    return any(hidden_in(view, s, "inversion") for s in got)


def _tells(view: View, seen: Seen, attack: str) -> str:
    """What a message tells of, in words; empty if there is nothing for the attack."""
    whose = f"the {seen.kind} of `{seen.name}` depends on "
    if fields := hidden_in(view, seen, attack):
        return f"{whose}{_list(fields)}"
    if fields := hidden_in(view, seen, attack, taught=True):
        return f"{whose}parameters trained on {_list(fields)}"
    return ""


def _list(names: Sequence[str]) -> str:
    return ", ".join(f"`{n}`" for n in names)
