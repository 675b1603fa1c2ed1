"""Who sends bytes there and back, for `bench_wire.py`: a socket with TLS, a bare gRPC stream, and a channel of jsplit.

Of each, a server that takes all bytes before it sends them back, and a client: `trip(array)` is one round trip, `push(array)`
one way, to which nothing comes back. All three use the same certificates, on both sides. `python echoes.py <kind> <folder of
certificates>` serves, and prints its port.
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

from jsplit.wire.certs import host_of, read, uri_of
from jsplit.wire.channel import CHUNK
from jsplit.wire.codec import Head, frame_of
from jsplit.wire.rpc import Listener, dial

LIMIT, LONG = 1 << 28, 60.0
ONE_WAY = 1 << 62
"""Added to the size of what is not to be sent back."""
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
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with context.wrap_socket(raw, server_side=True) as s:
            while size := int.from_bytes(receive(s, 8), "little"):
                data = receive(s, size % ONE_WAY)
                if size < ONE_WAY:
                    s.sendall(size.to_bytes(8, "little"))
                    s.sendall(data)


def receive(s: ssl.SSLSocket, size: int) -> bytearray:
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
    ended, trust = threading.Event(), read(folder, "server")

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
    handler = grpc.stream_stream_rpc_method_handler(talk)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("Bare", {"talk": handler}),)
    )
    pair = [(trust.key, trust.certificate)]
    print(
        server.add_secure_port(
            "127.0.0.1:0", grpc.ssl_server_credentials(pair, trust.authority, True)
        ),
        flush=True,
    )
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
    trust = read(folder, "client")
    trusted = grpc.ssl_channel_credentials(
        trust.authority, trust.key, trust.certificate
    )
    line = grpc.secure_channel(
        f"127.0.0.1:{port}",
        trusted,
        [("grpc.ssl_target_name_override", host_of("server"))],
    )
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
                if frame.head.kind == "activation":
                    channel.send(frame, LONG)
        except (ConnectionError, TimeoutError):
            ended.set()

    listener = Listener(
        "127.0.0.1:0", read(folder, "server"), {uri_of("client"): "client"}, met, LIMIT
    )
    print(listener.port, flush=True)
    ended.wait(600)
    listener.close()


def echo_jsplit(folder: Path, port: int) -> Echo:
    channel = dial(f"127.0.0.1:{port}", "server", read(folder, "client"), LIMIT)

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
