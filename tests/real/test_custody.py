"""What the broker stores is what its documentation says, to the bit: another implementation of the
format reads what the broker wrote, and the broker reads what that one wrote."""

import base64
import subprocess

import pytest
from kodo.broker.admin.v1 import organization_service_pb2, store_service_pb2
from kodo.broker.v1 import token_service_pb2
from kodo.broker.v1.token_service_pb2 import RESOURCE_GRAPH

import custody
import registration
from broker import BINARY


@pytest.fixture
def kek(own_broker):
    return base64.b64decode((own_broker.directory / "kek").read_bytes())


@pytest.fixture
def own_broker(start_broker, authority):
    """One whose store holds what the test has put there, and nothing else."""
    return start_broker(authority.url)


@pytest.fixture
def registered(own_broker, admin, authority, new_application, canaries, with_secret):
    """A secret that was rotated once, a certificate with labels, and an organization that was revoked."""
    other = new_application()
    authority.accept_certificate(other.client_id, other.certificate)
    certificate = registration.pem_certificate(other.certificate)
    with_certificate = registration.register(authority.tenant, other.client_id, certificate)
    canaries.identifier(with_certificate.organization_id)
    with_certificate.labels["msp"] = "northwind"
    organizations = own_broker.organizations(admin)
    for request in (with_secret, with_certificate):
        organizations.RegisterOrganization(request, timeout=30)
    rotation = organization_service_pb2.RotateCredentialRequest(
        request_id="rotation", organization_id=with_secret.organization_id, revision=1
    )
    rotation.credential.CopyFrom(with_secret.credential)
    organizations.RotateCredential(rotation, timeout=30)
    gone = organization_service_pb2.RegisterOrganizationRequest()
    gone.CopyFrom(with_secret)
    gone.organization_id, gone.request_id = "gone", "gone"
    organizations.RegisterOrganization(gone, timeout=30)
    revocation = organization_service_pb2.RevokeOrganizationRequest(
        request_id="revocation", organization_id="gone", revision=1
    )
    organizations.RevokeOrganization(revocation, timeout=30)
    return with_secret, with_certificate


def back_up(broker, admin) -> bytes:
    messages = list(broker.store(admin).BackUpStore(store_service_pb2.BackUpStoreRequest(), timeout=60))
    assert [message.finished for message in messages] == [False] * (len(messages) - 1) + [True]
    assert max(len(message.data) for message in messages) <= 1 << 20
    return b"".join(message.data for message in messages)


def run(broker, *arguments, code=0):
    command = [BINARY, "store", *arguments, "--config", broker.directory / "broker.toml"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == code, ended
    return ended


def test_another_implementation_reads_what_the_broker_wrote(own_broker, admin, registered, kek):
    with_secret, with_certificate = registered
    store = custody.read(back_up(own_broker, admin), kek)
    names = {name.decode(): record for name, record in store.records.items()}
    assert names.keys() == {with_secret.organization_id, with_certificate.organization_id, "gone"}
    # Registered, registered, rotated, registered, revoked; and made before.
    assert store.epoch == 6
    rotated, gone = names[with_secret.organization_id], names["gone"]
    assert (rotated.version, rotated.generation) == (2, 2)
    assert (gone.version, gone.generation) == (2, 2)
    secret = with_secret.credential.client_secret.value.encode()
    assert secret in rotated.body and secret not in gone.body
    labelled = names[with_certificate.organization_id]
    assert b"PRIVATE KEY" in labelled.body
    assert b"msp" in labelled.labels and b"northwind" in labelled.labels
    assert not rotated.labels
    with pytest.raises(AssertionError):
        custody.read(back_up(own_broker, admin), bytes(32))


def test_the_broker_reads_what_another_implementation_wrote(
    own_broker, admin, worker, registered, kek, tmp_path
):
    with_secret, with_certificate = registered
    made = tmp_path / "made"
    made.write_bytes(custody.make(custody.read(back_up(own_broker, admin), kek), kek))
    own_broker.stop()
    own_broker.data.rename(own_broker.directory / "before")
    restored = run(own_broker, "restore", made)
    assert "3 organizations, 1 of them revoked" in restored.stdout
    assert "not served yet" not in restored.stdout, "it is as new as the anchor"
    own_broker.start()
    for request in registered:
        wanted = token_service_pb2.GetTokenRequest(
            organization_id=request.organization_id, resource=RESOURCE_GRAPH
        )
        assert own_broker.tokens(worker).GetToken(wanted, timeout=30).access_token
    listed = own_broker.organizations(admin).GetOrganization(
        organization_service_pb2.GetOrganizationRequest(organization_id="gone"), timeout=30
    )
    assert listed.organization.revision == 2
    labelled = own_broker.organizations(admin).ListOrganizations(
        organization_service_pb2.ListOrganizationsRequest(labels={"msp": "northwind"}), timeout=30
    )
    assert [found.organization_id for found in labelled.organizations] == [with_certificate.organization_id]
