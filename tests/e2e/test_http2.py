"""HTTP/2 abuse of the gRPC door (reference: reliability.md 1.12, G2-01 to G2-04, G2-09), from raw
frames. Two canaries, one on each door, stream a fixed answer all the while; they must get all of it.

gRPC 1.51 holds some rows by itself; the others are held by server/grpc_listener.h, which disconnects
who asks for much and finishes nothing.
"""
import re
import resource
import socket
import struct
import threading
import time

import grpc
import httpx
import pytest
from millrace.v1 import generation_pb2 as gen
from millrace.v1 import inference_service_pb2 as pb
from millrace.v1 import inference_service_pb2_grpc as rpc

from conftest import NAME, metrics, sample, wait_idle
from h2_raw import (ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PUSH_PROMISE, RST_STREAM,
                    SETTINGS, WINDOW_UPDATE, Connection, frame, integer, literal, message, request_head)

GENERATE_STREAM = b"/millrace.v1.InferenceService/GenerateStream"
TOKENIZE = message(pb.TokenizeRequest(model=NAME, text="Hi").SerializeToString())
TOKENS = 16


class Canary(threading.Thread):
    """Streams one fixed answer after the other on one connection."""

    def __init__(self, round_):
        super().__init__(daemon=True)
        self.round, self.stop_now, self.failed, self.rounds, self.slowest = round_, False, None, 0, 0.0

    def run(self):
        try:
            while not self.stop_now:
                begin = time.monotonic()
                assert self.round() == TOKENS
                self.rounds, self.slowest = self.rounds + 1, max(self.slowest, time.monotonic() - begin)
        except Exception as error:  # noqa: BLE001: reported by the fixture
            self.failed = error


def grpc_round(stub):
    request = pb.GenerateRequest(model=NAME, text="The canary sings:", sampling=gen.SamplingOptions(temperature=0),
                                 response=gen.ResponseOptions(token_ids=True),
                                 stopping=gen.StopOptions(max_tokens=TOKENS, ignore_eos=True))
    stream = stub.GenerateStream(pb.GenerateStreamRequest(request=request), timeout=30)
    return sum(len(output.token_ids) for reply in stream for output in reply.outputs)


def http_round(client):
    reply = client.post("/v1/completions", json={"model": NAME, "prompt": "The canary sings:", "max_tokens": TOKENS,
                                                 "temperature": 0, "ignore_eos": True})
    return reply.json()["usage"]["completion_tokens"]


