"""HTTP/2 frames by hand (RFC 9113), for what no honest client would send. HPACK is literals without
indexing or Huffman (RFC 7541, 6.2.2), so that every byte on the wire is a test's own choice.
"""
import select
import socket
import struct
import time

DATA, HEADERS, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 5, 6, 7, 8, 9
END_STREAM, END_HEADERS, ACK = 1, 4, 1
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind, flags=0, stream=0, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def integer(value, bits, first=0):
    """An HPACK integer with a prefix of `bits` bits."""
    most = (1 << bits) - 1
    if value < most:
        return bytes([first | value])
    out, value = bytearray([first | most]), value - most
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out + bytes([value]))


def literal(name, value, first=b"\x00"):
    """`first` 0x00: without indexing; 0x40: into the dynamic table."""
    return first + integer(len(name), 7) + name + integer(len(value), 7) + value


def request_head(path=b"/millrace.v1.InferenceService/Tokenize", extra=(), first=b"\x00", **changed):
    """A gRPC request's header block. `first` as in literal(); `changed` replaces a pseudo-header (method, scheme) or te."""
    fields = [(b":method", changed.get("method", b"POST")), (b":scheme", changed.get("scheme", b"http")),
              (b":path", path), (b":authority", b"localhost"), (b"te", changed.get("te", b"trailers")),
              (b"content-type", b"application/grpc"), *extra]
    return b"".join(literal(name, value, first) for name, value in fields)


def message(data, compressed=0, length=None):
    """A gRPC message; `length` is what its prefix claims."""
    return struct.pack(">BI", compressed, len(data) if length is None else length) + data


class Connection:
    """One connection; collects what the peer says."""

    def __init__(self, port, settings=b"", receive_buffer=None):
        self.sock = socket.socket()
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(5)
        self.sock.connect(("127.0.0.1", port))
        self.closed, self.goaway, self.frames, self._buffer = False, None, [], b""
        self.send(PREFACE + frame(SETTINGS, payload=settings))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def send(self, data, seconds=10):
        """False when the peer has closed, or has taken nothing for `seconds`."""
        view, end = memoryview(data), time.monotonic() + seconds
        self.sock.setblocking(False)
        while view and not self.closed and time.monotonic() < end:
            # A flood whose answers nobody reads would stop at full buffers: read between writes.
            readable, writable, _ = select.select([self.sock], [self.sock], [], 0.2)
            if readable:
                self._read()
            if writable:
                try:
                    done = self.sock.send(view[:1 << 16])
                    view, end = view[done:], time.monotonic() + seconds
                except BlockingIOError:
                    pass
                except OSError:
                    self.closed = True
        return not view

    def _read(self):
        try:
            data = self.sock.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.closed = self.closed or not data
        self._buffer += data
        while len(self._buffer) >= 9:
            size = int.from_bytes(self._buffer[:3], "big")
            if len(self._buffer) < 9 + size:
                break
            kind, flags = self._buffer[3], self._buffer[4]
            stream, payload = int.from_bytes(self._buffer[5:9], "big"), self._buffer[9:9 + size]
            self._buffer = self._buffer[9 + size:]
            if kind == GOAWAY:
                self.goaway = (int.from_bytes(payload[4:8], "big"), payload[8:])
            if len(self.frames) < 10_000:
                self.frames.append((kind, flags, stream, payload))

    def wait(self, done=lambda self: False, seconds=2.0):
        """Reads until `done(self)`, the peer closes, or the time is over. Answers pings and settings."""
        self.sock.setblocking(False)
        end, seen = time.monotonic() + seconds, len(self.frames)
        while not self.closed and not done(self) and (left := end - time.monotonic()) > 0:
            if select.select([self.sock], [], [], left)[0]:
                self._read()
            for kind, flags, _, payload in self.frames[seen:]:
                if kind in (PING, SETTINGS) and not flags & ACK:
                    self.send(frame(kind, ACK, 0, payload if kind == PING else b""))
            seen = len(self.frames)
        return self

    def ended(self, stream):
        """How the peer ended a stream: "trailers", ("reset", code), or None."""
        for kind, flags, number, payload in self.frames:
            if number == stream and kind == RST_STREAM:
                return "reset", int.from_bytes(payload, "big")
            if number == stream and kind == HEADERS and flags & END_STREAM:
                return "trailers"
        return None

    def header_bytes(self, stream):
        return b"".join(p for k, _, n, p in self.frames if n == stream and k in (HEADERS, CONTINUATION))
