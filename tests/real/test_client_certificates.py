"""Client certificates that name nobody, each shown to the running broker. Some TLS refuses, the others the
broker: what counts is that none gets further than saying who it would like to be."""

import ipaddress
import re

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier
from grpc import StatusCode
from grpc_status import rpc_status
from kodo.broker.v1 import identity_service_pb2 as contract

import pki
from broker import ADMIN, TRUST_DOMAIN, WORKER

D = TRUST_DOMAIN
CA = x509.BasicConstraints(ca=True, path_length=0)
# No connection came about.
CLOSED = "CLOSED"

# URIs that are no id of a workload in the trust domain.
BAD_URIS = [
    "spiffe://",
    "spiffe:///ns/kodo",
    f"spiffe://{D}",
    f"spiffe://{D}/",
    f"spiffe://{D}/ns/kodo/",
    f"spiffe://{D}//ns/kodo",
    f"spiffe://{D}/ns//kodo",
    f"spiffe://{D}/./kodo",
    f"spiffe://{D}/ns/../kodo",
    f"spiffe://{D}/ns/kodo?x=1",
    f"spiffe://{D}/ns/kodo?",
    f"spiffe://{D}/ns/kodo#x",
    f"spiffe://user@{D}/ns/kodo",
    f"spiffe://user:word@{D}/ns/kodo",
    f"spiffe://{D}:8443/ns/kodo",
    f"SPIFFE://{D}/ns/kodo",
    f"Spiffe://{D}/ns/kodo",
    f"spiffe://{D.upper()}/ns/kodo",
    f"spiffe://{D}/ns/k%6fdo",
    f"spiffe://{D.replace('.', '%2e')}/ns/kodo",
    f"spiffe://{D}/ns\\kodo",
    f"spiffe://{D}/*",
    "spiffe://*/ns/kodo",
    f"spiffe://{D}/ns/kodo\0",
    f"spiffe://{D}\0.evil/ns/kodo",
    f"spiffe://{D}/ns/kodo\n",
    f" spiffe://{D}/ns/kodo",
    f"spiffe://{D}/ns/kodo ",
    f"spiffe://{D}/ns/kodo,URI={ADMIN}",
    f"spiffe://{D}/ns/kodo;URI={ADMIN}",
    f"http://{D}/ns/kodo",
    f"https://{D}/ns/kodo",
    f"spiffes://{D}/ns/kodo",
    f"spiffe:{D}/ns/kodo",
    f"urn:spiffe:{D}",
    f"{D}/ns/kodo",
    "",
    f"spiffe://{D}/{'x' * 2048}",
    "spiffe://kodo.other/ns/kodo/sa/worker",
    f"spiffe://{D}.evil/ns/kodo/sa/worker",
    f"spiffe://{D}./ns/kodo/sa/worker",
    f"spiffe://sub.{D}/ns/kodo/sa/worker",
    f"spiffe://{D[:-1]}/ns/kodo/sa/worker",
    f"spiffe://{D}2/ns/kodo/sa/worker",
    f"spiffe://{D.replace('.', '-')}/ns/kodo/sa/worker",
    f"spiffe://test/{D}/ns/kodo/sa/worker",
]

IDS = {"names": pki.uris([WORKER])}
# Other shapes: what `issue` is given.
SHAPES = {
    "no-name": {"names": []},
    "common-name-alone": {"names": [], "subject": x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, WORKER)])},
    "dns-name": {"names": [x509.DNSName(WORKER)]},
    "email": {"names": [x509.RFC822Name(f"worker@{D}")]},
    "address": {"names": [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]},
    "registered-id": {"names": [x509.RegisteredID(ObjectIdentifier("1.2.3.4"))]},
    "directory-name": {
        "names": [x509.DirectoryName(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, WORKER)]))]
    },
    "other-name": {"names": [x509.OtherName(ObjectIdentifier("1.2.3.4"), b"\x0c\x06worker")]},
    "two-ids": {"names": pki.uris([WORKER, ADMIN])},
    "an-id-twice": {"names": pki.uris([WORKER, WORKER])},
    "an-id-and-a-url": {"names": pki.uris([WORKER, f"https://{D}/"])},
    "a-url-and-an-id": {"names": pki.uris([f"https://{D}/", WORKER])},
    "two-ids-around-a-name": {"names": [*pki.uris([WORKER]), x509.DNSName(D), *pki.uris([ADMIN])]},
    "an-empty-uri-and-an-id": {"names": pki.uris(["", WORKER])},
    "three-ids": {"names": pki.uris([WORKER, ADMIN, WORKER])},
    "of-a-ca": IDS | {"constraints": CA, "usages": frozenset({"digital_signature", "key_cert_sign"})},
    "of-a-ca-without-usage": IDS | {"constraints": CA, "usages": None},
    "signs-certificates": IDS | {"usages": frozenset({"digital_signature", "key_cert_sign"})},
    "signs-certificates-alone": IDS | {"usages": frozenset({"key_cert_sign"}), "constraints": None},
    "signs-revocations": IDS | {"usages": frozenset({"digital_signature", "crl_sign"})},
    "no-signatures": IDS | {"usages": frozenset({"key_encipherment"})},
    "key-agreement-alone": IDS | {"usages": frozenset({"key_agreement"})},
    "non-repudiation-alone": IDS | {"usages": frozenset({"content_commitment"})},
    "data-alone": IDS | {"usages": frozenset({"data_encipherment"})},
    "of-a-server": IDS | {"purposes": [ExtendedKeyUsageOID.SERVER_AUTH]},
    "for-code": IDS | {"purposes": [ExtendedKeyUsageOID.CODE_SIGNING]},
    "for-mail-and-time": IDS | {"purposes": [ExtendedKeyUsageOID.EMAIL_PROTECTION, ExtendedKeyUsageOID.TIME_STAMPING]},
    "over": IDS | {"life": (-30, -1)},
    "over-since-a-moment": IDS | {"life": (-1, -0.0001)},
    "not-yet": IDS | {"life": (1, 30)},
    "short-rsa-key": IDS | {"key": lambda: rsa.generate_private_key(public_exponent=65537, key_size=1024)},
    "another-curve": IDS | {"key": lambda: ec.generate_private_key(ec.SECP256K1())},
    "unknown-critical-extension": IDS
    | {"extensions": [(x509.UnrecognizedExtension(ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True)]},
    "unreadable-name": {
        "names": [],
        "extensions": [(x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, b"\x30\x05\x86"), False)],
    },
    "an-id-and-something-after-it": {
        "names": [],
        "extensions": [
            (
                x509.UnrecognizedExtension(
                    x509.SubjectAlternativeName.oid,
                    bytes([0x30, len(WORKER) + 2, 0x86, len(WORKER)]) + WORKER.encode() + b"\x00",
                ),
                False,
            )
        ],
    },
}


