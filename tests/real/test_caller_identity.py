"""Who gets in, who does not, and who may do what: mutual TLS and the policy from outside."""

import socket
import ssl

import grpc
import pytest
from grpc import StatusCode
from kodo.broker.admin.v1 import organization_service_pb2 as contract
from kodo.broker.v1 import token_service_pb2_grpc

import pki
from broker import ADMIN, OPTIONS, WORKER
from refusal import Refusal, refusal
from registration import get_token

ANY = get_token("nobody", "graph")


def test_no_client_certificate_no_connection(broker, ca):
    with pytest.raises(grpc.RpcError) as caught:
        broker.tokens(None).GetToken(ANY, timeout=10)
    assert caught.value.code() == StatusCode.UNAVAILABLE
    context = ssl.create_default_context(cafile=str(ca.file))
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate.required"):
        _connect(broker, context)


def test_client_certificate_of_another_ca(broker, ca, tmp_path):
    impostor = pki.Authority(tmp_path).client("impostor", ADMIN)
    context = ssl.create_default_context(cafile=str(ca.file))
    context.load_cert_chain(impostor.certificate_file, impostor.key_file)
    with pytest.raises(ssl.SSLError, match=r"(?i)unknown.ca|decrypt|bad.certificate"):
        _connect(broker, context)


def test_tls_1_2_is_too_old(broker, ca, worker):
    context = ssl.create_default_context(cafile=str(ca.file))
    context.load_cert_chain(worker.certificate_file, worker.key_file)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
        _connect(broker, context)


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(["spiffe://kodo.other/ns/kodo/sa/worker"], id="foreign-trust-domain"),
        pytest.param([WORKER, ADMIN], id="two-ids"),
        pytest.param(["https://kodo.test/ns/kodo/sa/worker"], id="no-spiffe-id"),
    ],
)
def test_caller_needs_one_id_of_the_trust_domain(broker, ca, names):
    stranger = ca.client("stranger", *names)
    assert refusal(broker.tokens(stranger).GetToken, ANY) == Refusal(
        StatusCode.UNAUTHENTICATED, "PEER_IDENTITY_INVALID"
    )


def test_caller_that_no_grant_names(broker, ca, organizations, with_secret):
    """It cannot find out by asking which organizations there are."""
    organizations.RegisterOrganization(with_secret, timeout=30)
    guest = broker.tokens(ca.client("guest", f"{WORKER}-of-another-kind"))
    known = refusal(guest.GetToken, get_token(with_secret.organization_id, "graph"))
    unknown = refusal(guest.GetToken, ANY)
    assert known == Refusal(StatusCode.NOT_FOUND, "ORGANIZATION_NOT_FOUND")
    assert known.text.replace(with_secret.organization_id, "nobody") == unknown.text


def test_caller_may_send_its_chain(broker, ca, worker, tmp_path):
    """grpc-js sends the CA's certificate too. Only the first says who it is."""
    chain = tmp_path / "chain.pem"
    chain.write_bytes(worker.certificate + ca.file.read_bytes())
    caller = pki.Identity(chain, worker.key_file)
    assert refusal(broker.tokens(caller).GetToken, ANY) == Refusal(
        StatusCode.NOT_FOUND, "ORGANIZATION_NOT_FOUND"
    )


def test_worker_is_no_operator(broker, worker, organizations, with_secret):
    assert refusal(broker.organizations(worker).RegisterOrganization, with_secret) == Refusal(
        StatusCode.PERMISSION_DENIED, "CALLER_NOT_AUTHORIZED"
    )
    assert _get_refusal(organizations, with_secret).reason == "ORGANIZATION_NOT_FOUND"


def test_operator_is_no_worker(broker, admin, organizations, with_secret):
    organizations.RegisterOrganization(with_secret, timeout=30)
    request = get_token(with_secret.organization_id, "graph")
    assert refusal(broker.tokens(admin).GetToken, request) == Refusal(
        StatusCode.PERMISSION_DENIED, "CALLER_NOT_AUTHORIZED"
    )


def test_ungranted_resource(organizations, tokens, with_secret):
    organizations.RegisterOrganization(with_secret, timeout=30)
    request = get_token(with_secret.organization_id, "azure_ad_graph")
    assert refusal(tokens.GetToken, request) == Refusal(
        StatusCode.PERMISSION_DENIED, "RESOURCE_NOT_ALLOWED"
    )


def test_health_port_serves_health_alone(broker):
    with grpc.insecure_channel(broker.health_target, OPTIONS) as channel:
        stub = token_service_pb2_grpc.TokenServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.GetToken(ANY, timeout=10)
    assert caught.value.code() == StatusCode.UNIMPLEMENTED


def _connect(broker, context):
    """In TLS 1.3 a client hears only after its handshake that it is not welcome."""
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(broker.address, timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as tls,
    ):
        tls.recv(1)


def _get_refusal(organizations, registered):
    request = contract.GetOrganizationRequest(organization_id=registered.organization_id)
    return refusal(organizations.GetOrganization, request)
