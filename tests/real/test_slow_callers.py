"""Callers that take their time, and those that speak something else: how long the broker bears with them."""

import contextlib
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from hyperframe.frame import DataFrame, HeadersFrame, SettingsFrame, WindowUpdateFrame

import raw_http2
import registration
from raw_http2 import Closed, Connection
from registration import get_token

LIMITS = """
handshake_timeout_seconds = 1
transfer_timeout_seconds = 1
call_timeout_seconds = 1
connection_idle_max_seconds = 5
"""
# At a time.
CALLERS = 40
# What all of them together may add to the broker's memory.
RESIDENT_MAX = 16 << 20
# A machine that is busy otherwise.
SLACK = 2.5
DEADLINE_EXCEEDED = 4
RESOURCE_EXHAUSTED = 8
REGISTER = "/kodo.broker.admin.v1.OrganizationService/RegisterOrganization"


@pytest.fixture(scope="module")
def impatient(start_broker, authority):
    return start_broker(authority.url, limits=LIMITS, log="info")


@pytest.fixture(scope="module")
def warm(impatient, authority, admin, worker, new_application, canaries):
    """A request for a token that the broker has."""
    application = new_application()
    authority.accept_secret(application.client_id, application.secret)
    request = registration.register(
        authority.tenant, application.client_id, registration.client_secret(application.secret)
    )
    canaries.identifier(request.organization_id)
    impatient.organizations(admin).RegisterOrganization(request, timeout=30)
    wanted = get_token(request.organization_id, "graph")
    canaries.token(impatient.tokens(worker).GetToken(wanted, timeout=30).access_token)
    return wanted.SerializeToString()


@pytest.fixture
def connect(impatient, ca, worker):
    files = (ca.file, worker.certificate_file, worker.key_file)
    return partial(Connection, impatient.address, *files, timeout=30)


def all_at_once(broker, caller, callers=CALLERS) -> list:
    """What many callers tell, who may not have the broker grow."""
    before = resident(broker)
    with ThreadPoolExecutor(callers) as pool:
        told = [told.result() for told in [pool.submit(caller) for _ in range(callers)]]
    grown = resident(broker) - before
    print(f"{grown >> 10} KiB more", told[-1])
    assert grown <= RESIDENT_MAX
    return told


def seconds_until_closed(read) -> float:
    began = time.monotonic()
    with contextlib.suppress(ConnectionError, ssl.SSLError, Closed):
        while read():
            assert time.monotonic() - began < 30, "the broker bears with it"
    return time.monotonic() - began


def test_a_caller_that_says_nothing(impatient):
    def caller():
        with socket.create_connection(impatient.address, timeout=30) as plain:
            return seconds_until_closed(partial(plain.recv, 100))

    taken = all_at_once(impatient, caller, 200)
    assert 1 <= max(taken) <= 1 + SLACK


def test_a_handshake_by_the_byte(impatient, ca):
    client_hello = hello(ca)

    def caller():
        with socket.create_connection(impatient.address, timeout=30) as plain:
            bits = iter(client_hello[:-1])

            def one():
                plain.settimeout(0.02)
                with contextlib.suppress(TimeoutError):
                    return plain.recv(100)
                plain.send(bytes([next(bits)]))
                return True

            return seconds_until_closed(one)

    taken = all_at_once(impatient, caller, 200)
    assert 1 <= max(taken) <= 1 + SLACK


@pytest.mark.parametrize(
    "speech",
    [
        raw_http2.PREFACE + raw_http2.SETTINGS,
        b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"\x16\x03\x01\xff\xff" + b"\0" * 300,
        b"\x80\x2e\x01\x03\x01" + b"\0" * 100,
        bytes(range(256)) * 4,
    ],
    ids=["h2c", "http1", "long-record", "sslv2", "bytes"],
)
def test_something_else_than_tls_is_answered_by_an_alert_at_most(impatient, speech):
    with socket.create_connection(impatient.address, timeout=30) as plain:
        plain.sendall(speech)
        heard = b""
        with contextlib.suppress(ConnectionError):
            while more := plain.recv(1000):
                heard += more
    # An alert is seven bytes.
    assert heard == b"" or (heard[0] == 21 and len(heard) == 7), heard


def test_garbage_after_the_handshake_ends_the_connection(connect, impatient):
    with connect() as connection:
        connection.open()
        connection.wait_for(lambda frame: isinstance(frame, SettingsFrame))
        with socket.socket(fileno=connection.socket.detach()) as plain:
            plain.settimeout(30)
            plain.sendall(b"\x17\x03\x03\x00\x40" + b"x" * 64)
            assert seconds_until_closed(partial(plain.recv, 1000)) <= SLACK
    assert impatient.serves("liveness")


def test_a_connection_without_a_preface(connect, impatient):
    def caller():
        with connect() as connection:
            return seconds_until_closed(partial(connection.socket.recv, 100))

    assert 0.5 <= max(all_at_once(impatient, caller)) <= 1 + SLACK


def test_a_preface_by_the_byte(connect, impatient):
    def caller():
        with connect() as connection:
            bits = iter(raw_http2.PREFACE[:-1])

            def one():
                connection.socket.settimeout(0.1)
                with contextlib.suppress(TimeoutError):
                    return connection.socket.recv(100)
                connection.send(bytes([next(bits)]))
                return True

            return seconds_until_closed(one)

    assert 0.5 <= max(all_at_once(impatient, caller)) <= 1 + SLACK


def test_a_connection_without_calls(connect, impatient):
    def caller():
        with connect() as connection:
            connection.open()
            began = time.monotonic()
            connection.wait_closed()
            assert connection.goaway
            return time.monotonic() - began

    assert 5 <= max(all_at_once(impatient, caller)) <= 5 + SLACK


