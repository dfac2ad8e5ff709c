"""Certificates of the test run: one CA, made anew each time, so that no key is ever checked in."""

import datetime
import hashlib
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SERVER = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
DAYS = datetime.timedelta(days=90)


@dataclass(frozen=True)
class Identity:
    """A certificate and its key as PEM files."""

    certificate_file: Path
    key_file: Path

    @property
    def certificate(self) -> bytes:
        return self.certificate_file.read_bytes()

    @property
    def key(self) -> bytes:
        return self.key_file.read_bytes()


class Authority:
    """A CA in a directory of its own."""

    def __init__(self, directory: Path):
        self.directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("kodo test CA")
        certificate = (
            _builder(self._name, self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.file = directory / "ca.pem"
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def server(self, name: str) -> Identity:
        """For a server on loopback, by address and by name."""
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        return self._issue(name, names, SERVER)

    def client(self, name: str, *spiffe_ids: str) -> Identity:
        """For a caller of the broker. The SPIFFE ID is in the certificate and nowhere else."""
        uris = [x509.UniformResourceIdentifier(spiffe_id) for spiffe_id in spiffe_ids]
        return self._issue(name, uris, CLIENT)

    def svid(self, name: str, spiffe_id: str, life=DAYS) -> Identity:
        """For a workload that serves on loopback, by address and by name."""
        names = [
            x509.UniformResourceIdentifier(spiffe_id),
            x509.DNSName("localhost"),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        ]
        return self._issue(name, names, SERVER, CLIENT, life=life)

    def _issue(self, name, alternative_names, *usages, life=DAYS) -> Identity:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _builder(_name(name), self._name, key.public_key(), life)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName(alternative_names), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        identity = Identity(self.directory / f"{name}.crt", self.directory / f"{name}.key")
        identity.certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        identity.key_file.touch(mode=0o600)
        identity.key_file.write_bytes(_pkcs8(key))
        return identity


class ApplicationCertificate:
    """What an administrator uploads to an app registration: self-signed, RSA."""

    def __init__(self):
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=3072)
        name = _name("kodo-application")
        self.certificate = _builder(name, name, self.key.public_key()).sign(
            self.key, hashes.SHA256()
        )

    @property
    def key_pem(self) -> bytes:
        return _pkcs8(self.key)

    @property
    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def pem(self) -> str:
        """Certificate and key in one text, as the broker takes them in."""
        return (self.certificate_pem + self.key_pem).decode()

    def thumbprint(self, algorithm: str) -> bytes:
        der = self.certificate.public_bytes(serialization.Encoding.DER)
        return hashlib.new(algorithm, der).digest()

    @property
    def prime(self) -> bytes:
        """A number of the private key that no encoding of the public half holds."""
        prime = self.key.private_numbers().p
        return prime.to_bytes((prime.bit_length() + 7) // 8)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(subject, issuer, public_key, life=DAYS) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + life)
    )


def _key_usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pkcs8(key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
