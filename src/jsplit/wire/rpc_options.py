"""What both sides of a gRPC connection ask of gRPC: silence that is noticed, chunks that fit."""

from __future__ import annotations

from jsplit.wire.channel import CHUNK
from jsplit.wire.codec import LARGEST_HEAD
from jsplit.wire.transport import Pulse


def options(pulse: Pulse) -> list[tuple[str, int | str]]:
    """What either side asks of gRPC."""
    every, wait = (max(int(1000 * seconds), 1) for seconds in pulse)
    least = min(every, 1000)
    return [
        ("grpc.keepalive_time_ms", every),
        ("grpc.keepalive_timeout_ms", wait),
        # Else a side that goes on sending never notices that nobody is
        # there.
        ("grpc.http2.ping_timeout_ms", wait),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", least),
        # A listener hangs up on one that asks more often than it allows: so
        # it allows twice that.
        ("grpc.http2.min_recv_ping_interval_without_data_ms", least // 2),
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.max_receive_message_length", CHUNK + LARGEST_HEAD),
        ("grpc.max_send_message_length", CHUNK + LARGEST_HEAD),
        # Two parties of one process must not share a connection, nor two
        # listeners a port.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.so_reuseport", 0),
        ("grpc.enable_http_proxy", 0),
    ]
