"""The OAuth authority of the tests: `authority.mjs` as a child process."""

import json
import subprocess
import uuid
from pathlib import Path

import jwt

import pki

GRAPH = "https://graph.microsoft.com"
EXCHANGE = "https://outlook.office365.com"
SHAREPOINT_HOST = "contoso.sharepoint.com"
SHAREPOINT = f"https://{SHAREPOINT_HOST}"


class Authority:
    """One tenant with as many applications as tests care to add."""

    def __init__(self, identity: pki.Identity, log: Path):
        self.tenant = str(uuid.uuid4())
        self.domain = "contoso.onmicrosoft.com"
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                ["node", "authority.mjs"],
                cwd=Path(__file__).parent,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        started = self._ask(
            certificate_file=str(identity.certificate_file),
            key_file=str(identity.key_file),
            tenant=self.tenant,
            domain=self.domain,
            resources=[GRAPH, EXCHANGE, SHAREPOINT],
        )
        self.url = f"https://127.0.0.1:{started['port']}"

    @property
    def token_endpoint(self) -> str:
        return f"{self.url}/{self.tenant}/oauth2/v2.0/token"

    @property
    def issuer(self) -> str:
        return f"{self.url}/{self.tenant}/v2.0"

    def accept_secret(self, client_id: str, secret: str) -> None:
        """Lets the application in with this secret and with nothing else."""
        self._accept(
            client_id, token_endpoint_auth_method="client_secret_post", client_secret=secret
        )

    def accept_certificate(self, client_id: str, certificate: pki.ApplicationCertificate) -> None:
        """Lets the application in with this certificate's key and with nothing else."""
        key = jwt.algorithms.RSAPSSAlgorithm.to_jwk(certificate.key.public_key(), as_dict=True)
        self._accept(
            client_id,
            token_endpoint_auth_method="private_key_jwt",
            token_endpoint_auth_signing_alg="PS256",
            jwks={"keys": [{"kty": key["kty"], "n": key["n"], "e": key["e"]}]},
        )

    def stop(self) -> None:
        """From here on nothing answers at `url`."""
        self._process.stdin.close()
        self._process.wait(timeout=10)
        self._process.stdout.close()

    def _accept(self, client_id: str, **registration) -> None:
        self._ask(
            client={
                "client_id": client_id,
                "grant_types": ["client_credentials"],
                "response_types": [],
                "redirect_uris": [],
                **registration,
            }
        )

    def _ask(self, **command) -> dict:
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the authority has ended; is `npm ci` done? Its log says why")
        return json.loads(answer)
