"""The broker's token request beside that of Microsoft's own client library.

Both talk to the same recorder. Whatever differs is listed here with its reason; a difference that
is not listed fails the test, and so does a listed one that is no more.
"""

import json

import jwt
import msal
import pytest
import requests

import registration
from registration import get_token

# Facts of the connection and of the program rather than of the request.
IGNORED = {"accept-encoding", "connection", "content-length", "host", "user-agent"}

# Facts whose values are new for each request or differ by program: only whether they are there.
PRESENCE = {"client-request-id", "x-client-os", "x-client-sku", "x-client-ver", "jti"}

MSAL = "tells Microsoft which MSAL this is and how it is doing; we say who we are in User-Agent"

KEPT = {
    "header.cookie": "no answer of Entra may steer later requests; requests.Session has a jar",
    "form.client_info": "asks for facts of a user, and here is none",
    "header.client-request-id": "for support we report the ids that Entra gives",
    "header.x-client-current-telemetry": MSAL,
    "header.x-client-last-telemetry": MSAL,
    "header.x-client-os": MSAL,
    "header.x-client-sku": MSAL,
    "header.x-client-ver": MSAL,
    "header.x-ms-lib-capability": MSAL,
}

KEPT_WITH_CERTIFICATE = KEPT | {
    "assertion.header.x5c": "only Microsoft's own services may rely on it",
    "assertion.header.x5t#S256": "MSAL pads it, which RFC 7515 does not",
    "assertion.claims.exp": "MSAL writes a fraction of a second; ours is whole, as in the docs",
    "assertion.claims.iat": "optional, left out by us; we have nbf",
    "assertion.claims.nbf": "documented by Microsoft, left out by MSAL",
    "assertion.life": "ours is used once and at once, MSAL's again for ten minutes",
}


@pytest.fixture
def ask_broker(recorded_broker, recorder, admin, authority):
    """Has the broker try a credential, and returns the one token request that this took."""

    def ask(application, credential):
        request = registration.register(
            authority.tenant, application.client_id, credential, validate_only=True
        )
        recorder.take_token_requests()
        recorded_broker.organizations(admin).RegisterOrganization(request, timeout=30)
        [exchange] = recorder.take_token_requests()
        return exchange

    return ask


@pytest.fixture
def ask_msal(recorder, ca, authority):
    """The same with MSAL."""

    def ask(application, credential):
        with requests.Session() as session:
            session.trust_env = False
            session.verify = str(ca.file)
            client = msal.ConfidentialClientApplication(
                application.client_id,
                authority=f"{recorder.url}/{authority.tenant}",
                client_credential=credential,
                instance_discovery=False,
                http_client=session,
            )
            recorder.take_token_requests()
            answer = client.acquire_token_for_client(["https://graph.microsoft.com/.default"])
        assert answer["access_token"] == recorder.token
        [exchange] = recorder.take_token_requests()
        return exchange

    return ask


def test_secret(ask_broker, ask_msal, application):
    ours = ask_broker(application, registration.client_secret(application.secret))
    theirs = ask_msal(application, application.secret)
    assert ours.form["client_secret"] == application.secret
    assert _differences(ours, theirs) == _approved(KEPT, ours, theirs)


def test_certificate(ask_broker, ask_msal, application):
    certificate = application.certificate
    ours = ask_broker(application, registration.pem_certificate(certificate))
    theirs = ask_msal(
        application,
        {
            "private_key": certificate.key_pem.decode(),
            "public_certificate": certificate.certificate_pem.decode(),
        },
    )
    facts, msal_facts = _facts(ours), _facts(theirs)
    assert _differences(ours, theirs) == _approved(KEPT_WITH_CERTIFICATE, ours, theirs)
    assert facts["assertion.claims.exp"] == facts["assertion.claims.nbf"] == "int"
    assert 0 < facts["assertion.life"] <= 300
    thumbprint = "assertion.header.x5t#S256"
    assert facts[thumbprint] == msal_facts[thumbprint].rstrip("=")


def test_every_assertion_is_new(
    recorded_broker, recorder, admin, worker, authority, application, canaries
):
    pem = registration.pem_certificate(application.certificate)
    register = registration.register(authority.tenant, application.client_id, pem)
    canaries.identifier(register.organization_id)
    recorder.take_token_requests()
    recorded_broker.organizations(admin).RegisterOrganization(register, timeout=30)
    for resource in ("exchange", "sharepoint"):
        request = get_token(register.organization_id, resource)
        answer = recorded_broker.tokens(worker).GetToken(request, timeout=30)
        assert answer.access_token == recorder.token
    identifiers = [
        _unverified(exchange.form["client_assertion"])["payload"]["jti"]
        for exchange in recorder.take_token_requests()
    ]
    assert len(identifiers) >= 2
    assert len(identifiers) == len(set(identifiers))


def test_credential_travels_in_the_form_alone(ask_broker, application):
    """Twice, so that a cookie from the first answer would show in the second request."""
    for _ in range(2):
        exchange = ask_broker(application, registration.client_secret(application.secret))
        assert exchange.header("cookie") is None
        assert exchange.header("authorization") is None
        head = json.dumps([exchange.target, exchange.headers])
        assert application.secret.rpartition(" ~")[2] not in head


def _differences(ours, theirs) -> dict:
    left, right = _facts(ours), _facts(theirs)
    return {
        fact: (left.get(fact), right.get(fact))
        for fact in sorted(left.keys() | right.keys())
        if left.get(fact) != right.get(fact)
    }


def _approved(kept, ours, theirs) -> dict:
    """The listed differences with the values found, so that pytest shows them side by side."""
    left, right = _facts(ours), _facts(theirs)
    return {fact: (left.get(fact), right.get(fact)) for fact in sorted(kept)}


def _facts(exchange) -> dict:
    """The request as a flat table: what a server could tell two of them apart by."""
    path, _, query = exchange.target.partition("?")
    facts = {"method": exchange.method, "path": path, "query": query}
    for name, value in exchange.headers:
        facts[f"header.{name.lower()}"] = value
    for name, value in exchange.form.items():
        facts[f"form.{name}"] = value
    if assertion := facts.pop("form.client_assertion", None):
        facts |= _assertion_facts(assertion)
    return {
        fact: "present" if fact.rpartition(".")[2] in PRESENCE else value
        for fact, value in facts.items()
        if fact.partition(".")[2] not in IGNORED
    }


def _assertion_facts(assertion: str) -> dict:
    decoded = _unverified(assertion)
    claims = decoded["payload"]
    facts = {f"assertion.header.{name}": value for name, value in decoded["header"].items()}
    # Of points in time the type; of their distance the value.
    facts |= {
        f"assertion.claims.{name}": type(value).__name__ if name in ("exp", "iat", "nbf") else value
        for name, value in claims.items()
    }
    begin = claims["nbf"] if "nbf" in claims else claims["iat"]
    return facts | {"assertion.life": round(claims["exp"] - begin)}


def _unverified(assertion: str) -> dict:
    return jwt.decode_complete(assertion, options={"verify_signature": False})
