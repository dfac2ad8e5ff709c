"""grpcurl, the tool that people try a gRPC server with, by reflection instead of proto files."""

import subprocess
import sysconfig
from pathlib import Path

GRPCURL = Path(sysconfig.get_path("scripts")) / "grpcurl"


def test_lists_the_services(broker, worker, ca):
    host, port = broker.address
    command = [GRPCURL, "-cacert", ca.file, "-cert", worker.certificate_file]
    command += ["-key", worker.key_file, f"{host}:{port}", "list"]
    listing = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert listing.returncode == 0, listing.stderr
    assert {
        "kodo.broker.v1.TokenService",
        "kodo.broker.admin.v1.OrganizationService",
    } <= set(listing.stdout.split())
