"""What lies between parties: frames, a protocol without I/O, channels, and transports."""

from jsplit.wire.credentials import host_of, uri_of
from jsplit.wire.errors import NotYet, Refused
from jsplit.wire.frames import Frame, Head, frame_of
from jsplit.wire.memory import MemoryTransport
from jsplit.wire.transport import Pulse, Transport

__all__ = [
    "Frame",
    "Head",
    "MemoryTransport",
    "NotYet",
    "Pulse",
    "Refused",
    "Transport",
    "frame_of",
    "host_of",
    "uri_of",
]
