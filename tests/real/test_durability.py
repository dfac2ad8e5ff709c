"""What is acknowledged is on stable storage: seen in the system calls, since a killed process cannot
show what a power cut would take."""

import re
import subprocess
import time

import pytest
from kodo.broker.admin.v1 import organization_service_pb2 as contract

CHANGES = 12
ATTACH_SECONDS = 20


@pytest.fixture
def traced(broker, tmp_path):
    """A file of the broker's syncs as they return, with the paths of the files."""
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-y", "-e", "trace=fsync,fdatasync,msync,sync_file_range", "-o", trace]
    tracer = subprocess.Popen([*command, "-p", str(broker.pid)], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + ATTACH_SECONDS
    while "attached" not in tracer.stderr.readline():
        assert tracer.poll() is None and time.monotonic() < deadline, "strace does not attach"
    yield trace
    tracer.terminate()
    tracer.wait(ATTACH_SECONDS)


def test_each_acknowledged_change_is_synced_first(broker, organizations, traced, with_secret):
    log = re.escape(str(broker.data / "db"))
    synced = re.compile(rf"fdatasync\(\d+<{log}>\)\s+= 0|fdatasync resumed>\)\s+= 0")
    before = 0
    registered = organizations.RegisterOrganization(with_secret, timeout=30).organization
    for number in range(CHANGES):
        # strace has written a call before the thread that made it goes on.
        count = len(synced.findall(traced.read_text()))
        assert count > before, f"change {number} was answered without a sync of the log"
        before = count
        if number == CHANGES - 1:
            break
        request = contract.RegisterOrganizationRequest()
        request.CopyFrom(with_secret)
        request.organization_id = f"{with_secret.organization_id[:50]}-{number}"
        request.request_id = f"{with_secret.request_id}-{number}"
        organizations.RegisterOrganization(request, timeout=30)
    assert registered.revision == 1
    # What the embedded store takes for stable is: it never asks for less than a sync of its log.
    assert "sync_file_range(" not in traced.read_text()
    assert re.search(rf"fsync\(\d+<{log}>", traced.read_text())
