"""Who sends bytes there and back: a socket with TLS, a bare gRPC stream, and a channel of jsplit.

The contestants of experiments/bench/wire.py. Of each there is a server, which takes all bytes and
then sends them back, and a client: `trip(array)` is one round trip, `push(array)` one way, to which
nothing comes back. All use the same certificates, on both sides.

    python experiments/network/echo_servers.py <kind> <folder of certificates>  # prints its port
"""

from __future__ import annotations

import queue
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from jsplit.party import credentials
from jsplit.wire import Head, frame_of, host_of, uri_of
from jsplit.wire.rpc import Listener, dial

LIMIT, LONG = 1 << 28, 60.0
CHUNK = (
    1 << 19
)  # bytes that the bare stream sends at a time, as a channel of jsplit does
ONE_WAY = 1 << 62  # added to the size of what is not to be sent back

Trip = Callable[[np.ndarray], Any]
Echo = tuple[Trip, Trip, Callable]


# A socket with TLS.


def serve_tls(folder: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    context.load_verify_locations(folder / "ca.crt")
    context.verify_mode = ssl.CERT_REQUIRED
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        raw, _ = listener.accept()
        # Without this the last piece of a message waits for the acknowledgement of the one before.
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with context.wrap_socket(raw, server_side=True) as s:
            while size := int.from_bytes(receive(s, 8), "little"):
                data = receive(s, size % ONE_WAY)
                if size < ONE_WAY:
                    s.sendall(size.to_bytes(8, "little"))
                    s.sendall(data)


def receive(s: ssl.SSLSocket, size: int) -> bytearray:
    """So many bytes; a size of zero, as which the server takes it, once the peer has hung up."""
    data, at = bytearray(size), 0
    view = memoryview(data)
    while at < size:
        got = s.recv_into(view[at:])
        if not got:
            return bytearray(8)
        at += got
    return data


def echo_tls(folder: Path, port: int) -> Echo:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_cert_chain(folder / "client.crt", folder / "client.key")
    context.load_verify_locations(folder / "ca.crt")
    raw = socket.create_connection(("127.0.0.1", port))
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    s = context.wrap_socket(raw, server_hostname=host_of("server"))

    def push(array: np.ndarray, more: int = ONE_WAY) -> None:
        s.sendall((array.nbytes + more).to_bytes(8, "little"))
        s.sendall(memoryview(array).cast("B"))

    def trip(array: np.ndarray) -> bytearray:
        push(array, 0)
        return receive(s, int.from_bytes(receive(s, 8), "little"))

    return trip, push, s.close


# A bare gRPC stream: the same bytes, in chunks as jsplit's, with nothing of jsplit on the way.


def serve_grpc(folder: Path) -> None:
    ended = threading.Event()
    trust = credentials(folder, "server")

    def talk(
        requests: Iterator[bytes], context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        context.add_callback(ended.set)
        for first in requests:
            size = int.from_bytes(first, "little")
            data = gathered(requests, size % ONE_WAY)
            if size < ONE_WAY:
                yield first
                yield from pieces(data)

    server = grpc.server(ThreadPoolExecutor(2))
    method = grpc.stream_stream_rpc_method_handler(talk)
    handler = grpc.method_handlers_generic_handler("Bare", {"talk": method})
    server.add_generic_rpc_handlers((handler,))
    pair = [(trust.key, trust.certificate)]
    own = grpc.ssl_server_credentials(pair, trust.authority, True)
    print(server.add_secure_port("127.0.0.1:0", own), flush=True)
    server.start()
    ended.wait(600)
    server.stop(1).wait(5)


def pieces(data: memoryview) -> Iterator[bytes]:
    return (bytes(data[at : at + CHUNK]) for at in range(0, len(data), CHUNK))


def gathered(chunks: Iterator[bytes], size: int) -> memoryview:
    data, at = bytearray(size), 0
    while at < size:
        chunk = next(chunks)
        data[at : at + len(chunk)] = chunk
        at += len(chunk)
    return memoryview(data)


def echo_grpc(folder: Path, port: int) -> Echo:
    trust = credentials(folder, "client")
    trusted = grpc.ssl_channel_credentials(
        trust.authority, trust.key, trust.certificate
    )
    # The certificate names the party, and not the machine's address.
    named = [("grpc.ssl_target_name_override", host_of("server"))]
    line = grpc.secure_channel(f"127.0.0.1:{port}", trusted, named)
    due: queue.SimpleQueue = queue.SimpleQueue()
    call: Any = line.stream_stream("/Bare/talk")(iter(due.get, None))

    def push(array: np.ndarray, more: int = ONE_WAY) -> None:
        due.put((array.nbytes + more).to_bytes(8, "little"))
        for piece in pieces(memoryview(array).cast("B")):
            due.put(piece)

    def trip(array: np.ndarray) -> memoryview:
        push(array, 0)
        return gathered(call, int.from_bytes(next(call), "little"))

    def close() -> None:
        due.put(None)
        call.cancel()
        line.close()

    return trip, push, close


# A channel of jsplit: frames.


def serve_jsplit(folder: Path) -> None:
    ended = threading.Event()

    def met(party: str, opened: Callable) -> None:
        channel = opened(lambda head: None)
        try:
            while True:
                frame = channel.receive(LONG)
                # What is to come back is sent as an activation, what is not as weights: a channel
                # carries either, and looks at neither.
                if frame.head.kind == "activation":
                    channel.send(frame, LONG)
        except (ConnectionError, TimeoutError):
            ended.set()

    allowed = {uri_of("client"): "client"}
    own = credentials(folder, "server")
    listener = Listener("127.0.0.1:0", own, allowed, met, LIMIT)
    print(listener.port, flush=True)
    ended.wait(600)
    listener.close()


def echo_jsplit(folder: Path, port: int) -> Echo:
    own = credentials(folder, "client")
    channel = dial(f"127.0.0.1:{port}", "server", own, LIMIT)

    def push(array: np.ndarray, kind: str = "weights") -> None:
        channel.send(frame_of(Head(kind), [array]), LONG)

    def trip(array: np.ndarray) -> np.ndarray:
        push(array, "activation")
        return channel.receive(LONG).arrays[0]

    return trip, push, channel.close


SERVE = {"tls": serve_tls, "grpc": serve_grpc, "jsplit": serve_jsplit}
ECHO = {"tls": echo_tls, "grpc": echo_grpc, "jsplit": echo_jsplit}

if __name__ == "__main__":
    SERVE[sys.argv[1]](Path(sys.argv[2]))
