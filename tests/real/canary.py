"""Values that must never turn up where the broker writes."""

import base64
import functools
import os
import secrets
import subprocess
import tempfile
import urllib.parse
import uuid

# The signs that trip up form encoding: a space, and what `application/x-www-form-urlencoded`
# gives a meaning to.
AWKWARD = "+/=&% ~"


class Canaries:
    """Everything secret or identifying that the tests have given to brokers."""

    def __init__(self):
        self.secrets: set[bytes] = set()
        self.identifiers: set[bytes] = set()

    def client_secret(self) -> str:
        core = secrets.token_hex(20)
        secret = f"s{AWKWARD}{core}"
        self.secrets |= {core.encode(), secret.encode()}
        return secret

    def private_key(self, prime: bytes) -> None:
        """Takes pieces of it: short enough that one lies within a line of any PEM text."""
        self.secrets |= {prime[start : start + 24] for start in range(0, len(prime) - 24, 24)}

    def token(self, token: str) -> None:
        """Takes whole and last part: of a JWT the signature, which alone is secret."""
        self.secrets |= {token.encode(), token.rpartition(".")[2].encode()}

    def identifier(self, value: str) -> None:
        self.identifiers.add(value.encode())

    def guid(self, value: str) -> None:
        self.identifiers |= {value.encode(), uuid.UUID(value).bytes}


@functools.lru_cache(maxsize=None)
def encodings(value: bytes) -> set[bytes]:
    """The value as it stands, in hex, percent-encoded, and in base64 wherever in a longer text it begins."""
    found = {value, value.hex().encode(), value.hex().upper().encode()}
    found |= {quote(value, safe="").encode() for quote in (urllib.parse.quote, urllib.parse.quote_plus)}
    for shift in range(3):
        text = base64.b64encode(b"\0" * shift + value)
        # Signs at both ends also depend on the neighbours.
        inner = text[4 if shift else 0 : len(text) - 4]
        found |= {inner, inner.translate(bytes.maketrans(b"+/", b"-_"))}
    return found


def found_in(content: bytes, values: set[bytes]) -> set[bytes]:
    """Those of the values that the content holds in any encoding."""
    forms = {form: value for value in values for form in encodings(value)}
    # What can be a line of a file of patterns is looked for at once, which is much quicker.
    lines = {form for form in forms if b"\n" not in form and b"\0" not in form}
    left = forms if _holds_any(content, lines) else forms.keys() - lines
    return {forms[form] for form in left if form in content}


def _holds_any(content: bytes, patterns: set[bytes]) -> bool:
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"\n".join(patterns))
        file.flush()
        command = ["grep", "--quiet", "--text", "--fixed-strings", f"--file={file.name}"]
        found = subprocess.run(command, input=content, env=os.environ | {"LC_ALL": "C"})
    assert found.returncode in (0, 1), f"grep: {found.returncode}"
    return found.returncode == 0
