"""The broker under test, as an operator runs it: the binary with a configuration file."""

import base64
import os
import secrets
import signal
import socket
import subprocess
import time
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from kodo.broker.admin.v1 import organization_service_pb2_grpc, store_service_pb2_grpc
from kodo.broker.v1 import identity_service_pb2_grpc, token_service_pb2_grpc

import pki

BINARY = Path(
    os.environ.get("KODO_BROKER_BIN")
    or Path(__file__).parents[2] / "target" / "debug" / "kodo-broker"
).resolve()

# The same as it is delivered: what it costs is measured of that.
RELEASE = Path(os.environ.get("KODO_BROKER_RELEASE_BIN") or BINARY).resolve()

TRUST_DOMAIN = "kodo.test"
WORKER = f"spiffe://{TRUST_DOMAIN}/ns/kodo/sa/worker"
ADMIN = f"spiffe://{TRUST_DOMAIN}/ns/kodo/sa/admin"

# A proxy that the machine's environment names has no part in this.
OPTIONS = [("grpc.enable_http_proxy", 0)]

START_SECONDS = 30
STOP_SECONDS = 30

POLICY = f"""
[[grant]]
callers = ["{WORKER}"]
actions = ["get_token"]
organizations = ["*"]
resources = ["graph", "exchange", "sharepoint"]

[[grant]]
callers = ["{ADMIN}"]
actions = ["register", "get", "list", "update", "rotate", "revoke", "suspend", "resume", "manage_store"]
organizations = ["*"]
"""