@pytest.fixture(autouse=True)
def canaries(node):
    """Both go on during one test: not one round fails or takes 20 s on a busy machine."""
    wait_idle(node)
    descriptors = node.descriptors()
    with grpc.insecure_channel(node.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel, \
            httpx.Client(base_url=node.url, timeout=30) as client:
        stub = rpc.InferenceServiceStub(channel)
        birds = [Canary(lambda: grpc_round(stub)), Canary(lambda: http_round(client))]
        for bird in birds:
            bird.start()
        yield birds
        seen = [bird.rounds for bird in birds]
        end = time.monotonic() + 20  # each sings at least once more after the attack
        while time.monotonic() < end and any(b.rounds == s and b.failed is None for b, s in zip(birds, seen)):
            time.sleep(0.02)
        for bird in birds:
            bird.stop_now = True
            bird.join(20)
            assert bird.failed is None and bird.rounds > 0, bird.failed
            assert bird.slowest < 20, bird.slowest  # and not starved: alone a round takes a tenth of a second
    assert node.process.poll() is None
    wait_idle(node)
    end = time.monotonic() + 5
    while node.descriptors() > descriptors + 2 and time.monotonic() < end:
        time.sleep(0.05)
    assert node.descriptors() <= descriptors + 2


def cuts(node):
    return sample(metrics(node.health_url), "millrace_grpc_connections_cut_total")


def rapid_resets(body):
    for first in range(1, 200_000, 200):
        yield b"".join(frame(HEADERS, END_HEADERS, stream, request_head())
                       + (frame(DATA, 0, stream, TOKENIZE) if body else b"")
                       + frame(RST_STREAM, 0, stream, struct.pack(">I", 8)) for stream in range(first, first + 200, 2))


INDEXED_HEAD = bytes(0x80 | 62 + i for i in reversed(range(6)))  # the six fields that request_head(first=0x40) added
HEAD = frame(HEADERS, END_HEADERS, 1, request_head())
OPEN_HEAD = frame(HEADERS, 0, 1, request_head())
# Each goes on for ever; what ends it is told. Most of their bytes make the library keep or copy something.
FLOODS = {
    "rapid reset": (b"", rapid_resets(False), "streams"),
    "rapid reset with a message": (b"", rapid_resets(True), "streams"),
    "streams never finished, settings never acknowledged":
        (b"", (b"".join(frame(HEADERS, END_HEADERS, s, request_head()) for s in range(f, f + 200, 2))
               for f in range(1, 800_000, 200)), "streams"),
    "the same in 21 bytes each":
        (frame(HEADERS, END_HEADERS, 1, request_head(first=b"\x40")),
         (b"".join(frame(HEADERS, END_HEADERS, s, INDEXED_HEAD) for s in range(f, f + 200, 2))
          for f in range(3, 800_000, 200)), "streams"),
    "empty continuations": (OPEN_HEAD, [frame(CONTINUATION, 0, 1) * 10_000] * 1000, "bytes"),
    "header flood": (OPEN_HEAD, [frame(CONTINUATION, 0, 1, literal(b"x-a", b"b" * 1000) * 16)] * 5000, "bytes"),
    "empty data frames": (HEAD, [frame(DATA, 0, 1) * 10_000] * 1000, "bytes"),
    "a message of 4 GiB": (HEAD + frame(DATA, 0, 1, message(b"", length=2**32 - 1)),
                           [frame(DATA, 0, 1, bytes(16_000)) * 10] * 5000, "library"),
    "settings": (b"", [frame(SETTINGS) * 10_000] * 1000, "bytes"),
    "window updates": (HEAD, [frame(WINDOW_UPDATE, 0, 1, b"\0\0\0\1") * 10_000] * 1000, "bytes"),
    "pings": (b"", [frame(PING, 0, 0, b"12345678") * 1000] * 10_000, "library"),
    "hpack bomb": (frame(HEADERS, 0, 1, request_head() + literal(b"x-bomb", b"b" * 3500, b"\x40")),
                   [frame(CONTINUATION, 0, 1, b"\xbe" * 16_000)] * 5000, "library"),
    # gRPC 1.51 copies all of an unfinished header at each frame (CVE-2023-33953): the more of it there is, the more
    # slowly it reads on. Whichever bound is met first: 17 MiB, or 2 s behind.
    "varint padding": (frame(HEADERS, 0, 1, request_head() + b"\0\3x-a\x7f" + b"\x80" * 10_000),
                       [frame(CONTINUATION, 0, 1, b"\x80" * 16_000)] * 5000, "(bytes|stalled)"),
    "one endless header": (frame(HEADERS, 0, 1, request_head() + b"\0\3x-a" + integer(2**31, 7)),
                           [frame(CONTINUATION, 0, 1, b"b" * 16_000)] * 5000, "(bytes|stalled)"),
}


@pytest.mark.parametrize("name", FLOODS)
def test_flood_is_cut(node, name):
    first, chunks, by = FLOODS[name]
    before, rss, begin = cuts(node), node.rss_bytes(), time.monotonic()
    with Connection(node.grpc_port) as attack:
        attack.send(first)
        for chunk in chunks:
            # A flow-controlled flood may stall: the peer takes no more.
            if not attack.send(chunk, seconds=20) or time.monotonic() - begin > 90:
                break
        attack.wait(seconds=5)
        assert attack.closed, f"not cut after {time.monotonic() - begin:.0f} s"
    if by != "library":
        assert cuts(node) > before
        line = [l for l in node.lines if "connection cut" in l][-1]
        assert re.search(f'"reason":"{by}"', line), line
    # What malloc keeps for later is not a leak, but it has a bound.
    assert node.rss_bytes() - rss < 160 << 20, f"{(node.rss_bytes() - rss) >> 20} MiB"



def test_streams_flow_beside_endless_headers(node):
    """Four peers whose headers never end, back as soon as they are cut, keep gRPC's readers busy; streams that have
    begun must not be sent by one of those. (The stream worker was one: gaps of 2 to 10 s on both doors.)"""
    first, chunks, _ = FLOODS["one endless header"]
    over = threading.Event()
    gaps = {"grpc": [], "http": []}

    def attack():
        while not over.is_set():
            try:
                with Connection(node.grpc_port) as peer:
                    open_ = peer.send(first)
                    while open_ and not over.is_set():
                        open_ = peer.send(chunks[0], seconds=10)
            except OSError:
                time.sleep(0.05)

    def watch(name, pieces):
        last = time.monotonic()
        for _ in pieces:
            now = time.monotonic()
            gaps[name].append(now - last)
            last = now

    def http_pieces():
        body = {"model": NAME, "prompt": "The canary sings:", "max_tokens": 6000, "ignore_eos": True, "stream": True}
        with httpx.stream("POST", node.url + "/v1/completions", json=body, timeout=30) as reply:
            for line in reply.iter_lines():
                if over.is_set():
                    return
                yield line

    with grpc.insecure_channel(node.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        request = pb.GenerateRequest(model=NAME, text="The canary sings:",
                                     stopping=gen.StopOptions(max_tokens=6000, ignore_eos=True))
        stream = rpc.InferenceServiceStub(channel).GenerateStream(pb.GenerateStreamRequest(request=request))
        next(stream)
        watchers = [threading.Thread(target=watch, args=("grpc", iter(lambda: over.is_set() or next(stream), True))),
                    threading.Thread(target=watch, args=("http", http_pieces()))]
        attackers = [threading.Thread(target=attack) for _ in range(4)]
        before = cuts(node)
        for thread in watchers + attackers:
            thread.start()
        time.sleep(6)
        over.set()
        for thread in watchers + attackers:
            thread.join(30)
        stream.cancel()
    assert cuts(node) >= before + 2  # they were at it
    for name, seen in gaps.items():
        assert len(seen) > 20 and max(seen) < 2, (name, len(seen), max(seen, default=None))


def call(data=TOKENIZE, **changed):
    return frame(HEADERS, END_HEADERS, 1, request_head(**changed)) + frame(DATA, END_STREAM, 1, data)


# What is sent on stream 1, and the gRPC status that ends it; None: the connection or stream just ends, or the frame
# is ignored, as RFC 9113 leaves open.
ROWS = {
    "good": (call(), "0"),
    "te": (call(te=b"x"), "2"), "scheme": (call(scheme=b"x"), "2"), "method": (call(method=b"GET"), "2"),
    "grpclb and 9 KiB": (call(extra=[(b"grpclb_client_stats", b"x"), (b"x-a", b"b" * 9000)]), "8"),
    "9 KiB of metadata": (call(extra=[(b"x-a", b"b" * 9000)]), "8"),
    "101 entries": (call(extra=[(b"x-%d" % i, b"b") for i in range(101)]), "8"),
    "two keys": (call(extra=[(b"authorization", b"Bearer a"), (b"authorization", b"Bearer b")]), "16"),
    "too short": (call(message(b"x" * 10, length=100)), "3"), "too long": (call(message(b"\x0a\x07smollm2", length=3)), "3"),
    "compressed without a codec": (call(message(b"x", compressed=1)), "3"),
    "unknown codec": (call(message(b"x", compressed=1), extra=[(b"grpc-encoding", b"snappy")]), "3"),
    "gzip": (call(message(b"x", compressed=1), extra=[(b"grpc-encoding", b"gzip")]), "12"),
    "flag 7": (call(message(b"x", compressed=7)), "3"),
    "window overflow": (frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 2**31 - 1)) * 3 + call(), None),
    "unknown frames": (frame(0x42, 0, 0, b"x" * 1000) * 1000 + call(), "0"),
    "bad index": (frame(HEADERS, END_HEADERS, 1, b"\xfe\x7f" + request_head()), "14"),
    "padding": (frame(HEADERS, END_HEADERS | 8, 1, b"\xff" + request_head()[:20]), "14"),
    "table size": (frame(HEADERS, END_HEADERS, 1, integer(1 << 30, 5, 0x20) + request_head()), "14"),
    "frame too large": (HEAD + frame(DATA, 0, 1, bytes(100_000)), "14|3"),  # who is first: the parser or the method
    "no window increment": (frame(WINDOW_UPDATE, 0, 0, bytes(4)), None),
    "ping of one byte": (frame(PING, 0, 0, b"x"), None), "settings of three bytes": (frame(SETTINGS, 0, 0, b"xxx"), None),
    "continuation first": (frame(CONTINUATION, END_HEADERS, 1, request_head()), None),
    "even stream": (frame(HEADERS, END_HEADERS, 2, request_head()), None),
    "headers on 0": (frame(HEADERS, END_HEADERS, 0, request_head()), None),
    "data on idle": (frame(DATA, 0, 5, b"x"), None),
    "push promise": (frame(PUSH_PROMISE, 4, 1, b"\0\0\0\2" + request_head()), None),
    "goaway": (frame(GOAWAY, 0, 0, bytes(8)), None), "settings ack": (frame(SETTINGS, ACK), None),
}


