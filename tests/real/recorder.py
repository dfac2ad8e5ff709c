"""A token endpoint that believes everything and writes down what it was sent."""

import json
import secrets
import ssl
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl

import pki

METADATA = "/v2.0/.well-known/openid-configuration"
TOKEN = "/oauth2/v2.0/token"


@dataclass(frozen=True)
class Exchange:
    """A request as it came, before anything has decoded it."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        return dict((key.lower(), value) for key, value in self.headers).get(name)

    @property
    def form(self) -> dict[str, str]:
        fields = parse_qsl(self.body.decode("ascii"), keep_blank_values=True, strict_parsing=True)
        assert len(fields) == len(dict(fields)), "a form field occurs twice"
        return dict(fields)


class Recorder:
    """An HTTPS server on loopback that knows Entra's paths and one fixed token."""

    def __init__(self, identity: pki.Identity):
        self.token = secrets.token_urlsafe(48)
        self.exchanges: list[Exchange] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(identity.certificate_file, identity.key_file)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def take_token_requests(self) -> list[Exchange]:
        """Those since the last call."""
        taken, self.exchanges = self.exchanges, []
        return [exchange for exchange in taken if exchange.method == "POST"]

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, exchange: Exchange) -> dict | None:
        self.exchanges.append(exchange)
        path = exchange.target.partition("?")[0]
        if exchange.method == "POST" and path.endswith(TOKEN):
            return {"token_type": "Bearer", "expires_in": 3599, "access_token": self.token}
        if exchange.method == "GET" and path.endswith(METADATA):
            tenant = f"{self.url}{path.removesuffix(METADATA)}"
            return {
                "issuer": f"{tenant}/v2.0",
                "token_endpoint": f"{tenant}{TOKEN}",
                "authorization_endpoint": f"{tenant}/oauth2/v2.0/authorize",
            }
        return None


def _handler(recorder: Recorder):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            length = int(self.headers.get("Content-Length", 0))
            headers = list(self.headers.items())
            exchange = Exchange(self.command, self.path, headers, self.rfile.read(length))
            answer = recorder.answer(exchange)
            body = json.dumps(answer or {"error": "not_found"}).encode()
            self.send_response(200 if answer else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            # Entra sets cookies; nobody is to send them back.
            self.send_header("Set-Cookie", "fpc=recorder; path=/; secure; HttpOnly")
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_):
            """The list of exchanges is the log."""

    return Handler
