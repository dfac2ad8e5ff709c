"""Crowds at the broker's door: more connections than it takes, or than the system lets it have."""

import contextlib
import itertools
import resource
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from hyperframe.frame import SettingsFrame

import raw_http2
import registration
from raw_http2 import Closed, Connection
from registration import get_token

ATTEMPTS = 100_000
RESIDENT_MAX = 16 << 20
HANDSHAKES = 8
# Of one caller.
CONNECTIONS = 20
# Open files that the broker is left with, beside those it has.
FILES_LEFT = 4

# Connects and is gone, in a process of its own that yields to all others.
CROWD = f"""
import os, socket, struct, sys
os.nice(19)
address, gone = ("127.0.0.1", int(sys.argv[1])), struct.pack("ii", 1, 0)
refused = 0
for _ in range({ATTEMPTS}):
    caller = socket.socket()
    # Without it, a port would be taken for a minute.
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, gone)
    try:
        caller.connect(address)
    except OSError:
        refused += 1
    caller.close()
print(refused)
"""


@pytest.fixture(scope="module")
def crowded(start_broker, authority):
    limits = f"handshakes_max = {HANDSHAKES}\nconnections_per_caller_max = {CONNECTIONS}"
    return start_broker(authority.url, limits=limits, log="warn")


@pytest.fixture(scope="module")
def warm(crowded, authority, admin, worker, new_application, canaries):
    application = new_application()
    authority.accept_secret(application.client_id, application.secret)
    request = registration.register(
        authority.tenant, application.client_id, registration.client_secret(application.secret)
    )
    canaries.identifier(request.organization_id)
    crowded.organizations(admin).RegisterOrganization(request, timeout=30)
    wanted = get_token(request.organization_id, "graph")
    canaries.token(crowded.tokens(worker).GetToken(wanted, timeout=30).access_token)
    return wanted.SerializeToString()


@pytest.fixture
def connect(crowded, ca, worker):
    files = (ca.file, worker.certificate_file, worker.key_file)
    return partial(Connection, crowded.address, *files, timeout=60)


def call(connection, request, stream=1):
    connection.send(raw_http2.call(stream, request))
    connection.wait_for(raw_http2.ends(stream))
    assert connection.statuses[stream] == 0


def test_slow_handshakes_keep_nobody_out(crowded, connect, warm):
    """The broker bears with a handshake for 5 seconds, but not while others want its place."""
    slow = [socket.create_connection(crowded.address) for _ in range(4 * HANDSHAKES)]
    began = time.monotonic()
    with connect() as connection:
        connection.open()
        call(connection, warm)
    taken = time.monotonic() - began
    for caller in slow:
        caller.close()
    print(f"let in after {taken:.1f} s")
    # Those who came first make room after a second each, and not after 5.
    assert taken < 4 * 3


def test_one_caller_keeps_no_other_out(crowded, ca, connect, warm, admin):
    with contextlib.ExitStack() as stack:
        mine = []
        with contextlib.suppress(Closed):
            while len(mine) <= CONNECTIONS:
                connection = stack.enter_context(connect())
                connection.open()
                call(connection, warm)
                mine.append(connection)
        # grpcio has one, from when the broker was prepared.
        assert len(mine) == CONNECTIONS - 1
        with Connection(crowded.address, ca.file, admin.certificate_file, admin.key_file) as other:
            other.open()
            other.wait_for(lambda frame: isinstance(frame, SettingsFrame))
        mine[0].socket.close()
        wait_for_a_place(connect, warm)


def wait_for_a_place(connect, warm):
    """The broker finds out a moment after a connection has ended."""
    until = time.monotonic() + 10
    while True:
        try:
            with connect() as connection:
                connection.open()
                return call(connection, warm)
        except Closed:
            assert time.monotonic() < until


def test_a_hundred_thousand_connections(crowded, connect, warm):
    before = resident(crowded)
    crowd = [sys.executable, "-c", CROWD, str(crowded.address[1])]
    began, calls = time.monotonic(), 0
    with connect() as connection, subprocess.Popen(crowd, stdout=subprocess.PIPE) as process:
        connection.open()
        while process.poll() is None:
            call(connection, warm, 2 * calls + 1)
            calls += 1
        refused = int(process.stdout.read())
    grown = resident(crowded) - before
    print(f"{refused} refused, {calls} calls beside, {time.monotonic() - began:.1f} s, {grown >> 10} KiB more")
    assert process.returncode == 0
    assert calls > 100
    assert grown <= RESIDENT_MAX


def test_no_more_open_files(crowded, connect, warm):
    """Who is in is served; to try in vain costs next to nothing; it goes on when there are some again."""
    limits = resource.prlimit(crowded.pid, resource.RLIMIT_NOFILE)
    with connect() as connection:
        connection.open()
        call(connection, warm)
        few = (files_but(crowded, FILES_LEFT), limits[1])
        resource.prlimit(crowded.pid, resource.RLIMIT_NOFILE, few)
        try:
            callers = [socket.create_connection(crowded.address) for _ in range(4 * FILES_LEFT)]
            time.sleep(0.2)
            said = crowded.output().count("cannot accept")
            spent = cpu(crowded)
            time.sleep(1)
            spent = cpu(crowded) - spent
            assert said > 0
            call(connection, warm, 3)
            for caller in callers:
                caller.close()
        finally:
            resource.prlimit(crowded.pid, resource.RLIMIT_NOFILE, limits)
        began = time.monotonic()
        with connect() as another:
            another.open()
            call(another, warm)
        print(f"{spent * 100:.1f} % of a core, there again after {time.monotonic() - began:.2f} s")
    assert spent <= 0.05
    assert time.monotonic() - began <= 1 + 2


def files_but(broker, left: int) -> int:
    """A limit of open files that leaves so many more."""
    taken = {int(file.name) for file in Path(f"/proc/{broker.pid}/fd").iterdir()}
    free = (number for number in itertools.count() if number not in taken)
    return next(itertools.islice(free, left, None))


def cpu(broker) -> float:
    """Seconds that its threads have run."""
    threads = Path(f"/proc/{broker.pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def resident(broker) -> int:
    text = Path(f"/proc/{broker.pid}/status").read_text()
    line = next(line for line in text.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024
