"""What OpenBao asks a Kubernetes cluster: whose a service account's token is. A fake of that one
endpoint; all the rest of the login is OpenBao's own."""

import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

import pki

REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"


class Cluster:
    """An API server that knows the tokens it has made."""

    def __init__(self, identity: pki.Identity):
        self.reviewed = []
        self._accounts = {}
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        cluster = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                review = json.loads(self.rfile.read(int(self.headers["content-length"])))
                known = self.path == REVIEWS
                answer = json.dumps(cluster._review(review)).encode() if known else b"{}"
                self.send_response(201 if known else 404)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(identity.certificate_file, identity.key_file)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def service_account_token(self, name: str) -> str:
        """A token as a projected volume holds it."""
        claims = {
            "iss": "https://kubernetes.default.svc",
            "sub": f"system:serviceaccount:kodo:{name}",
            "kubernetes.io": {
                "namespace": "kodo",
                "serviceaccount": {"name": name, "uid": f"uid-of-{name}"},
            },
        }
        token = jwt.encode(claims, self._key, algorithm="RS256")
        self._accounts[token] = name
        return token

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _review(self, review) -> dict:
        name = self._accounts.get(review["spec"]["token"])
        self.reviewed.append(name)
        status = {"authenticated": name is not None}
        if name:
            user = {"username": f"system:serviceaccount:kodo:{name}", "uid": f"uid-of-{name}"}
            status["user"] = user | {"groups": ["system:serviceaccounts"]}
        return review | {"status": status}
