"""A worker in a mesh: our own client speaks plaintext to the proxy beside it, which is a real Envoy here and
speaks mutual TLS to the broker, as the worker."""

import json
import subprocess

import pytest

from broker import BINARY, WORKER, free_port
from envoy import Envoy, beside


@pytest.fixture(scope="module")
def sidecar(broker, ca, worker, tmp_path_factory):
    directory = tmp_path_factory.mktemp("sidecar")
    port = free_port()
    host, upstream = broker.address
    envoy = Envoy(directory, port, beside(port, ca, worker, f"{host}:{upstream}"))
    envoy.start()
    connection = directory / "connection.toml"
    connection.write_text(f'endpoint = "http://127.0.0.1:{port}"\nencrypted_by = "mesh"\n')
    yield connection
    envoy.stop()


def call(connection, *arguments):
    command = [BINARY, "--connection", connection, "-o", "json", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_a_worker_is_who_its_sidecar_shows(sidecar):
    shown = call(sidecar, "whoami")
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["spiffe_id"] == WORKER


def test_a_worker_gets_tokens_through_its_sidecar(sidecar, organizations, with_secret):
    organizations.RegisterOrganization(with_secret, timeout=30)
    got = call(sidecar, "token", "get", with_secret.organization_id, "graph")
    assert got.returncode == 0, got.stderr
    assert json.loads(got.stdout)["token_type"] == "Bearer"
    refused = call(sidecar, "org", "list")
    assert refused.returncode == 5, refused.stderr
