"""A SPIFFE Workload API, as far as X.509 goes: the standard's own contract on gRPC's own Python server.

There is no SPIRE in the package registries; this stands in for its agent. What it has in common with the
broker is the standard alone."""

import threading
from concurrent import futures
from pathlib import Path

import grpc
import workloadapi_pb2 as api
import workloadapi_pb2_grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization

import pki

STREAMS_MAX = 8


class WorkloadApi(workloadapi_pb2_grpc.SpiffeWorkloadAPIServicer):
    """Gives what it was told last, to every stream and at once."""

    def __init__(self, socket: Path):
        self.socket = socket
        self._changed = threading.Condition()
        self._response = None
        self._version = 0
        self._server = None

    @property
    def endpoint(self) -> str:
        return f"unix://{self.socket}"

    def start(self) -> None:
        self._server = grpc.server(futures.ThreadPoolExecutor(STREAMS_MAX))
        workloadapi_pb2_grpc.add_SpiffeWorkloadAPIServicer_to_server(self, self._server)
        self._server.add_insecure_port(f"unix:{self.socket}")
        self._server.start()

    def stop(self) -> None:
        server, self._server = self._server, None
        if server:
            stopped = server.stop(0)
            with self._changed:
                self._changed.notify_all()
            stopped.wait()
            self.socket.unlink(missing_ok=True)

    def give(self, spiffe_id: str, svid: pki.Identity, bundle, federated=None) -> None:
        """An SVID, the CAs of its trust domain, and those of others by their trust domain."""
        key = serialization.load_pem_private_key(svid.key, None)
        response = api.X509SVIDResponse(
            svids=[
                api.X509SVID(
                    spiffe_id=spiffe_id,
                    x509_svid=_der(svid.certificate),
                    x509_svid_key=key.private_bytes(
                        serialization.Encoding.DER,
                        serialization.PrivateFormat.PKCS8,
                        serialization.NoEncryption(),
                    ),
                    bundle=_bundle(bundle),
                )
            ],
            federated_bundles={
                f"spiffe://{domain}": _bundle(cas) for domain, cas in (federated or {}).items()
            },
        )
        with self._changed:
            self._response = response
            self._version += 1
            self._changed.notify_all()

    def FetchX509SVID(self, request, context):
        # By the standard, against requests that a web page makes a browser send.
        if ("workload.spiffe.io", "true") not in context.invocation_metadata():
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the security header is missing")
        seen = 0
        while context.is_active():
            with self._changed:
                self._changed.wait_for(
                    lambda: self._version > seen or self._server is None, timeout=1
                )
                if self._server is None:
                    return
                if self._version == seen:
                    continue
                seen, response = self._version, self._response
            yield response


def _der(pem: bytes) -> bytes:
    certificates = x509.load_pem_x509_certificates(pem)
    return b"".join(one.public_bytes(serialization.Encoding.DER) for one in certificates)


def _bundle(cas) -> bytes:
    return b"".join(_der(ca.file.read_bytes()) for ca in cas)
