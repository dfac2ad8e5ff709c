"""What of TLS is spoken, by the word of a scanner that is no part of the broker (sslyze)."""

import json
import os
import socket
import ssl
import subprocess
from pathlib import Path

import pytest

SCANNER = Path(__file__).parents[2] / ".lab" / "scanner" / "bin" / "sslyze"
# All that it has on TLS itself, but for early data: it looks for that by HTTP/1.1, and takes the end of
# such a connection for a bug of its own. Without tickets there is no early data.
SCANS = (
    "sslv2 sslv3 tlsv1 tlsv1_1 tlsv1_2 tlsv1_3 compression fallback heartbleed openssl_ccs reneg "
    "resum robot ems elliptic_curves"
).split()


def is_approved(suite: str) -> bool:
    """The FIPS module has no ChaCha20."""
    return "KODO_FIPS" not in os.environ or "CHACHA20" not in suite


TLS_1_3 = {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"}
# The server's key is an ECDSA one.
TLS_1_2 = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
}
TLS_1_3, TLS_1_2 = [set(filter(is_approved, suites)) for suites in (TLS_1_3, TLS_1_2)]
TOO_OLD = ["ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1"]


@pytest.fixture(scope="module", params=["1.3", "1.2"])
def scanned(request, start_broker, authority, ca, worker):
    """The least version, the addresses of workers and of operators, and what was found at each."""
    identity = ca.server(f"floor-{request.param}")
    broker = start_broker(
        authority.url,
        tls=f'certificate_file = "{identity.certificate_file}"\n'
        f'key_file = "{identity.key_file}"\nmin_version = "{request.param}"',
        admin_listener=True,
    )
    assert broker.address != broker.admin_address
    addresses = (broker.address, broker.admin_address)
    return request.param, addresses, [scan(address, worker) for address in addresses]


def scan(address, caller):
    command = [
        SCANNER,
        *(f"--{one}" for one in SCANS),
        *("--mozilla_config", "disable", "--json_out", "-"),
        *("--cert", caller.certificate_file, "--key", caller.key_file),
        "{}:{}".format(*address),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (server,) = json.loads(done.stdout)["server_scan_results"]
    assert server["scan_status"] == "COMPLETED", server
    results = server["scan_result"]
    wanted = {name: one for name, one in results.items() if one["status"] != "NOT_SCHEDULED"}
    failed = {name for name, one in wanted.items() if one["status"] != "COMPLETED"}
    assert not failed, {name: wanted[name] for name in failed}
    assert len(wanted) == len(SCANS)
    return {name: one["result"] for name, one in wanted.items()}


def suites(result, version):
    accepted = result[f"{version}_cipher_suites"]["accepted_cipher_suites"]
    return {one["cipher_suite"]["name"] for one in accepted}


def test_nothing_below_the_floor_is_spoken(scanned):
    least, _, servers = scanned
    for found in servers:
        for version in TOO_OLD:
            assert suites(found, version) == set()
        assert suites(found, "tls_1_3") == TLS_1_3
        # Its client for most of these is too old for the extended master secret, without which the broker
        # speaks no TLS 1.2; `test_suites_of_tls_1_2` asks with a newer one.
        spoken = suites(found, "tls_1_2")
        assert spoken <= TLS_1_2 if least == "1.2" else not spoken


def test_no_known_weakness_is_found(scanned):
    least, _, servers = scanned
    for found in servers:
        assert not found["tls_compression"]["supports_compression"]
        assert not found["heartbleed"]["is_vulnerable_to_heartbleed"]
        assert not found["openssl_ccs_injection"]["is_vulnerable_to_ccs_injection"]
        assert found["robot"]["robot_result"].startswith("NOT_VULNERABLE")
        assert not found["session_renegotiation"]["is_vulnerable_to_client_renegotiation_dos"]
        if least == "1.2":
            assert found["session_renegotiation"]["supports_secure_renegotiation"]
            assert found["tls_extended_master_secret"]["supports_ems_extension"]
            for way in ("session_id", "tls_ticket"):
                resumption = found["session_resumption"][f"{way}_resumption_result"]
                assert resumption == "NOT_SUPPORTED"
        curves = found["elliptic_curves"]["supported_curves"] or []
        assert {one["name"] for one in curves} <= {"X25519", "secp256r1", "secp384r1"}


def context_of(ca, caller):
    context = ssl.create_default_context(cafile=str(ca.file))
    context.load_cert_chain(caller.certificate_file, caller.key_file)
    context.set_alpn_protocols(["h2"])
    return context


def connect(context, address):
    plain = socket.create_connection(address, timeout=10)
    return context.wrap_socket(plain, server_hostname="127.0.0.1")


def test_suites_of_tls_1_2(scanned, ca, worker):
    """Each that OpenSSL has, however weak, offered alone."""
    least, addresses, _ = scanned
    every = ssl.create_default_context()
    every.set_ciphers("ALL:COMPLEMENTOFALL:@SECLEVEL=0")
    offered = {one["name"] for one in every.get_ciphers() if one["protocol"] != "TLSv1.3"}
    assert len(offered) > 50
    for address in addresses:
        spoken = set()
        for suite in offered:
            context = context_of(ca, worker)
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            context.set_ciphers(f"{suite}:@SECLEVEL=0")
            try:
                connect(context, address).close()
            except ssl.SSLError:
                continue
            spoken.add(suite)
        wanted = {
            "ECDHE-ECDSA-AES128-GCM-SHA256",
            "ECDHE-ECDSA-AES256-GCM-SHA384",
            "ECDHE-ECDSA-CHACHA20-POLY1305",
        }
        wanted = {suite for suite in wanted if is_approved(suite)}
        assert spoken == (wanted if least == "1.2" else set())


def test_no_session_can_be_resumed(scanned, ca, worker):
    """One that was would not be checked against the CAs again."""
    least, addresses, _ = scanned
    context = context_of(ca, worker)
    versions = {"1.3": [ssl.TLSVersion.TLSv1_3]}.get(
        least, [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
    )
    for address in addresses:
        for version in versions:
            context.minimum_version = context.maximum_version = version
            with connect(context, address) as tls:
                assert tls.selected_alpn_protocol() == "h2"
                # The server's first frame, which comes after any ticket.
                assert tls.recv(9)[3] == 4, "SETTINGS"
                assert not tls.session.has_ticket
                assert tls.session.id == b"" or version is ssl.TLSVersion.TLSv1_3
