"""The views of all parties in one record, which prints, draws a page and keeps itself as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import cast

from jsplit.core.html import page_of
from jsplit.privacy.viewing.records import Gives, Seen, Together
from jsplit.privacy.viewing.showing import cell, text
from jsplit.privacy.viewing.view import View

_FORMAT = 2


@dataclass(frozen=True, repr=False)
class Views:
    """What each party of a topology has and sees. Printing it shows tables.

    Attributes:
        parties: by party, its view.
        together: of each set of parties but all, what they have if they pool it; with
            more than six parties of each one, each two, and all but each one.
        everyone: what all parties know, in words.
        examined: whether messages were looked into, which takes the shapes of a batch.

    Example:
        >>> import jax, jsplit
        >>> raw, top = jsplit.segment(lambda x: 2 * x), jsplit.segment(lambda h: h)
        >>> topology = jsplit.vanilla(raw, top, loss=lambda y, label: y[:, 0] - label)
        >>> x = jax.ShapeDtypeStruct((8, 4), "float32")
        >>> label = jax.ShapeDtypeStruct((8,), "float32")
        >>> views = jsplit.privacy.views(topology, {"x": x, "label": label})
        >>> print(views["server"].receives[0].gives[0])
        is `x`
    """

    parties: Mapping[str, View]
    together: tuple[Together, ...]
    everyone: tuple[str, ...]
    examined: bool

    def __getitem__(self, party: str) -> View:
        if party not in self.parties:
            there = ", ".join(self.parties)
            raise ValueError(f"`party` must be one of {there}, got {party!r}.")
        return self.parties[party]

    def __iter__(self) -> Iterator[str]:
        return iter(self.parties)

    def __len__(self) -> int:
        return len(self.parties)

    @property
    def messages(self) -> tuple[Seen, ...]:
        """Every message, each once, by its sender and in the order of a step.

        Returns:
            All messages that some party sends.

        Example:
            >>> import jsplit
            >>> bottom, top = (jsplit.segment(lambda x: x) for _ in range(2))
            >>> topology = jsplit.vanilla(bottom, top, loss=lambda y, label: y[:, 0])
            >>> [m.name for m in jsplit.privacy.views(topology).messages]
            ['smashed']
        """
        return tuple(s for v in self.parties.values() for s in v.sends)

    def table(self) -> str:
        """All of it as tables of text.

        Returns:
            What each party has, every message with what is proven of it, what parties
            have together, and what everyone knows.

        Example:
            >>> import jsplit
            >>> bottom, top = (jsplit.segment(lambda x: x) for _ in range(2))
            >>> topology = jsplit.vanilla(bottom, top, loss=lambda y, label: y[:, 0])
            >>> print(jsplit.privacy.views(topology).table().splitlines()[0])
            party   holds  runs     losses  receives           sends
        """
        return text(self.parties.values(), self.together, self.everyone, self.examined)

    def __repr__(self) -> str:
        return self.table()

    def html(self) -> str:
        """All of it as a page of HTML, which needs nothing else.

        Returns:
            A text; names in it are escaped.

        Example:
            >>> import jsplit
            >>> bottom, top = (jsplit.segment(lambda x: x) for _ in range(2))
            >>> topology = jsplit.vanilla(bottom, top, loss=lambda y, label: y[:, 0])
            >>> jsplit.privacy.views(topology).html()[:15]
            '<!doctype html>'
        """
        return page_of("What each party sees", self._repr_html_())

    def _repr_html_(self) -> str:
        return cell(self.parties.values(), self.together, self.everyone, self.examined)

    def json(self) -> str:
        """All of it as a JSON object; `from_json` is the inverse.

        Returns:
            A text with the keys `format`, `parties`, `together`, `everyone` and
            `examined`.

        Example:
            >>> import jsplit
            >>> bottom, top = (jsplit.segment(lambda x: x) for _ in range(2))
            >>> topology = jsplit.vanilla(bottom, top, loss=lambda y, label: y[:, 0])
            >>> views = jsplit.privacy.views(topology)
            >>> jsplit.privacy.Views.from_json(views.json()) == views
            True
        """
        parties = {}
        for name, view in self.parties.items():
            own = {f.name: getattr(view, f.name) for f in fields(view)}
            del own["parts"]
            for way in ("receives", "sends"):
                own[way] = [asdict(s) for s in own[way]]
            parties[name] = own
        found = {
            "format": _FORMAT,
            "parties": parties,
            "together": [asdict(t) for t in self.together],
            "everyone": self.everyone,
            "examined": self.examined,
        }
        return json.dumps(found, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Views:
        """The views that `json` wrote; without the segments themselves.

        Args:
            text: as `json` gives it.

        Returns:
            Views equal to those.

        Raises:
            ValueError: if it is of another format.

        Example:
            >>> from jsplit.privacy import Views
            >>> Views.from_json('{"format": 0}')
            Traceback (most recent call last):
            ValueError: `text` must be views of format 2, got 0.
        """
        found = json.loads(text)
        if found.get("format") != _FORMAT:
            raise ValueError(
                f"`text` must be views of format {_FORMAT}, got {found.get('format')}."
            )
        parties: dict[str, View] = {}
        for name, own in found["parties"].items():
            for way in ("receives", "sends"):
                own[way] = tuple(_seen(s) for s in own[way])
            parties[name] = View(**cast(dict, _tuples(own)))
        together = tuple(
            Together(**cast(dict, _tuples(t | {"gives": _gives(t["gives"])})))
            for t in found["together"]
        )
        everyone = tuple(found["everyone"])
        return cls(parties, together, everyone, found["examined"])


def _seen(own: dict) -> Seen:
    for name in ("gives", "value_gives"):
        own[name] = _gives(own[name])
    return Seen(**cast(dict, _tuples(own)))


def _gives(listed: list[dict]) -> tuple[Gives, ...]:
    return tuple(Gives(**cast(dict, _tuples(g))) for g in listed)


def _tuples(x: object) -> object:
    """Lists as tuples, in a dictionary too: JSON knows no tuples."""
    if isinstance(x, dict):
        return {key: _tuples(value) for key, value in x.items()}
    return tuple(_tuples(i) for i in x) if isinstance(x, list) else x