def test_a_header_block_that_does_not_end(connect, impatient):
    def caller():
        with connect() as connection:
            connection.open()
            connection.send(HeadersFrame(1, raw_http2.REQUEST, flags=[]).serialize())
            return seconds_until_closed(partial(connection.socket.recv, 1000))

    assert 5 <= max(all_at_once(impatient, caller)) <= 5 + 1 + SLACK


def test_a_request_that_does_not_end(connect, impatient):
    """Each call of a connection is answered in time."""
    streams = range(1, 200, 2)
    begun = raw_http2.message(b"x" * 16_000)[:1_000]

    def caller():
        with connect() as connection:
            connection.open()
            connection.wait_for(lambda frame: isinstance(frame, WindowUpdateFrame))
            began = time.monotonic()
            for stream in streams:
                data = DataFrame(stream, begun).serialize()
                connection.send(raw_http2.headers_frame(stream) + data)
            for stream in streams:
                while stream not in connection.statuses:
                    connection.wait_for(lambda _: True)
            assert set(connection.statuses.values()) == {DEADLINE_EXCEEDED}
            return time.monotonic() - began

    assert 1 <= max(all_at_once(impatient, caller, 4)) <= 1 + SLACK


@pytest.mark.parametrize(
    ("path", "whole", "sent", "calls"),
    [(raw_http2.GET_TOKEN, 16_000, 15_000, 60), (REGISTER, 250_000, 60_000, 16)],
)
def test_long_requests_that_do_not_end(connect, impatient, path, whole, sent, calls):
    """A few of a connection are held for a while, and others refused at once."""
    request = raw_http2.block(raw_http2.request_headers(path))
    message = raw_http2.message(b"x" * whole)[:sent]
    pieces = [message[at : at + 15_000] for at in range(0, sent, 15_000)]

    def caller():
        with connect() as connection:
            connection.open()
            connection.wait_for(lambda frame: isinstance(frame, WindowUpdateFrame))
            began = time.monotonic()
            # All of it is less than a connection's window.
            for stream in range(1, 2 * calls, 2):
                data = b"".join(DataFrame(stream, piece).serialize() for piece in pieces)
                connection.send(raw_http2.headers_frame(stream, data=request) + data)
            while len(connection.statuses) < calls:
                connection.wait_for(lambda _: True)
            return time.monotonic() - began, sorted(connection.statuses.values())

    for taken, statuses in all_at_once(impatient, caller, 4):
        assert 1 <= taken <= 1 + SLACK
        assert statuses == 8 * [DEADLINE_EXCEEDED] + (calls - 8) * [RESOURCE_EXHAUSTED]


def test_a_reader_that_opens_no_window(connect, impatient, warm):
    streams = range(1, 400, 2)

    def caller():
        with connect() as connection:
            connection.open({SettingsFrame.INITIAL_WINDOW_SIZE: 0})
            connection.send(b"".join(raw_http2.call(stream, warm) for stream in streams))
            began = time.monotonic()
            connection.wait_closed()
            assert connection.goaway
            return time.monotonic() - began

    assert 3 <= max(all_at_once(impatient, caller, 4)) <= 2 * (1 + 1) + 1 + SLACK


def test_a_reader_that_opens_no_window_and_goes_on_with_others(connect, impatient, warm):
    """What it does not take ends the connection, however busy that is otherwise."""

    def caller():
        with connect() as connection:
            connection.open({SettingsFrame.INITIAL_WINDOW_SIZE: 0})
            connection.send(b"".join(raw_http2.call(stream, warm) for stream in range(1, 401, 2)))
            began, stream = time.monotonic(), 401
            with contextlib.suppress(Closed):
                while time.monotonic() - began < 30:
                    room = WindowUpdateFrame(stream, 1 << 20).serialize()
                    connection.send(raw_http2.call(stream, warm) + room)
                    connection.wait_for(raw_http2.ends(stream))
                    stream += 2
                    time.sleep(0.1)
            assert stream > 401
            return time.monotonic() - began

    assert 3 <= max(all_at_once(impatient, caller, 4)) <= 2 * (1 + 1) + 1 + SLACK


def test_a_reader_that_does_not_read(connect, impatient, warm):
    def caller():
        with connect(receive_buffer=4096) as connection:
            connection.open()
            sent = 0
            connection.socket.settimeout(1)
            # Until nothing more is taken, or 20,000 calls.
            with contextlib.suppress(TimeoutError, Closed, ssl.SSLError):
                while sent < 20_000:
                    batch = range(2 * sent + 1, 2 * sent + 201, 2)
                    connection.send(b"".join(raw_http2.call(stream, warm) for stream in batch))
                    sent += 100
            assert sent < 20_000, "the broker holds it up"
            began = time.monotonic()
            return sent, wait_hung_up(connection.socket, began)

    told = all_at_once(impatient, caller, 4)
    assert max(taken for _, taken in told) <= 2 * (1 + 1) + 1 + SLACK


def wait_hung_up(tls, began) -> float:
    """Waits for the end of a connection without reading from it: a write fails then."""
    tls.settimeout(1)
    plain = socket.socket(fileno=tls.detach())
    with plain:
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - began < 30:
                time.sleep(0.1)
                with contextlib.suppress(BlockingIOError):
                    plain.send(b"\x17", socket.MSG_DONTWAIT)
    return time.monotonic() - began


def hello(ca) -> bytes:
    """What a client says first."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = raw_http2.context(ca.file).wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def resident(broker) -> int:
    text = Path(f"/proc/{broker.pid}/status").read_text()
    line = next(line for line in text.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024