def test_rows(node):
    for name, (data, status) in ROWS.items():
        for _ in range(2):
            with Connection(node.grpc_port) as attack:
                # Like a peer that is not hostile, it knows our limits before it asks.
                attack.wait(lambda c: len(c.frames) >= 2, seconds=1)
                attack.send(data)
                if status is None:
                    attack.wait(lambda c: c.ended(1) or c.goaway, seconds=0.1)
                    continue
                begin = time.monotonic()
                attack.wait(lambda c: c.ended(1), seconds=10)
                assert attack.ended(1), name
                assert time.monotonic() - begin < 5, name
                got = re.search(rb"grpc-status([\x01\x02])(\d\d?)", attack.header_bytes(1))
                assert got and re.fullmatch(status, got[2].decode()), (name, attack.header_bytes(1))


def test_a_client_that_opens_no_window(node):
    """Its stream waits for ever; the model does not: the request is paused, and gone when the connection is."""
    request = pb.GenerateRequest(model=NAME, text="Once", stopping=gen.StopOptions(max_tokens=4000, ignore_eos=True))
    body = message(pb.GenerateStreamRequest(request=request).SerializeToString())
    with Connection(node.grpc_port, settings=struct.pack(">HI", 4, 0)) as attack:  # SETTINGS_INITIAL_WINDOW_SIZE
        attack.send(frame(HEADERS, END_HEADERS, 1, request_head(GENERATE_STREAM)) + frame(DATA, END_STREAM, 1, body))
        attack.wait(lambda c: c.header_bytes(1), seconds=10)
        assert attack.header_bytes(1)  # the first token is there, and may not be sent
        time.sleep(0.5)
        assert not [f for f in attack.frames if f[0] == DATA and f[3]]


