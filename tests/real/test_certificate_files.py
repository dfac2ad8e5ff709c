"""Certificates in the forms that other programs write them, taken in and used for a token."""

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.serialization import pkcs12
from grpc import StatusCode
from kodo.broker.admin.v1 import organization_service_pb2 as contract

from refusal import Refusal, refusal

INVALID = Refusal(StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")

PBES2 = pkcs12.PBES.PBESv2SHA256AndAES256CBC
PBES1 = pkcs12.PBES.PBESv1SHA1And3KeyTripleDESCBC


@pytest.fixture
def password(canaries):
    """Not ASCII alone: PKCS#12 encodes passwords in two ways, which differ beyond it."""
    return f"{canaries.client_secret()}äß"


@pytest.fixture
def register(organizations, with_certificate):
    """Registers with the given credential, as far as the authority's word for it."""
    with_certificate.validate_only = True

    def call(credential):
        with_certificate.credential.CopyFrom(credential)
        return organizations.RegisterOrganization(with_certificate, timeout=30).organization

    return call


@pytest.fixture
def refuse(organizations, with_certificate):
    """The same where it has to fail, before the authority is asked."""

    def call(credential):
        with_certificate.credential.CopyFrom(credential)
        return refusal(organizations.RegisterOrganization, with_certificate)

    return call


@pytest.mark.parametrize("form", ["pkcs8", "pkcs1", "key-first", "chain"])
def test_pem(register, application, ca, form):
    certificate = application.certificate.certificate_pem
    key = application.certificate.key_pem
    pem = {
        "pkcs8": certificate + key,
        "pkcs1": certificate + _pkcs1(application.certificate.key),
        "key-first": key + certificate,
        "chain": certificate + key + ca.file.read_bytes(),
    }[form]
    _assert_is(register(_pem(pem)), application)


@pytest.mark.parametrize(
    ("scheme", "digest"),
    [
        pytest.param(PBES2, hashes.SHA256(), id="openssl-3"),
        pytest.param(PBES1, hashes.SHA1(), id="windows-triple-des"),
        pytest.param(PBES2, hashes.SHA512(), id="sha-512"),
    ],
)
def test_pkcs12(register, application, password, scheme, digest):
    encryption = (
        serialization.PrivateFormat.PKCS12.encryption_builder()
        .key_cert_algorithm(scheme)
        .hmac_hash(digest)
        .build(password.encode())
    )
    _assert_is(register(_pfx(application.certificate, encryption, password)), application)


def test_pkcs12_with_wrong_password(refuse, application, password):
    encryption = serialization.BestAvailableEncryption(b"another password")
    answer = refuse(_pfx(application.certificate, encryption, password))
    assert answer == INVALID
    assert password not in answer.text


def test_pem_without_a_key(refuse, application):
    assert refuse(_pem(application.certificate.certificate_pem)) == INVALID


def test_pem_with_the_key_of_another_certificate(refuse, application, new_application):
    pem = application.certificate.certificate_pem + new_application().certificate.key_pem
    assert refuse(_pem(pem)) == INVALID


def test_elliptic_curve(refuse, ca):
    """Entra takes RSA alone, and would say so only after the assertion is signed."""
    identity = ca.client("elliptic", "spiffe://kodo.test/application")
    assert refuse(_pem(identity.certificate + identity.key)) == INVALID


def _pem(pem: bytes) -> contract.Credential:
    return contract.Credential(pem_certificate=contract.PemCertificateCredential(pem=pem.decode()))


def _pkcs1(key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )


def _pfx(certificate, encryption, password) -> contract.Credential:
    pfx = pkcs12.serialize_key_and_certificates(
        b"kodo", certificate.key, certificate.certificate, None, encryption
    )
    return contract.Credential(
        pkcs12_certificate=contract.Pkcs12CertificateCredential(pfx=pfx, password=password)
    )


def _assert_is(organization, application):
    credential = organization.credential
    assert credential.kind == contract.CREDENTIAL_KIND_CERTIFICATE
    assert credential.certificate_sha256 == application.certificate.thumbprint("sha256").hex()
    expiry = application.certificate.certificate.not_valid_after_utc
    assert credential.expire_time.ToSeconds() == int(expiry.timestamp())