def _uri(text):
    """Also of a text that the library would not write: nothing but ASCII, and not empty."""
    return x509.UniformResourceIdentifier._init_without_validation(text)


def answer(broker, caller) -> str:
    """Whom the broker takes a caller for, the reason why for nobody, or that there is no connection."""
    try:
        return broker.identity(caller).WhoAmI(contract.WhoAmIRequest(), timeout=30).spiffe_id
    except grpc.RpcError as error:
        if error.code() in (StatusCode.UNAVAILABLE, StatusCode.INTERNAL) and not rpc_status.from_call(error):
            return CLOSED
        assert error.code() == StatusCode.UNAUTHENTICATED, error
        return re.search(r"PEER_IDENTITY_INVALID", str(rpc_status.from_call(error))).group()


def test_there_are_enough_of_them():
    assert len(BAD_URIS) + len(SHAPES) >= 80


def test_a_good_certificate_is_known(broker, ca):
    """So the others are refused for what is wrong with them."""
    assert answer(broker, ca.issue("good", pki.uris([WORKER]))) == WORKER
    for key in (ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate()):
        assert answer(broker, ca.issue("good", pki.uris([WORKER]), key=key)) == WORKER
    names = [x509.DNSName("admin"), *pki.uris([WORKER]), x509.RFC822Name(f"admin@{D}")]
    assert answer(broker, ca.issue("good", names, usages=None, constraints=None)) == WORKER
    assert answer(broker, ca.issue("good", pki.uris([WORKER]), digest=hashes.SHA384())) == WORKER


@pytest.mark.parametrize("uri", BAD_URIS)
def test_a_bad_id_names_nobody(broker, ca, uri):
    assert answer(broker, ca.issue("bad", [_uri(uri)])) == "PEER_IDENTITY_INVALID"


@pytest.mark.parametrize("shape", SHAPES)
def test_a_certificate_of_another_shape_names_nobody(broker, ca, shape):
    wanted = dict(SHAPES[shape])
    if "key" in wanted:
        wanted["key"] = wanted["key"]()
    names = wanted.pop("names")
    caller = ca.issue("bad", names, **wanted)
    # TLS, on whichever side, looks at everything but at names and at what else a leaf may sign.
    of_broker = set(wanted) <= {"subject"} or shape in ("signs-certificates", "signs-revocations")
    expected = "PEER_IDENTITY_INVALID" if of_broker else CLOSED
    assert answer(broker, caller) == expected


def test_a_certificate_of_somebody_else_names_nobody(broker, ca, worker, tmp_path):
    """Of another CA, of the same name and of another; of nobody but itself; of a worker who signs."""
    impostor = pki.Authority(tmp_path)
    assert answer(broker, impostor.client("impostor", WORKER)) == CLOSED
    chain = tmp_path / "chain.pem"
    ours = impostor.client("impostor", WORKER)
    chain.write_bytes(ours.certificate + worker.certificate + ca.file.read_bytes())
    assert answer(broker, pki.Identity(chain, ours.key_file)) == CLOSED
    signed = pki.sign_with(worker, tmp_path / "signed", [x509.UniformResourceIdentifier(ADMIN)])
    assert answer(broker, signed) == CLOSED
