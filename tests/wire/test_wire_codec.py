"""Frames come back bit for bit; bytes that are no frame are refused before memory is taken."""

from __future__ import annotations

import resource
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jsplit
from jsplit.core.trees import frame_bytes, nbytes
from jsplit.wire import codec
from jsplit.wire.chunks import Assembler, decode, encode, split_up
from jsplit.wire.codec import (
    CARRIERS,
    DTYPES,
    HEADER,
    KINDS,
    KNOWN,
    CodecError,
    Head,
    frame_of,
)

LIMIT = 1 << 16
WHOLE = st.integers(0, 2**64 - 1)
SHORT = st.integers(0, 2**16 - 1)
HEADS = st.builds(
    Head,
    st.sampled_from(CARRIERS),
    st.binary(min_size=32, max_size=32),
    WHOLE,
    WHOLE,
    SHORT,
    SHORT,
    WHOLE,
    st.integers(0, 2**32 - 1),
    SHORT,
    sealed=st.booleans(),
)


@st.composite
def arrays(draw):
    dtype = draw(st.sampled_from(KNOWN))
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=4)))
    data = draw(
        st.binary(min_size=(n := int(np.prod(shape)) * dtype.itemsize), max_size=n)
    )
    data = bytes(b & 1 for b in data) if dtype.kind == "b" else data
    return (
        np.frombuffer(data, np.uint8).view(dtype).reshape(shape)
        if n
        else np.empty(shape, dtype)
    )


def same(a, b):
    assert a.head == b.head
    for x, y in zip(a.arrays, b.arrays, strict=True):
        assert x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()


def joined(frame):
    return b"".join(encode(frame))


@settings(max_examples=200, deadline=None)
@given(HEADS, st.lists(arrays(), max_size=5))
def test_decode_undoes_encode(head, values):
    frame = frame_of(head, values)
    same(decode(joined(frame), LIMIT), frame)


@settings(max_examples=100, deadline=None)
@given(HEADS, st.lists(arrays(), max_size=5), st.integers(200, 400))
def test_chunks_of_any_size_put_a_frame_together_again(head, values, chunk):
    frame, assembler = frame_of(head, values), Assembler(LIMIT)
    for _ in range(2):  # and leave the assembler ready for the next
        *first, last = [assembler.feed(c) for c in split_up(frame, chunk)]
        assert not any(first)
        same(last, frame)


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_crosses_bit_for_bit(name):
    dtype = KNOWN[DTYPES.index(name)]
    assert dtype.name == name
    bits = np.random.default_rng(0).integers(
        0, 2 if name == "bool" else 256, (64, dtype.itemsize), np.uint8
    )
    values = [np.uint8([7]), bits.view(dtype)[:, 0]]  # the second lies at an odd place
    found = decode(joined(frame_of(Head("activation"), values)), LIMIT)
    assert (
        found.arrays[1].tobytes() == values[1].tobytes()
        and found.arrays[1].dtype == dtype
    )
    assert jnp.asarray(found.arrays[1][:1]).shape == (1,)


@pytest.mark.parametrize(
    "link",
    [
        jsplit.identity,
        jsplit.compress.cast(jnp.bfloat16),
        jsplit.compress.cast(jnp.float8_e4m3fn),
        jsplit.compress.quantize(3),
        jsplit.chain(jsplit.compress.cast(jnp.bfloat16), jsplit.compress.quantize(8)),
    ],
)
def test_the_payload_of_any_link_takes_the_bytes_that_are_said_of_it(link):
    value = {"h": jnp.ones((3, 5)), "mask": jnp.ones((3, 2), bool)}
    payload, _ = link.encode(link.init(value), value, jax.random.key(0))
    leaves, structure = jax.tree.flatten(payload)
    data = joined(frame_of(Head("activation"), leaves))
    assert len(data) == nbytes(payload) + frame_bytes(payload)
    back = structure.unflatten(map(jnp.asarray, decode(data, LIMIT).arrays))
    for x, y in zip(
        jax.tree.leaves(link.decode(back, value)),
        jax.tree.leaves(link.decode(payload, value)),
        strict=True,
    ):
        assert x.dtype == y.dtype and (x == y).all()


