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
            .add_extension(_key_usage("key_cert_sign", "crl_sign"), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.file = directory / "ca.pem"
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def server(self, name: str, *spiffe_ids: str) -> Identity:
        """For a server on loopback, by address and by name."""
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        return self.issue(name, names + uris(spiffe_ids), purposes=[SERVER])

    def client(self, name: str, *spiffe_ids: str) -> Identity:
        """For a caller of the broker. The SPIFFE ID is in the certificate and nowhere else."""
        return self.issue(name, uris(spiffe_ids))

    def svid(self, name: str, spiffe_id: str, life=DAYS) -> Identity:
        """For a workload that serves on loopback, by address and by name."""
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        days = life / datetime.timedelta(days=1)
        names += uris([spiffe_id])
        return self.issue(name, names, purposes=[SERVER, CLIENT], life=(-1, days))

    def issue(
        self,
        name: str,
        alternative_names: list,
        *,
        subject: x509.Name | None = None,
        purposes=(CLIENT,),
        constraints: x509.BasicConstraints | None = x509.BasicConstraints(False, None),
        usages: frozenset | None = frozenset({"digital_signature"}),
        life: tuple[float, float] = (-1, 90),
        key=None,
        extensions=(),
        digest=None,
    ) -> Identity:
        """A certificate of any shape. `life` is from when to when, in days from now; `extensions` are
        further ones, each with whether it is critical."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        start, end = (now + datetime.timedelta(days=days) for days in life)
        builder = _builder(subject or _name(name), self._name, key.public_key(), start, end)
        if constraints is not None:
            builder = builder.add_extension(constraints, critical=True)
        if usages is not None:
            builder = builder.add_extension(_key_usage(*usages), critical=True)
        if purposes:
            builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        if alternative_names:
            names = x509.SubjectAlternativeName(alternative_names)
            builder = builder.add_extension(names, critical=False)
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical=critical)
        certificate = builder.sign(self._key, digest or hashes.SHA256())
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


def uris(texts) -> list[x509.UniformResourceIdentifier]:
    return [x509.UniformResourceIdentifier(text) for text in texts]


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(subject, issuer, public_key, start=None, end=None) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start or now - datetime.timedelta(minutes=5))
        .not_valid_after(end or now + DAYS)
    )


USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def _key_usage(*usages: str) -> x509.KeyUsage:
    assert set(usages) <= set(USAGES)
    return x509.KeyUsage(**{usage: usage in usages for usage in USAGES})


def _pkcs8(key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def sign_with(signer: Identity, path: Path, alternative_names) -> Identity:
    """A certificate that somebody issues who is no CA, with theirs behind it."""
    issuer = x509.load_pem_x509_certificate(signer.certificate)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder(_name("signed"), issuer.subject, key.public_key())
        .add_extension(_key_usage("digital_signature"), critical=True)
        .add_extension(x509.ExtendedKeyUsage([CLIENT]), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternative_names), critical=False)
        .sign(serialization.load_pem_private_key(signer.key, None), hashes.SHA256())
    )
    identity = Identity(path.with_suffix(".crt"), path.with_suffix(".key"))
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    identity.certificate_file.write_bytes(pem + signer.certificate)
    identity.key_file.touch(mode=0o600)
    identity.key_file.write_bytes(_pkcs8(key))
    return identity
