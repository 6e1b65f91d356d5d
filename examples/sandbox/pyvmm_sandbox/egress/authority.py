"""The private certificate authority of one sandbox, for the hosts that get its secrets and no others."""

from __future__ import annotations

import datetime
import os
import ssl
from collections.abc import Iterable

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_YEARS = 10
_DAYS = 825
"""Of a server's certificate: some clients refuse more."""
_KEPT_MOST = 256
_Extension = tuple[x509.ExtensionType, bool]


class Authority:
    """Makes certificates.  Its key is in the memory of this process alone.

    :param names: of hosts, and ``*.NAME``, that it may speak for (RFC 5280, 4.2.1.10)
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pyvmm sandbox")])
        own = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        usage = _usage(digital_signature=False, key_cert_sign=True, crl_sign=True)
        permitted = [x509.DNSName(name.removeprefix("*.")) for name in sorted(set(names))]
        self._certificate = self._sign(
            self._name,
            self._key,
            365 * _YEARS,
            (x509.BasicConstraints(ca=True, path_length=0), True),
            (usage, True),
            (own, False),
            (x509.NameConstraints(permitted, None), True),
        )
        self._issuer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._fd = os.memfd_create("certificate", os.MFD_CLOEXEC)
        self._path = f"/proc/self/fd/{self._fd}"

    def certificate(self) -> bytes:
        """Its own, in PEM."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def context(self, name: str) -> ssl.SSLContext:
        """For a server with this name.  A client that names another server is refused."""
        if name not in self._contexts:
            if len(self._contexts) >= _KEPT_MOST:
                self._contexts.pop(next(iter(self._contexts)))
            self._contexts[name] = self._make_context(name)
        return self._contexts[name]

    def _make_context(self, name: str) -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(
            x509.Name([]),
            key,
            _DAYS,
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (x509.SubjectAlternativeName([x509.DNSName(name)]), True),
            (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
            (_usage(digital_signature=True, key_cert_sign=False, crl_sign=False), True),
            (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
            (self._issuer, False),
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["http/1.1"])
        context.sni_callback = lambda _object, wanted, _context: (
            None if (wanted or "").lower() == name else ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        )
        private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        pem = key.private_bytes(serialization.Encoding.PEM, *private)
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, pem + certificate.public_bytes(serialization.Encoding.PEM), 0)
        context.load_cert_chain(self._path)  # the module reads files only
        os.ftruncate(self._fd, 0)
        return context

    def use_file(self, fd: int, path: str) -> None:
        """Write keys there before they are loaded, and not into an unnamed file of :file:`/proc`.

        :param fd: a descriptor for writing it
        """
        os.close(self._fd)
        self._fd, self._path = fd, path

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, days: int, *extensions: _Extension
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=days))
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self._key, hashes.SHA256())


def trust() -> ssl.SSLContext:
    """For connections to the real servers: the authorities that the host trusts."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _usage(*, digital_signature: bool, key_cert_sign: bool, crl_sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )
