"""A certificate authority of our own: who signs the broker's certificate and those of robots and trainers.

Elliptic keys (P-256), which a small robot handles in milliseconds. The extensions are those that RFC 5280 asks for and
that Python 3.13 began to insist on. Needs `cryptography`, which is not installed by default.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# All certificates of a fleet end with it, and it cannot be exchanged robot by robot: as long as a robot may live.
CA_DAYS = 3650
# Browsers' and phones' bound for a server; two years and some reserve.
SERVER_DAYS = 825
# A forgotten robot is locked out by itself within two years; revoking does it at once.
CLIENT_DAYS = 730
# Clocks of robots are slow to be set.
BACKDATED = timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class Signed:
    """A certificate and the key that belongs to it."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def certificate_pem(self) -> bytes:
        """The certificate as a file holds it."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The key as a file holds it, without a passphrase: programs start without a person."""
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


def new_authority() -> Signed:
    """Make a certificate authority that may sign certificates and lists of revoked ones, but no other authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder("Reflexarc CA", key, CA_DAYS).issuer_name(_name("Reflexarc CA"))
    usage = _usage(key_cert_sign=True, crl_sign=True)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(usage, critical=True)
    return Signed(certificate=builder.sign(key, hashes.SHA256()), key=key)


def read_authority(certificate_pem: bytes, key_pem: bytes) -> Signed:
    """Read a certificate authority. Raises ValueError for what is none."""
    key = serialization.load_pem_private_key(key_pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("the key is no elliptic one")
    return Signed(certificate=x509.load_pem_x509_certificate(certificate_pem), key=key)


def new_server(authority: Signed, hosts: Sequence[str], days: int = SERVER_DAYS) -> Signed:
    """Sign a certificate for a broker that clients reach under these names and addresses."""
    alternatives = x509.SubjectAlternativeName([_host(host) for host in hosts])
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder("Reflexarc broker", key, days).add_extension(alternatives, critical=False)
    return _sign(authority, builder, key, ExtendedKeyUsageOID.SERVER_AUTH)


def new_client(authority: Signed, name: str, days: int = CLIENT_DAYS) -> Signed:
    """Sign a certificate for a robot or trainer of that name."""
    key = ec.generate_private_key(ec.SECP256R1())
    return _sign(authority, _builder(name, key, days), key, ExtendedKeyUsageOID.CLIENT_AUTH)


def new_revocations(authority: Signed, revoked: Iterable[x509.RevokedCertificate]) -> bytes:
    """Sign the list of revoked certificates, in PEM. It stays valid as long as the authority.

    Brokers refuse everybody once a list is out of date, so this one is not: it is replaced when somebody is removed.
    """
    now = datetime.now(timezone.utc)
    builder = x509.CertificateRevocationListBuilder(authority.certificate.subject)
    builder = builder.last_update(now - BACKDATED).next_update(authority.certificate.not_valid_after_utc)
    for one in revoked:
        builder = builder.add_revoked_certificate(one)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    # The number must grow from list to list; seconds do.
    builder = builder.add_extension(issuer, critical=False)
    builder = builder.add_extension(x509.CRLNumber(int(now.timestamp())), critical=False)
    return builder.sign(authority.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def revoked(certificate_pem: bytes) -> x509.RevokedCertificate:
    """Return the entry by which a list revokes this certificate from now on."""
    serial = x509.load_pem_x509_certificate(certificate_pem).serial_number
    entry = x509.RevokedCertificateBuilder().serial_number(serial)
    return entry.revocation_date(datetime.now(timezone.utc)).build()


def revoked_in(list_pem: bytes) -> list[x509.RevokedCertificate]:
    """Return the entries of a list of revoked certificates."""
    return list(x509.load_pem_x509_crl(list_pem))


def hosts_of(certificate_pem: bytes) -> list[str]:
    """Return the names and addresses that a broker's certificate is for."""
    extensions = x509.load_pem_x509_certificate(certificate_pem).extensions
    alternatives = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [
        *alternatives.get_values_for_type(x509.DNSName),
        *(str(address) for address in alternatives.get_values_for_type(x509.IPAddress)),
    ]


def last_day(certificate_pem: bytes) -> str:
    """Return until when a certificate is valid, as 2027-12-31."""
    return x509.load_pem_x509_certificate(certificate_pem).not_valid_after_utc.date().isoformat()


def _builder(name: str, key: ec.EllipticCurvePrivateKey, days: int) -> x509.CertificateBuilder:
    # A certificate that is to be expired from the start, for tests, must still begin before it ends.
    begin = datetime.now(timezone.utc) - BACKDATED + min(timedelta(days=days), timedelta(0))
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(datetime.now(timezone.utc) + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _sign(
    authority: Signed, builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey, purpose: x509.ObjectIdentifier
) -> Signed:
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    builder = builder.issuer_name(authority.certificate.subject).add_extension(issuer, critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(digital_signature=True), critical=True)
    # A robot's certificate must not do for a broker: a stolen robot could else play the broker to the others.
    builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    return Signed(certificate=builder.sign(authority.key, hashes.SHA256()), key=key)


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
