"""SIGTERM under load: every call that was accepted is answered."""

import os
import random
import signal
import threading
import time

import pytest

import raw_http2
import registration
from raw_http2 import Closed, Connection
from registration import get_token

RUNS = 200 if os.environ.get("KODO_LONG") else 40
CALLERS = 4
# On one connection at a time.
CALLS = 32
OK = 0


@pytest.fixture
def stopping(start_broker, authority):
    return start_broker(authority.url, log="info")


@pytest.fixture
def warm(stopping, authority, admin, new_application, canaries):
    application = new_application()
    authority.accept_secret(application.client_id, application.secret)
    request = registration.register(
        authority.tenant, application.client_id, registration.client_secret(application.secret)
    )
    canaries.identifier(request.organization_id)
    stopping.organizations(admin).RegisterOrganization(request, timeout=30)
    return get_token(request.organization_id, "graph").SerializeToString()


class Caller(threading.Thread):
    """Calls as fast as it may, until the connection is gone."""

    def __init__(self, connection, request):
        super().__init__()
        self.connection = connection
        self.begun: set[int] = set()
        self._request = request
        self.start()

    def run(self):
        stream = 1
        with self.connection as connection:
            try:
                connection.open()
                while True:
                    while len(self.begun) - len(connection.statuses) < CALLS and not connection.goaway:
                        self.begun.add(stream)
                        connection.send(raw_http2.call(stream, self._request))
                        stream += 2
                    for _ in connection.frames():
                        pass
            except Closed:
                pass

    @property
    def accepted(self) -> set[int]:
        """By the broker's own account."""
        goaway = self.connection.goaway
        return {stream for stream in self.begun if not goaway or stream <= goaway.last_stream_id}


def test_no_accepted_call_is_lost(stopping, ca, worker, warm):
    files = (ca.file, worker.certificate_file, worker.key_file)
    answered = 0
    for run in range(RUNS):
        if run:
            stopping.start()
        callers = [Caller(Connection(stopping.address, *files), warm) for _ in range(CALLERS)]
        while not all(caller.connection.statuses for caller in callers):
            time.sleep(0.002)
        time.sleep(random.uniform(0, 0.05))
        stopping.stop()
        for caller in callers:
            caller.join(30)
            assert not caller.is_alive()
            statuses = caller.connection.statuses
            lost = caller.accepted - statuses.keys()
            assert not lost, (run, caller.connection.goaway, len(lost), min(lost), max(lost))
            assert set(statuses.values()) == {OK}
            answered += len(statuses)
    print(f"{answered} calls in {RUNS} runs, none lost")
