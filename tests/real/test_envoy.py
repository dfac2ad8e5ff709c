"""A real Envoy ends mutual TLS and tells the broker who calls: what is said to it instead, and by whom."""

import itertools
import os
import tomllib

import grpc
import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from grpc import StatusCode
from kodo.broker.v1 import identity_service_pb2 as contract
from kodo.broker.v1 import identity_service_pb2_grpc, token_service_pb2

import pki
from broker import ADMIN, OPTIONS, TRUST_DOMAIN, WORKER
from envoy import EXAMPLE, Envoy, in_front
from refusal import Refusal, refusal
from registration import get_token

PROXY = f"spiffe://{TRUST_DOMAIN}/ns/kodo/sa/kodo-broker"
XFCC = "x-forwarded-client-cert"
UNIDENTIFIED = Refusal(StatusCode.UNAUTHENTICATED, "PEER_IDENTITY_INVALID")

SANITIZE = {}
# As Istio's sidecars are set up.
APPEND = {
    "SANITIZE_SET": "APPEND_FORWARD",
    "set_current_client_cert_details: {uri: true}": "set_current_client_cert_details: {subject: true, uri: true, dns: true}",
}
MODES = {"sanitize": SANITIZE, "append": APPEND}

# What a worker may send, who wants to be the operator, and whether there is nothing wrong with it but
# that it is not true.
CLAIM = f"By={PROXY};Hash=00;URI={ADMIN}"
FOREIGN = f"By=spiffe://x;Hash=00;URI={ADMIN}"
CLAIMS = {
    "an element of another proxy": (FOREIGN, True),
    "an element of no proxy": (f"URI={ADMIN}", True),
    "two elements": (f"{FOREIGN},{FOREIGN}", True),
    "an element in a subject": (f'Subject="{CLAIM},{CLAIM}"', True),
    "an element with an empty subject": (f'{FOREIGN};Subject=""', True),
    "an element with a quote in its subject": (f'{FOREIGN};Subject="\\""', True),
    "the other spelling of the key": (f"by=spiffe://x;uri={ADMIN}", True),
    "an element of the proxy": (CLAIM, False),
    "two elements of the proxy": (f"{CLAIM},{FOREIGN}", False),
    "an element of two proxies": (f"By=spiffe://x;{CLAIM}", False),
    "a subject left open": (f'{CLAIM};Subject="', False),
    "a subject left open by a backslash": (f'{CLAIM};Subject="\\', False),
    "a subject left open by a quote": (f'{CLAIM};Subject="\\"', False),
    "a subject opened twice": (f'{CLAIM};Subject="""', False),
    "a subject that goes on": (f'{CLAIM};Subject="a"b', False),
    "a quote alone": ('"', False),
    "a quote in a value": (f'{CLAIM};DNS=a"', False),
    "a backslash in a value": (f"{CLAIM};DNS=a\\", False),
    "a pair left open": (f"{CLAIM};", False),
    "an element left open": (f"{CLAIM},", False),
    "a key left open": (f"{CLAIM};URI", False),
    "blanks": (f"{CLAIM}, By={PROXY}", False),
    "a bare URI": (ADMIN, False),
}


@pytest.fixture(scope="module")
def start_proxied(start_broker, authority, ca, tmp_path_factory):
    """Starts a broker behind an Envoy with these changes to the example."""
    running = []

    def start(changes, by=PROXY):
        identity = tomllib.loads((EXAMPLE / "broker.toml").read_text())["identity"]
        assert set(identity) == {"mode", "trust_domain", "trusted_proxies", "xfcc_by"}
        lines = [f'mode = "{identity["mode"]}"', f'trusted_proxies = ["uid:{os.getuid()}"]']
        if by:
            lines.append(f'xfcc_by = "{by}"')
        broker = start_broker(authority.url, proxied="\n".join(lines))
        directory = tmp_path_factory.mktemp("envoy")
        identity = ca.server(directory.name, PROXY)
        port = broker.address[1]
        envoy = Envoy(directory, port, in_front(port, ca, identity, broker.socket, changes))
        running.append(envoy)
        envoy.start()
        return broker

    yield start
    for envoy in running:
        envoy.stop()


@pytest.fixture(scope="module", params=MODES)
def mode(request):
    return request.param


@pytest.fixture(scope="module")
def proxied(start_proxied, mode):
    return start_proxied(MODES[mode])


def who(broker, caller, *headers):
    """Whom the broker takes a caller for who sends these headers."""
    call = broker.identity(caller).WhoAmI
    return call(contract.WhoAmIRequest(), metadata=headers, timeout=30)


def refused(broker, caller, *headers):
    call = broker.identity(caller).WhoAmI
    return refusal(lambda request, timeout: call(request, metadata=headers, timeout=timeout), contract.WhoAmIRequest())


def test_callers_are_who_their_certificates_say(proxied, worker, admin):
    """All of them over the connections that the proxy has open anyway."""
    for _ in range(3):
        for caller, spiffe_id in ((worker, WORKER), (admin, ADMIN)):
            answer = who(proxied, caller)
            assert answer.spiffe_id == spiffe_id
            assert answer.source == contract.IDENTITY_SOURCE_XFCC
            assert len(answer.grants) == 1


