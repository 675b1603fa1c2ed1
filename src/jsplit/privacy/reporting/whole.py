"""`Report`: what training gives away, of one trainer or of several side by side."""

from __future__ import annotations

from dataclasses import dataclass

from jsplit.core.checks import shown
from jsplit.privacy.reporting import encoding, formats
from jsplit.privacy.reporting.records import Outcome
from jsplit.privacy.reporting.tables import pictured, tables


@dataclass(frozen=True, repr=False)
class Report:
    """What training gives away. Printing it shows tables.

    It holds no value of a record, but for pictures, where these were asked for.

    Attributes:
        outcomes: of the plain trainer, "none", and of each defence.

    Example:
        >>> from jsplit.privacy import Outcome, Report
        >>> report = Report((Outcome("none", 100, 64, 640, 160, {"loss": 0.5}),))
        >>> report["none"].losses
        {'loss': 0.5}
        >>> print(report.table().splitlines()[2])
        What it is worth, and what it costs
    """

    outcomes: tuple[Outcome, ...]

    def __getitem__(self, name: str) -> Outcome:
        for o in self.outcomes:
            if o.name == name:
                return o
        there = ", ".join(o.name for o in self.outcomes)
        raise ValueError(f"`name` must be one of {there}, got {shown(name)}.")

    def table(self) -> str:
        """All of it as text.

        Returns:
            Tables: utility and cost; the best attack at each cut, defences side by side;
            every attack; measures; what is proven to be given away, what is ruled out,
            and what was not tested, with the reason.

        Example:
            >>> from jsplit.privacy import Outcome, Report
            >>> report = Report((Outcome("none", 100, 64, 640, 160),))
            >>> print(report.table().splitlines()[0])
            What training gives away
        """
        return formats.text(tables(self.outcomes))

    def __repr__(self) -> str:
        return self.table()

    def markdown(self) -> str:
        """All of it as Markdown.

        Returns:
            A text; names in it are escaped.

        Example:
            >>> from jsplit.privacy import Outcome, Report
            >>> report = Report((Outcome("none", 100, 64, 640, 160),))
            >>> print(report.markdown().splitlines()[0])
            # What training gives away
        """
        return formats.markdown(tables(self.outcomes), [*pictured(self.outcomes)])

    def html(self) -> str:
        """All of it as a page of HTML, which needs nothing else.

        Returns:
            A text; names in it are escaped.

        Example:
            >>> from jsplit.privacy import Outcome, Report
            >>> Report((Outcome("none", 100, 64, 640, 160),)).html()[:15]
            '<!doctype html>'
        """
        return formats.html(tables(self.outcomes), [*pictured(self.outcomes)])

    def _repr_html_(self) -> str:
        return formats.cell(tables(self.outcomes), [*pictured(self.outcomes)])

    def json(self) -> str:
        """All of it as a JSON object; `from_json` is the inverse.

        Returns:
            A text with the keys `format` and `outcomes`.

        Example:
            >>> from jsplit.privacy import Outcome, Report
            >>> report = Report((Outcome("none", 100, 64, 640, 160),))
            >>> Report.from_json(report.json()) == report
            True
        """
        return encoding.encoded(self.outcomes)

    @classmethod
    def from_json(cls, text: str) -> Report:
        """The report that `json` wrote.

        Args:
            text: as `json` gives it.

        Returns:
            A report equal to that.

        Raises:
            ValueError: if it is of another format.

        Example:
            >>> from jsplit.privacy import Report
            >>> Report.from_json('{"format": 0}')
            Traceback (most recent call last):
            ValueError: `text` must be a report of format 1, got 0.
        """
        return cls(encoding.decoded(text))