class Broker:
    """One data directory and, while started, the process that serves it."""

    def __init__(
        self,
        directory: Path,
        ca: pki.Authority,
        identity: pki.Identity,
        authority: str,
        kek: str | None = None,
        *,
        limits: str = "",
        log: str = "trace",
        proxied: str | None = None,
        tls: str | None = None,
        identity_section: str | None = None,
        policy: str = POLICY,
        admin_listener: bool = False,
        audit: str = "",
        binary: Path = BINARY,
    ):
        """`kek` and `limits` are what stands in the sections of that name; a key file, if there is no
        `kek`; likewise `tls` and `identity_section`. `log` is by default what any library could say, so
        that the search for secrets covers it. `proxied` are lines of `[identity]` for a proxy that says
        who callers are: it has to listen on the port and to pass requests on to the socket. Operators
        get an address of their own if `admin_listener`. `audit` are lines of `[audit]`.
        """
        self.directory = directory
        self.data = directory / "data"
        self.data.mkdir(mode=0o700)
        self.logs = [directory / "stdout", directory / "stderr"]
        self._ca = ca
        self._port, self._admin_port, self._health_port = _free_ports(3)
        self._process = None
        self._channels = []
        if kek is None:
            file = directory / "kek"
            file.touch(mode=0o600)
            file.write_bytes(base64.b64encode(secrets.token_bytes(32)))
            kek = f'file = "{file}"'
        self._kek = kek
        self._limits = limits
        self._audit = audit
        self._binary = binary
        self._log = log
        self._tls = tls or (
            f'certificate_file = "{identity.certificate_file}"\nkey_file = "{identity.key_file}"'
        )
        self._identity = identity_section or (
            f'trust_domain = "{TRUST_DOMAIN}"\nclient_ca_file = "{ca.file}"'
        )
        self._admin_listener = admin_listener
        (directory / "policy.toml").write_text(policy)
        self._callers = self._proxied(proxied) if proxied else self._certified()
        (directory / "broker.toml").write_text(self._config(authority))

    @property
    def address(self) -> tuple[str, int]:
        return ("127.0.0.1", self._port)

    @property
    def socket(self) -> Path:
        return self.directory / "proxy.sock"

    @property
    def admin_address(self) -> tuple[str, int]:
        return ("127.0.0.1", self._admin_port if self._admin_listener else self._port)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def health_target(self) -> str:
        return f"127.0.0.1:{self._health_port}"

    def start(self, services=("", "liveness", "readiness")) -> None:
        """Returns once these health services say that they serve: those of a broker that is not sealed."""
        with self.logs[0].open("ab") as stdout, self.logs[1].open("ab") as stderr:
            self._process = subprocess.Popen(
                # The machine may have swap.
                [self._binary, "serve", "--insecure-dev", "--config", self.directory / "broker.toml"],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
            )
        deadline = time.monotonic() + START_SECONDS
        while not all(self.serves(service) for service in services):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the broker does not get ready:\n{self.output()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Ends it as an orchestrator does, which has to be a success."""
        if self._process is None:
            return
        self._close_channels()
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(STOP_SECONDS)
        self._process = None
        assert code == 0, f"the broker ended with {code}:\n{self.output()}"

    def kill(self) -> None:
        """Ends it without a chance to write anything more."""
        self._close_channels()
        self._process.kill()
        self._process.wait()
        self._process = None

    def serves(self, service: str) -> bool:
        """What the plaintext health port says of a service."""
        with grpc.insecure_channel(self.health_target, OPTIONS) as channel:
            try:
                answer = health_pb2_grpc.HealthStub(channel).Check(
                    health_pb2.HealthCheckRequest(service=service), timeout=1
                )
            except grpc.RpcError:
                return False
        return answer.status == health_pb2.HealthCheckResponse.SERVING

    def tokens(self, caller: pki.Identity | None):
        """The worker's side of the contract, called with a client certificate or without one."""
        return token_service_pb2_grpc.TokenServiceStub(self._channel(caller, self.address))

    def organizations(self, caller: pki.Identity):
        """The operator's side of the contract."""
        return organization_service_pb2_grpc.OrganizationServiceStub(
            self._channel(caller, self.admin_address)
        )

    def store(self, caller: pki.Identity):
        """The operator's side of the contract for the store as a whole."""
        return store_service_pb2_grpc.StoreServiceStub(self._channel(caller, self.admin_address))

    def output(self) -> str:
        return "\n".join(log.read_text(errors="replace") for log in self.logs)

    def _channel(self, caller, address):
        pair = (caller.key, caller.certificate) if caller else (None, None)
        credentials = grpc.ssl_channel_credentials(self._ca.file.read_bytes(), *pair)
        channel = grpc.secure_channel("{}:{}".format(*address), credentials, OPTIONS)
        self._channels.append(channel)
        return channel

    def _close_channels(self) -> None:
        while self._channels:
            self._channels.pop().close()

    def identity(self, caller: pki.Identity):
        """What tells callers who they are."""
        return identity_service_pb2_grpc.IdentityServiceStub(self._channel(caller, self.address))

    def _proxied(self, identity: str) -> str:
        return f"""
listen = "unix:{self.socket}"

[identity]
trust_domain = "{TRUST_DOMAIN}"
{identity}
"""

    def _certified(self) -> str:
        admin = f'admin_listen = "127.0.0.1:{self._admin_port}"' if self._admin_listener else ""
        return f"""
listen = "127.0.0.1:{self._port}"
{admin}

[server.tls]
{self._tls}

[identity]
{self._identity}
"""

    def _config(self, authority: str) -> str:
        return f"""
[server]
health_listen = "127.0.0.1:{self._health_port}"
reflection = true
{self._callers}

[policy]
file = "{self.directory}/policy.toml"

[store]
kind = "sled"
directory = "{self.data}"

[kek]
{self._kek}

[entra]
extra_ca_file = "{self._ca.file}"

[entra.loopback_authority.global]
authority_url = "{authority}"
graph_url = "{authority}/graph"

[server.limits]
{self._limits}

[audit]
{self._audit}

[log]
format = "json"
filter = "{self._log}"
"""


def _free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago; held together, so that they differ."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports


def free_port() -> int:
    (port,) = _free_ports(1)
    return port
