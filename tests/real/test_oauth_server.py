"""The broker against an OAuth authority that checks credentials by its own judgement."""

import time
import uuid

import jwt
import pytest
import requests
from grpc import StatusCode
from jwt.algorithms import RSAAlgorithm
from kodo.broker.admin.v1 import organization_service_pb2 as contract

import registration
from authority import EXCHANGE, GRAPH, SHAREPOINT
from refusal import Refusal, refusal
from registration import get_token

REJECTED = Refusal(StatusCode.FAILED_PRECONDITION, "CREDENTIAL_REJECTED")


@pytest.fixture(scope="module")
def session(ca):
    """Trusts the run's CA alone, whatever the machine's environment says."""
    with requests.Session() as session:
        session.trust_env = False
        session.verify = str(ca.file)
        yield session


@pytest.fixture
def decode(session, authority):
    """Checks a token as a resource would, and returns its claims."""

    def check(token, audience):
        keys = session.get(f"{authority.url}/{authority.tenant}/discovery/v2.0/keys").json()
        key = RSAAlgorithm.from_jwk(keys["keys"][0])
        return jwt.decode(
            token, key, algorithms=["RS256"], audience=audience, issuer=authority.issuer
        )

    return check


def test_authority_accepts_an_assertion_once(session, authority, application):
    """That it is strict is what makes the other tests worth something."""
    authority.accept_certificate(application.client_id, application.certificate)
    now = int(time.time())
    claims = {
        "aud": authority.token_endpoint,
        "iss": application.client_id,
        "sub": application.client_id,
        "jti": str(uuid.uuid4()),
        "exp": now + 60,
    }
    form = {
        "grant_type": "client_credentials",
        "client_id": application.client_id,
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": jwt.encode(claims, application.certificate.key, algorithm="PS256"),
        "scope": f"{GRAPH}/.default",
    }
    answers = [session.post(authority.token_endpoint, data=form) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 401]
    assert answers[1].json()["error"] == "invalid_client"


@pytest.mark.parametrize(("resource", "audience"), [("graph", GRAPH), ("exchange", EXCHANGE)])
def test_secret_gets_tokens(
    organizations, tokens, with_secret, application, decode, canaries, resource, audience
):
    organizations.RegisterOrganization(with_secret, timeout=30)
    answer = tokens.GetToken(get_token(with_secret.organization_id, resource), timeout=30)
    canaries.token(answer.access_token)
    claims = decode(answer.access_token, audience)
    assert claims["appid"] == application.client_id
    assert claims["exp"] == pytest.approx(answer.expire_time.ToSeconds(), abs=5)


def test_certificate_gets_tokens_for_every_resource(
    organizations, tokens, with_certificate, decode, canaries
):
    """Each with an assertion of its own: the authority takes none twice."""
    organizations.RegisterOrganization(with_certificate, timeout=30)
    resources = {"graph": GRAPH, "exchange": EXCHANGE, "sharepoint": SHAREPOINT}
    for resource, audience in resources.items():
        request = get_token(with_certificate.organization_id, resource)
        answer = tokens.GetToken(request, timeout=30)
        canaries.token(answer.access_token)
        assert decode(answer.access_token, audience)["aud"] == audience


def test_wrong_secret_leaves_nothing(organizations, with_secret, canaries):
    wrong = canaries.client_secret()
    with_secret.credential.client_secret.value = wrong
    refused = refusal(organizations.RegisterOrganization, with_secret)
    assert refused == REJECTED
    assert wrong not in refused.text
    _assert_absent(organizations, with_secret)


def test_certificate_of_another_key_leaves_nothing(
    organizations, with_certificate, new_application
):
    other = new_application().certificate
    with_certificate.credential.CopyFrom(registration.pem_certificate(other))
    assert refusal(organizations.RegisterOrganization, with_certificate) == REJECTED
    _assert_absent(organizations, with_certificate)


def test_rejected_rotation_changes_nothing(organizations, tokens, with_secret, canaries):
    organization = organizations.RegisterOrganization(with_secret, timeout=30).organization
    wrong = registration.client_secret(canaries.client_secret())
    rotate = registration.rotate(organization, wrong)
    assert refusal(organizations.RotateCredential, rotate) == REJECTED
    get = contract.GetOrganizationRequest(organization_id=organization.organization_id)
    assert organizations.GetOrganization(get, timeout=30).organization == organization
    answer = tokens.GetToken(get_token(organization.organization_id, "graph"), timeout=30)
    canaries.token(answer.access_token)
    assert answer.credential_version == 1


def test_domain_becomes_the_tenant_id(organizations, authority, with_secret):
    """The URLs of the authority's discovery document carry it, as Entra's do."""
    with_secret.tenant = authority.domain
    organization = organizations.RegisterOrganization(with_secret, timeout=30).organization
    assert organization.tenant_id == authority.tenant


def test_host_that_the_authority_does_not_know(organizations, tokens, with_certificate):
    with_certificate.sharepoint_hosts.append("contoso-my.sharepoint.com")
    organizations.RegisterOrganization(with_certificate, timeout=30)

    def ask(host):
        name = with_certificate.organization_id
        return refusal(tokens.GetToken, get_token(name, "sharepoint", sharepoint_host=host))

    assert ask("contoso-my.sharepoint.com") == Refusal(
        StatusCode.FAILED_PRECONDITION, "RESOURCE_UNAVAILABLE"
    )
    assert ask("fabrikam.sharepoint.com") == Refusal(
        StatusCode.FAILED_PRECONDITION, "SHAREPOINT_HOST_NOT_LISTED"
    )


def test_outage_of_the_authority(
    start_authority, start_broker, admin, worker, application, canaries
):
    """A token that is still good outlives it; whoever needs a new one may try again."""
    authority = start_authority()
    authority.accept_secret(application.client_id, application.secret)
    broker = start_broker(authority.url)
    secret = registration.client_secret(application.secret)
    register = registration.register(authority.tenant, application.client_id, secret)
    broker.organizations(admin).RegisterOrganization(register, timeout=30)
    tokens = broker.tokens(worker)
    graph = get_token(register.organization_id, "graph")
    token = tokens.GetToken(graph, timeout=30).access_token
    canaries.token(token)

    authority.stop()
    assert tokens.GetToken(graph, timeout=30).access_token == token
    exchange = get_token(register.organization_id, "exchange")
    assert refusal(tokens.GetToken, exchange) == Refusal(
        StatusCode.UNAVAILABLE, "IDP_UNREACHABLE", retry=True
    )
    assert broker.serves("readiness")


def _assert_absent(organizations, request):
    get = contract.GetOrganizationRequest(organization_id=request.organization_id)
    assert refusal(organizations.GetOrganization, get) == Refusal(
        StatusCode.NOT_FOUND, "ORGANIZATION_NOT_FOUND"
    )