def test_json_comes_back():
    said = {"durable": [0, 100], "name": "St. Mary's"}
    assert (
        codec.about(decode(joined(codec.text_of(Head("hello"), said)), LIMIT)) == said
    )
    for body in (b"[1]", b"{", b"\xff", b"[" * 100_000, b"9" * 10_000):
        with pytest.raises(CodecError, match="hello must hold"):
            codec.about(frame_of(Head("hello"), [np.frombuffer(body, np.uint8)]))
    with pytest.raises(CodecError, match="hello must hold"):
        codec.about(frame_of(Head("hello"), []))


def test_what_cannot_be_sent_is_refused_by_the_sender():
    with pytest.raises(ValueError, match="`arrays` holds object"):
        encode(frame_of(Head("activation"), [np.array([None])]))
    with pytest.raises(
        ValueError, match="`arrays` must be at most 16384 arrays, got 16385"
    ):
        encode(frame_of(Head("activation"), [np.zeros(1)] * 16385))
    same(
        decode(
            joined(most := frame_of(Head("weights"), [np.zeros(1)] * 16384)), 1 << 20
        ),
        most,
    )
    with pytest.raises(ValueError, match="at most"):
        codec.text_of(Head("hello"), {"a": "x" * (1 << 20)})


def test_each_check_says_what_is_wrong():
    data = joined(frame_of(Head("activation"), [np.zeros((2, 3), np.float32)]))

    def changed(at, value):
        return data[:at] + value + data[at + len(value) :]

    for bad, message in [
        (b"", "begins with 96 bytes"),
        (data[:95], "begins with 96 bytes"),
        (changed(0, b"jspx"), "begins with b'jspl'"),
        (changed(4, b"\7"), "version 7 of the protocol"),
        (changed(5, b"\x63"), "the kind 99"),
        (changed(6, b"\2"), "flags 2"),
        (changed(76, b"\xff" * 8), "at most 65536"),
        (changed(40, b"\1"), "checksum"),
        (changed(96, b"\xff"), "dtype 255"),
        (changed(97, b"\xff"), "255 axes"),
        (changed(98, b"\1"), "there is no such array"),
        (data[:100], "within its head"),
        (data[:-1], "ends after"),
        (data + b"x", "25 bytes came for a frame of 24"),
    ]:
        with pytest.raises(CodecError, match=message):
            decode(bad, LIMIT)


def test_arrays_that_no_memory_can_hold_are_refused():
    empty = codec.pack(
        Head("activation", shapes=((np.dtype(np.float64), (0, 1 << 62)),))
    )
    with pytest.raises(CodecError, match="no array can have"):
        decode(empty, LIMIT)
    odd = joined(frame_of(Head("activation"), [np.uint8([0, 2]).view(bool)]))
    with pytest.raises(CodecError, match="bytes than 0 and 1"):
        decode(odd, LIMIT)


def test_nothing_is_allocated_for_what_was_not_agreed_upon():
    """A frame may say that it holds a gigabyte; the limit or the agreement is asked first."""
    shape = ((np.dtype(np.float32), (1 << 28,)),)
    data = codec.pack(Head("activation", shapes=shape))

    def refuse(head):
        raise CodecError(f"expected float32[2], got float32{list(head.shapes[0][1])}.")

    tracemalloc.start()
    try:
        with pytest.raises(CodecError, match="at most"):
            decode(data, LIMIT)
        with pytest.raises(CodecError, match="expected float32"):
            decode(data, 1 << 40, refuse)
        hello = codec.pack(Head("hello", shapes=((np.dtype(np.uint8), (1 << 29,)),)))
        with pytest.raises(CodecError, match="kind hello has"):
            decode(hello, 1 << 40)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_every_frame_has_a_buffer_of_its_own():
    """Device arrays may alias what was received."""
    assembler, chunk = (
        Assembler(LIMIT),
        joined(frame_of(Head("activation"), [np.arange(64.0)])),
    )
    first, second = assembler.feed(chunk), assembler.feed(chunk)
    assert first is not None and second is not None
    assert not np.shares_memory(first.arrays[0], second.arrays[0])


