"""How our clients prove who they are to Kafka, and how they know the broker: TLS and SASL for every client we use."""

import ssl
from pathlib import Path
from typing import Any

import faust
from aiokafka.helpers import create_ssl_context

from streams.settings import Settings

MAX_PASSWORD_FILE = 4096


class SecurityError(Exception):
    """A file that the settings name can't be used; the sentence says which, and nothing of what stands in it."""


def aiokafka_security(settings: Settings) -> dict[str, Any]:
    """What aiokafka's clients are given besides the brokers' addresses.

    Raises:
        SecurityError: a file of the settings can't be read, or isn't what it should be.
    """
    options: dict[str, Any] = {"security_protocol": settings.security_protocol}
    if _with_tls(settings):
        options["ssl_context"] = tls_context(settings)
    if _with_password(settings):
        options["sasl_mechanism"] = settings.sasl_mechanism
        options["sasl_plain_username"] = settings.sasl_username
        options["sasl_plain_password"] = password(settings)
    return options


def faust_credentials(settings: Settings) -> "faust.SASLCredentials | faust.SSLCredentials | None":
    """The same for Faust. Raises :class:`SecurityError`."""
    context = tls_context(settings) if _with_tls(settings) else None
    if _with_password(settings):
        return faust.SASLCredentials(
            username=settings.sasl_username,
            password=password(settings),
            mechanism=settings.sasl_mechanism,
            ssl_context=context,
        )
    return None if context is None else faust.SSLCredentials(context)


def tls_context(settings: Settings) -> ssl.SSLContext:
    """Brokers must show a certificate of their name; we show ours if there is one. Raises :class:`SecurityError`."""
    for name in ("ssl_ca_file", "ssl_cert_file", "ssl_key_file"):
        if path := getattr(settings, name):
            _read(name, path)
    key_password = settings.ssl_key_password.get_secret_value()
    try:
        context: ssl.SSLContext = create_ssl_context(
            cafile=settings.ssl_ca_file or None,
            certfile=settings.ssl_cert_file or None,
            keyfile=settings.ssl_key_file or None,
            # Without a password, an encrypted key must not make OpenSSL ask at the terminal.
            password=key_password.encode(),
        )
    except (ssl.SSLError, ValueError, OSError):
        raise SecurityError(
            "KAFKA_SSL_CA_FILE, KAFKA_SSL_CERT_FILE and KAFKA_SSL_KEY_FILE must be PEM files, the key must fit the "
            "certificate, and KAFKA_SSL_KEY_PASSWORD must open it"
        ) from None
    return context


def password(settings: Settings) -> str:
    """The user's password; that of the file counts where both are given. Raises :class:`SecurityError`."""
    if not settings.sasl_password_file:
        return settings.sasl_password.get_secret_value()
    lines = _read("sasl_password_file", settings.sasl_password_file)[:MAX_PASSWORD_FILE].splitlines()
    if not lines or not lines[0].strip():
        raise SecurityError(f"KAFKA_SASL_PASSWORD_FILE: {settings.sasl_password_file} holds no password")
    return lines[0].strip()


def _with_tls(settings: Settings) -> bool:
    return settings.security_protocol in ("SSL", "SASL_SSL")


def _with_password(settings: Settings) -> bool:
    return settings.security_protocol in ("SASL_PLAINTEXT", "SASL_SSL")


def _read(name: str, path: str) -> str:
    try:
        return Path(path).read_text()
    except (OSError, UnicodeError):
        raise SecurityError(f"KAFKA_{name.upper()}: {path} can't be read") from None
