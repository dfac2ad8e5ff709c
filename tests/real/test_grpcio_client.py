"""The contract as a Python program meets it: grpcio, mutual TLS, generated stubs."""

import hashlib
import time
import uuid

import pytest
from grpc import StatusCode
from kodo.broker.admin.v1 import organization_service_pb2 as contract

import registration
from authority import EXCHANGE, GRAPH, SHAREPOINT
from refusal import Refusal, refusal
from registration import get_token


def test_life_of_an_organization(
    organizations, tokens, authority, application, with_secret, canaries
):
    registered = organizations.RegisterOrganization(with_secret, timeout=30)
    organization = registered.organization
    assert organization.organization_id == with_secret.organization_id
    assert organization.tenant_id == authority.tenant
    assert organization.state == contract.ORGANIZATION_STATE_ACTIVE
    assert organization.credential.kind == contract.CREDENTIAL_KIND_CLIENT_SECRET
    assert organization.credential.version == 1
    assert contract.WARNING_REASON_SHAREPOINT_NEEDS_CERTIFICATE in {
        warning.reason for warning in registered.warnings
    }

    name = organization.organization_id
    for resource, url in (("graph", GRAPH), ("exchange", EXCHANGE)):
        answer = tokens.GetToken(get_token(name, resource), timeout=30)
        canaries.token(answer.access_token)
        assert answer.token_type == "Bearer"
        assert answer.resource_url == url
        assert answer.client_id == application.client_id
        assert answer.credential_version == 1
        assert answer.fingerprint == hashlib.sha256(answer.access_token.encode()).hexdigest()
        now = time.time()
        assert now < answer.refresh_time.ToSeconds() < answer.expire_time.ToSeconds()
        assert answer.expire_time.ToSeconds() == pytest.approx(now + 3599, abs=60)
    assert refusal(tokens.GetToken, get_token(name, "sharepoint")) == Refusal(
        StatusCode.FAILED_PRECONDITION, "CERTIFICATE_REQUIRED"
    )

    authority.accept_certificate(application.client_id, application.certificate)
    pem = registration.pem_certificate(application.certificate)
    rotated = organizations.RotateCredential(
        registration.rotate(organization, pem), timeout=30
    ).organization
    assert rotated.revision == organization.revision + 1
    assert rotated.credential.kind == contract.CREDENTIAL_KIND_CERTIFICATE
    assert rotated.credential.version == 2
    assert rotated.credential.certificate_sha256 == _thumbprint(application, "sha256")
    assert rotated.credential.certificate_sha1 == _thumbprint(application, "sha1")
    answer = tokens.GetToken(get_token(name, "sharepoint"), timeout=30)
    canaries.token(answer.access_token)
    assert answer.resource_url == SHAREPOINT
    assert answer.credential_version == 2

    revoked = organizations.RevokeOrganization(
        registration.revoke(rotated), timeout=30
    ).organization
    assert revoked.state == contract.ORGANIZATION_STATE_REVOKED
    assert not revoked.HasField("credential")
    for resource in ("graph", "sharepoint"):
        assert refusal(tokens.GetToken, get_token(name, resource)) == Refusal(
            StatusCode.FAILED_PRECONDITION, "ORGANIZATION_REVOKED"
        )


def test_cached_token_is_answered_again(organizations, tokens, with_secret, canaries):
    name = organizations.RegisterOrganization(with_secret, timeout=30).organization.organization_id
    first, second = (tokens.GetToken(get_token(name, "graph"), timeout=30) for _ in range(2))
    canaries.token(first.access_token)
    assert first.access_token == second.access_token
    # Both are counted from the system's clock, which may have been corrected in between.
    assert first.expire_time.ToSeconds() == pytest.approx(second.expire_time.ToSeconds(), abs=1)


