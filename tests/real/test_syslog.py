"""The copy of the audit log, as a real rsyslog takes it."""

import subprocess
import time

import pytest
from grpc import StatusCode
from kodo.broker.admin.v1 import organization_service_pb2

from broker import BINARY, free_port
from registration import get_token

PATIENCE_SECONDS = 20


@pytest.fixture
def collector(tmp_path):
    """Writes the messages of one sender as they come."""
    port, written = free_port(), tmp_path / "collected.jsonl"
    configuration = tmp_path / "rsyslog.conf"
    configuration.write_text(f"""
global(workDirectory="{tmp_path}" maxMessageSize="64k")
module(load="imtcp")
input(type="imtcp" address="127.0.0.1" port="{port}" ruleset="audit")
template(name="line" type="string" string="%msg%\\n")
ruleset(name="audit") {{
    if $syslogfacility == 13 and $syslogseverity == 6 and $app-name == "kodo-broker" and $msgid == "audit" then
        action(type="omfile" file="{written}" template="line")
}}
""")
    process = subprocess.Popen(
        ["rsyslogd", "-n", "-f", configuration, "-i", tmp_path / "pid"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield port, written
    process.terminate()
    process.wait(timeout=PATIENCE_SECONDS)


def test_what_a_collector_has_is_the_log_and_can_be_verified(
    collector, start_broker, authority, admin, worker, with_secret, tmp_path
):
    port, collected = collector
    log = tmp_path / "audit.jsonl"
    lines = f'file = "{log}"\nsyslog = "127.0.0.1:{port}"\nsegment_mib_max = 1'
    broker = start_broker(authority.url, audit=lines)
    broker.organizations(admin).RegisterOrganization(with_secret, timeout=30)
    revoke = organization_service_pb2.RevokeOrganizationRequest(
        request_id="revocation", organization_id=with_secret.organization_id, revision=1
    )
    broker.organizations(admin).RevokeOrganization(revoke, timeout=30)
    # More than one file of the log, and one life of the broker.
    unknown = [f"{number}-{'x' * 50}" for number in range(3000)]
    tokens = broker.tokens(worker)
    calls = [tokens.GetToken.future(get_token(name, "graph"), timeout=60) for name in unknown]
    assert {call.code() for call in calls} == {StatusCode.NOT_FOUND}
    broker.stop()
    broker.start()
    broker.stop()
    files = [*sorted(tmp_path.glob("audit-*.jsonl")), log]
    assert len(files) > 1
    written = b"".join(file.read_bytes() for file in files)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not collected.exists() or len(collected.read_bytes()) < len(written):
        assert time.monotonic() < deadline, "the copy is not whole"
        time.sleep(0.05)
    assert collected.read_bytes() == written
    key = log.with_suffix(".key")
    verified = subprocess.run(
        [BINARY, "audit", "verify", "--key-file", key, collected],
        capture_output=True, text=True, timeout=60,
    )
    assert verified.returncode == 0, verified.stderr