def refused_or_valid(frames: list[bytes], count: int, seed: int) -> dict[str, int]:
    """Change bytes of frames at random; each is refused with a CodecError, or is a frame."""
    rng, seen = np.random.default_rng(seed), {"refused": 0, "valid": 0}
    special = np.uint8([0, 1, 127, 128, 255])
    for i in range(count):
        data = bytearray(frames[i % len(frames)])
        match rng.integers(6):
            case 0:
                del data[rng.integers(len(data)) :]
            case 1:
                data += rng.bytes(rng.integers(1, 50))
            case 2:
                at = rng.integers(len(data))
                data[at : at + 8] = rng.bytes(8)
            case _:
                for at in rng.integers(len(data), size=rng.integers(1, 4)):
                    data[at] = (
                        rng.choice(special) if rng.integers(2) else rng.integers(256)
                    )
        if (
            rng.integers(2) and len(data) >= HEADER.size
        ):  # and give it a checksum that fits, so that what follows is tested too
            rest = data[HEADER.size : head_end(data)]
            data[HEADER.size - 12 : HEADER.size] = codec.checksum(
                bytes(data[: HEADER.size - 12]), bytes(rest)
            )
        try:
            frame = decode(bytes(data), LIMIT)
            if frame.head.kind not in CARRIERS:
                codec.about(frame)
        except CodecError:
            seen["refused"] += 1
        else:
            assert (
                frame.head.kind in KINDS
                and sum(x.nbytes for x in frame.arrays) == frame.head.size <= LIMIT
            )
            seen["valid"] += 1
    return seen


def test_chunks_are_made_one_at_a_time_and_what_they_give_can_be_used_without_a_copy():
    frame = frame_of(Head("activation"), [np.arange(1 << 20, dtype=np.float32)])
    chunks, assembler = split_up(frame, 1 << 18), Assembler(1 << 22)
    tracemalloc.start()
    try:
        found = [assembler.feed(next(chunks)) for _ in range(17)][-1]
        assert tracemalloc.get_traced_memory()[1] < (1 << 22) + 3 * (
            1 << 18
        )  # the frame that comes, and what is under way
    finally:
        tracemalloc.stop()
    assert next(chunks, None) is None and found is not None
    same(found, frame)
    assert (
        found.arrays[0].ctypes.data % 64 == 0
    )  # what jax.device_put asks of memory that it shares


def head_end(data: bytearray) -> int:
    """Where the head of a frame ends that says as many arrays and axes as this one."""
    at = HEADER.size
    for _ in range(int.from_bytes(data[74:76], "little")):
        if at + 8 > len(data):
            break
        at += 8 + 8 * data[at + 1]
    return at


SAMPLES = [
    joined(
        frame_of(
            Head("activation", step=3, epoch=1),
            [np.ones((2, 3), np.float32), np.zeros(5, np.int8)],
        )
    ),
    joined(
        frame_of(
            Head("cotangent", micro=2, sealed=True), [np.ones((4, 2, 1), jnp.bfloat16)]
        )
    ),
    joined(frame_of(Head("weights"), [])),
    joined(codec.text_of(Head("checkpoint"), {"durable": [1, 2]})),
]
HELLO = [
    joined(
        codec.text_of(
            Head("hello", b"r" * 32),
            {"party": "lab", "durable": [0], "agreement": {"steps": 3}},
        )
    )
]


@pytest.mark.parametrize(
    ("frames", "count"), [(SAMPLES, 16_000), (HELLO, 4_000)], ids=["frames", "hellos"]
)
def test_a_changed_frame_is_refused_or_valid(frames, count):
    seen = refused_or_valid(frames, count, seed=0)
    assert min(seen.values()) > count / 50, seen


@pytest.mark.slow
@pytest.mark.parametrize(
    ("frames", "count"),
    [(SAMPLES, 1_000_000), (HELLO, 100_000)],
    ids=["frames", "hellos"],
)
def test_a_million_changed_frames_are_refused_or_valid(frames, count):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert sum(refused_or_valid(frames, count, seed=1).values()) == count
    assert (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32_000
    )  # kB: no frame made it take what it said


def test_a_changed_frame_takes_no_more_memory_than_agreed():
    tracemalloc.start()
    try:
        refused_or_valid(SAMPLES + HELLO, 1000, seed=2)
        assert tracemalloc.get_traced_memory()[1] < 4 * LIMIT + codec.LARGEST_HEAD
    finally:
        tracemalloc.stop()