def test_list_reaches_every_organization(organizations, with_certificate):
    organizations.RegisterOrganization(with_certificate, timeout=30)
    names, page = [], contract.ListOrganizationsRequest(page_size=1)
    while True:
        answer = organizations.ListOrganizations(page, timeout=30)
        assert len(answer.organizations) <= 1
        names += [organization.organization_id for organization in answer.organizations]
        page.page_token = answer.next_page_token
        if not page.page_token:
            break
    assert names.count(with_certificate.organization_id) == 1
    assert len(names) == len(set(names))


def test_validate_only_leaves_nothing(organizations, with_certificate):
    with_certificate.validate_only = True
    answer = organizations.RegisterOrganization(with_certificate, timeout=30)
    assert answer.organization.organization_id == with_certificate.organization_id
    assert _get_refusal(organizations, with_certificate) == Refusal(
        StatusCode.NOT_FOUND, "ORGANIZATION_NOT_FOUND"
    )


def test_replay_is_answered_and_not_repeated(organizations, authority, application, with_secret):
    first, again = (organizations.RegisterOrganization(with_secret, timeout=30) for _ in range(2))
    assert first == again

    authority.accept_certificate(application.client_id, application.certificate)
    pem = registration.pem_certificate(application.certificate)
    rotate = registration.rotate(first.organization, pem)
    rotated, again = (organizations.RotateCredential(rotate, timeout=30) for _ in range(2))
    assert rotated == again
    assert _get(organizations, with_secret) == rotated.organization
    assert rotated.organization.revision == first.organization.revision + 1

    revoke = registration.revoke(rotated.organization)
    revoked, again = (organizations.RevokeOrganization(revoke, timeout=30) for _ in range(2))
    assert revoked.organization == again.organization
    assert _get(organizations, with_secret) == revoked.organization
    assert revoked.organization.revision == rotated.organization.revision + 1


def test_request_id_is_for_one_request(organizations, with_secret):
    organizations.RegisterOrganization(with_secret, timeout=30)
    with_secret.display_name = "Fabrikam"
    assert refusal(organizations.RegisterOrganization, with_secret) == Refusal(
        StatusCode.INVALID_ARGUMENT, "REQUEST_ID_REUSED"
    )


def test_organization_id_is_for_one_organization(organizations, with_secret):
    organizations.RegisterOrganization(with_secret, timeout=30)
    with_secret.request_id = str(uuid.uuid4())
    assert refusal(organizations.RegisterOrganization, with_secret) == Refusal(
        StatusCode.ALREADY_EXISTS, "ORGANIZATION_ALREADY_EXISTS"
    )


def test_stale_revision_changes_nothing(organizations, with_certificate):
    organization = organizations.RegisterOrganization(with_certificate, timeout=30).organization
    stale = organization.revision + 1
    conflict = Refusal(StatusCode.ABORTED, "REVISION_CONFLICT")
    rotate = registration.rotate(organization, with_certificate.credential)
    rotate.revision = stale
    assert refusal(organizations.RotateCredential, rotate) == conflict
    revoke = registration.revoke(organization)
    revoke.revision = stale
    assert refusal(organizations.RevokeOrganization, revoke) == conflict
    assert _get(organizations, with_certificate) == organization


def test_answered_registration_survives_a_kill(
    start_broker, authority, admin, worker, with_certificate, canaries
):
    broker = start_broker(authority.url)
    registered = broker.organizations(admin).RegisterOrganization(with_certificate, timeout=30)
    broker.kill()
    broker.start()
    assert _get(broker.organizations(admin), with_certificate) == registered.organization
    request = get_token(with_certificate.organization_id, "graph")
    canaries.token(broker.tokens(worker).GetToken(request, timeout=30).access_token)


def _get(organizations, registered):
    request = contract.GetOrganizationRequest(organization_id=registered.organization_id)
    return organizations.GetOrganization(request, timeout=30).organization


def _get_refusal(organizations, registered):
    request = contract.GetOrganizationRequest(organization_id=registered.organization_id)
    return refusal(organizations.GetOrganization, request)


def _thumbprint(application, algorithm):
    return application.certificate.thumbprint(algorithm).hex()
