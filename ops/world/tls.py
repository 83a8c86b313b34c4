"""TLS for a server without handing over its transport: bytes in, plain text and bytes to send out (RFC 3207)."""

import contextlib
import datetime
import ipaddress
import os
import ssl
import tempfile

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_READ_SIZE = 64 * 1024


class TlsLayer:
    """The server's end of one TLS connection; every method may leave bytes to be sent in what it returns."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._ready = False

    def receive(self, data: bytes) -> tuple[bytes, bytes]:
        """What the client said in plain text, and what has to be sent for TLS itself. Raises ssl.SSLError."""
        self._incoming.write(data)
        plain = b""
        if self._shakes_hands():
            plain = self._read()
        return plain, self._outgoing.read()

    def send(self, plain: bytes) -> bytes:
        """The bytes that carry a plain text."""
        self._object.write(plain)
        return self._outgoing.read()

    def close(self) -> bytes:
        """The bytes that end TLS in order, so that the end is no truncation."""
        with contextlib.suppress(ssl.SSLError):  # the client's own close_notify is not waited for
            self._object.unwrap()
        return self._outgoing.read()

    def _shakes_hands(self) -> bool:
        if not self._ready:
            try:
                self._object.do_handshake()
            except ssl.SSLWantReadError:
                return False
            self._ready = True
        return True

    def _read(self) -> bytes:
        pieces = []
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            while piece := self._object.read(_READ_SIZE):
                pieces.append(piece)
        return b"".join(pieces)


def self_signed_context(name: str) -> ssl.SSLContext:
    """A server context with a fresh self-signed certificate; its key exists in memory and, for a moment, in a file."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _load(context, b"".join(self_signed(name)))
    return context


def self_signed(name: str) -> tuple[bytes, bytes]:
    """A fresh key and a certificate that it signed itself, in PEM, for a host of this name or address."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([_general_name(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return pem, certificate.public_bytes(serialization.Encoding.PEM)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _load(context: ssl.SSLContext, pem: bytes) -> None:
    # ssl reads certificates from files only; mkstemp's are readable by nobody else.
    descriptor, path = tempfile.mkstemp(suffix=".pem")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
        context.load_cert_chain(path)
    finally:
        os.unlink(path)
