"""Calls of what is no method of a listener: refused at its door, as all others that are.

gRPC would refuse them by itself, and neither the door nor the log would know of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, cast

import grpc

from jsplit.wire.door import Door
from jsplit.wire.said import quoted


# gRPC's own types know nothing of what crosses: here it is bytes, both
# ways. So this says what is used of it.
class MakesHandlers(Protocol):
    """What is used of `grpc` to serve calls."""

    def stream_stream_rpc_method_handler(
        self, talk: Callable[[Iterator[bytes], grpc.ServicerContext], Iterator[bytes]]
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        """The handler of a call of many frames both ways."""
        ...


class UnknownMethods(grpc.GenericRpcHandler):
    """Takes every call that no handler before it takes, and refuses it.

    Args:
        door: of the listener, which counts it.
        shown: by what names somebody shows itself.
    """

    def __init__(
        self, door: Door, shown: Callable[[grpc.ServicerContext], Sequence[str]]
    ):
        self.door, self.shown = door, shown
        made = cast(MakesHandlers, grpc).stream_stream_rpc_method_handler(self.refuse)
        self.handler = made

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        """The handler of any call."""
        return self.handler

    def refuse(
        self, requests: Iterator[bytes], context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        """End a call, and count it."""
        names = self.shown(context)
        # Without the method: there are as many as somebody thinks of.
        who = quoted(", ".join(names)) if names else "no identity"
        refused = self.door.refusal(f"{who} calls an unknown method", context.peer())
        context.abort(grpc.StatusCode.UNIMPLEMENTED, str(refused))
        # Never reached: it makes this a stream, as the handler asks for.
        yield b""
