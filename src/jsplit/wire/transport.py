"""What connects parties: gRPC by default."""

from __future__ import annotations

from typing import Protocol


class Transport(Protocol):
    """What carries frames between parties; the branch `wire` says what it must do."""