def test_half_a_request_holds_nothing(node):
    """Streams whose requests never end take no slot of the engine, and leave with their connection."""
    with Connection(node.grpc_port) as attack:
        attack.wait(lambda c: len(c.frames) >= 2, seconds=1)
        attack.send(b"".join(frame(HEADERS, END_HEADERS, s, request_head(GENERATE_STREAM)) + frame(DATA, 0, s, b"\0\0\0\0\x7f")
                             for s in range(1, 2001, 2)))
        attack.wait(seconds=0.5)
        assert not attack.closed
        assert sample(metrics(node.health_url), "vllm:num_requests_running") <= 2  # the canaries


def test_no_descriptors_left(node):
    """What cannot be accepted now is accepted later (in gRPC 1.51 itself, that is CVE-2023-4785)."""
    soft, hard = resource.prlimit(node.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(node.process.pid, resource.RLIMIT_NOFILE, (node.descriptors() + 8, hard))
    try:
        crowd = [socket.create_connection(("127.0.0.1", node.grpc_port)) for _ in range(60)]
        time.sleep(0.5)
        for sock in crowd:
            sock.close()
        with Connection(node.grpc_port) as late:
            assert late.wait(lambda c: c.frames, seconds=10).frames
    finally:
        resource.prlimit(node.process.pid, resource.RLIMIT_NOFILE, (soft, hard))
