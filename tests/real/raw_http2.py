"""HTTP/2 by the frame: what no client library would send, over TLS as any caller has it."""

import contextlib
import socket
import ssl
import struct
import time

import hpack
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
GET_TOKEN = "/kodo.broker.v1.TokenService/GetToken"
SETTINGS = SettingsFrame(0).serialize()
SETTINGS_ACK = SettingsFrame(0, flags=["ACK"]).serialize()


def request_headers(path: str = GET_TOKEN, *more: tuple[str, str]) -> list[tuple[str, str]]:
    return [
        (":method", "POST"),
        (":scheme", "https"),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        *more,
    ]


def block(headers: list[tuple[str, str]]) -> bytes:
    """A header block that needs no earlier one: any connection may send it at any time."""
    encoder = hpack.Encoder()
    return encoder.encode([hpack.NeverIndexedHeaderTuple(*header) for header in headers])


REQUEST = block(request_headers())


def headers_frame(stream: int, flags: tuple[str, ...] = ("END_HEADERS",), data: bytes = REQUEST) -> bytes:
    return HeadersFrame(stream, data, flags=list(flags)).serialize()


def message(body: bytes) -> bytes:
    """A message as gRPC frames it."""
    return struct.pack(">BI", 0, len(body)) + body


def call(stream: int, body: bytes, path: bytes = REQUEST) -> bytes:
    """A whole unary call."""
    data = DataFrame(stream, message(body), flags=["END_STREAM"]).serialize()
    return headers_frame(stream, data=path) + data


def context(ca, certificate=None, key=None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca)
    context.set_alpn_protocols(["h2"])
    if certificate:
        context.load_cert_chain(certificate, key)
    return context


class Closed(Exception):
    """The broker has ended the connection. It may have said why."""


class Connection:
    """A TLS connection, and the frames that came on it."""

    def __init__(self, address, ca, certificate=None, key=None, *, timeout=10, receive_buffer=None):
        plain = socket.socket()
        if receive_buffer:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        plain.settimeout(timeout)
        plain.connect(tuple(address))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tls = context(ca, certificate, key)
        self.socket = tls.wrap_socket(plain, server_hostname="localhost")
        self.goaway: GoAwayFrame | None = None
        self.statuses: dict[int, int] = {}
        self.resets: set[int] = set()
        self._decoder = hpack.Decoder()
        self._unread = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            self.socket.close()

    def open(self, settings: dict | None = None) -> None:
        """Preface and settings, and room for whatever the broker sends on the connection."""
        room = WindowUpdateFrame(0, 1 << 30).serialize()
        self.send(PREFACE + SettingsFrame(0, settings=settings).serialize() + room)

    def send(self, data: bytes) -> None:
        try:
            self.socket.sendall(data)
        except TimeoutError:
            raise
        except OSError as error:
            raise Closed from error

    def frames(self):
        """The frames that come next, at least one. Raises `Closed` at the end."""
        while (frame := self._next()) is None:
            self._receive()
        while frame is not None:
            yield frame
            frame = self._next()

    def _receive(self) -> None:
        try:
            data = self.socket.recv(1 << 16)
        except (TimeoutError, ssl.SSLWantReadError):
            raise
        except OSError as error:
            raise Closed(self.goaway) from error
        if not data:
            raise Closed(self.goaway)
        self._unread += data

    def _next(self):
        """The next frame, if it is there."""
        if len(self._unread) < 9:
            return None
        frame, length = Frame.parse_frame_header(memoryview(self._unread[:9]))
        if len(self._unread) < 9 + length:
            return None
        frame.parse_body(memoryview(self._unread[9 : 9 + length]))
        self._unread = self._unread[9 + length :]
        self._note(frame)
        return frame

    def _note(self, frame) -> None:
        """Answers what has to be answered, and keeps what came of the calls."""
        if isinstance(frame, GoAwayFrame):
            self.goaway = frame
        elif isinstance(frame, RstStreamFrame):
            self.resets.add(frame.stream_id)
        elif isinstance(frame, HeadersFrame):
            headers = dict(self._decoder.decode(frame.data))
            if "grpc-status" in headers:
                self.statuses[frame.stream_id] = int(headers["grpc-status"])
        elif isinstance(frame, SettingsFrame) and "ACK" not in frame.flags:
            self.send(SETTINGS_ACK)
        elif isinstance(frame, PingFrame) and "ACK" not in frame.flags:
            self.send(PingFrame(0, frame.opaque_data, flags=["ACK"]).serialize())

    def wait_for(self, wanted):
        """The first frame that is wanted."""
        while True:
            for frame in self.frames():
                if wanted(frame):
                    return frame

    def wait_closed(self, limit=30) -> None:
        """Reads on until the broker has ended the connection."""
        until = time.monotonic() + limit
        with contextlib.suppress(Closed):
            while time.monotonic() < until:
                for _ in self.frames():
                    pass
            raise TimeoutError("the broker has not ended the connection")


def ends(stream: int):
    """Whether a frame is the last one of a stream."""

    def is_last(frame):
        return frame.stream_id == stream and (
            "END_STREAM" in frame.flags or isinstance(frame, RstStreamFrame)
        )

    return is_last