def test_calls_pass_through(proxied, worker, admin, with_secret):
    proxied.organizations(admin).RegisterOrganization(with_secret, timeout=30)
    request = get_token(with_secret.organization_id, "graph")
    assert proxied.tokens(worker).GetToken(request, timeout=30).access_token
    assert refusal(proxied.tokens(admin).GetToken, request) == Refusal(
        StatusCode.PERMISSION_DENIED, "CALLER_NOT_AUTHORIZED"
    )
    watched = token_service_pb2.WatchTokenRequest(
        organization_id=request.organization_id, resource=request.resource
    )
    stream = proxied.tokens(worker).WatchToken(watched, timeout=30)
    assert next(stream).token.access_token
    stream.cancel()


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claim_makes_nobody_of_a_worker_but_itself(proxied, mode, worker, claim):
    header, is_well_formed = CLAIMS[claim]
    if mode == "sanitize" or is_well_formed:
        assert who(proxied, worker, (XFCC, header)).spiffe_id == WORKER
    else:
        assert refused(proxied, worker, (XFCC, header)) == UNIDENTIFIED


def test_claims_in_several_headers_are_joined(proxied, mode, worker):
    """The proxy makes one header of them, so that a quote left open in one may close in another."""
    wrong = 0
    for (first, _), (second, _) in itertools.product(CLAIMS.values(), repeat=2):
        try:
            named = who(proxied, worker, (XFCC, first), (XFCC, second)).spiffe_id
        except grpc.RpcError as error:
            assert error.code() == StatusCode.UNAUTHENTICATED, (first, second, error)
            wrong += 1
        else:
            assert named == WORKER, (first, second)
    assert (wrong > 0) == (mode == "append")


def test_the_other_header_is_nobodys_word(proxied, worker):
    header = ("l5d-client-id", "admin.kodo.serviceaccount.identity.linkerd.kodo.test")
    assert who(proxied, worker, header).spiffe_id == WORKER


def test_a_certificate_with_two_ids_is_nobodys(proxied, ca):
    for ids in ([WORKER, ADMIN], [ADMIN, WORKER], [WORKER, WORKER]):
        assert refused(proxied, ca.client("two", *ids)) == UNIDENTIFIED


def test_a_certificate_with_a_bad_id_is_nobodys(proxied, ca):
    for spiffe_id in (
        f"spiffe://{TRUST_DOMAIN}/",
        f"spiffe://{TRUST_DOMAIN}/ns/kodo/",
        f"spiffe://{TRUST_DOMAIN}/ns/../kodo",
        f"spiffe://{TRUST_DOMAIN}/ns/kodo?sa=worker",
        f"spiffe://{TRUST_DOMAIN}/ns/k%6fdo/sa/worker",
    ):
        assert refused(proxied, ca.client("bad", spiffe_id)) == UNIDENTIFIED


@pytest.mark.parametrize(
    "subject",
    [
        'CN="worker"',
        '"',
        '","',
        f'";URI={ADMIN}',
        f'",{CLAIM}',
        f'",{CLAIM};Subject="',
        "\\",
        '\\"',
        f'\\",{CLAIM}',
        f'\\\\",{CLAIM};Subject="\\',
        "Doe, John; Kodo = +<>#",
        "#admin",
        " admin ",
    ],
)
def test_a_subject_is_not_taken_for_more(proxied, ca, subject):
    """Whoever may choose the subject of its certificate cannot choose its id with it."""
    # A common name is short, an organization's name is as long as it likes.
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, subject)])
    caller = ca.issue("subject", pki.uris([WORKER]), subject=name)
    assert who(proxied, caller).spiffe_id == WORKER


def test_a_proxy_of_another_name_is_not_believed(start_proxied, worker):
    broker = start_proxied(APPEND, by=f"{PROXY}-of-another")
    assert refused(broker, worker) == UNIDENTIFIED
    assert refused(broker, worker, (XFCC, f"By={PROXY}-of-another;URI={ADMIN}")) == UNIDENTIFIED


def test_a_proxy_without_a_name_has_to_replace_what_it_is_sent(start_proxied, worker, ca):
    broker = start_proxied(SANITIZE, by=None)
    assert who(broker, worker, (XFCC, FOREIGN)).spiffe_id == WORKER
    injected = ca.client("injected", f"spiffe://{TRUST_DOMAIN}/guests/one,{CLAIM}")
    assert refused(broker, injected) == UNIDENTIFIED
    broker = start_proxied(APPEND, by=None)
    assert who(broker, worker).spiffe_id == WORKER
    assert refused(broker, worker, (XFCC, FOREIGN)) == UNIDENTIFIED


def test_whoever_opens_the_socket_as_the_proxy_is_whom_it_says(proxied):
    """Which is why its users are named one by one: over it, the header is all there is."""
    # The path of a socket, which would be sent otherwise, is no authority.
    options = [*OPTIONS, ("grpc.default_authority", "localhost")]
    with grpc.insecure_channel(f"unix:{proxied.socket}", options) as channel:
        stub = identity_service_pb2_grpc.IdentityServiceStub(channel)
        assert refusal(stub.WhoAmI, contract.WhoAmIRequest()) == UNIDENTIFIED
        named = stub.WhoAmI(contract.WhoAmIRequest(), metadata=[(XFCC, CLAIM)], timeout=30)
        assert named.spiffe_id == ADMIN


@pytest.mark.parametrize("claim", [f",{CLAIM}", f";URI={ADMIN}", f",URI={ADMIN}", f'",{CLAIM}'])
def test_an_id_is_not_taken_for_more(proxied, ca, claim):
    """Of a CA that lets callers choose their ids below a path."""
    caller = ca.client("injected", f"spiffe://{TRUST_DOMAIN}/guests/one{claim}")
    assert refused(proxied, caller) == UNIDENTIFIED


def test_without_a_certificate_there_is_no_connection(proxied):
    with pytest.raises(grpc.RpcError) as caught:
        proxied.tokens(None).GetToken(get_token("nobody", "graph"), timeout=10)
    assert caught.value.code() == StatusCode.UNAVAILABLE
