"""What servers and networks do to a client, as scripts for a :class:`MailServer`; ``heal`` ends it."""

from collections.abc import Callable
from dataclasses import dataclass

from schemas.vocabulary import Reason
from tests.contract.smtp.smtp_scripts import EHLO, MailServer

TLS_EHLO = b"250-mx.test\r\n250-PIPELINING\r\n250 STARTTLS\r\n"
INSISTS = b"530 5.7.0 Must issue a STARTTLS command first\r\n"
NO = b"550 5.1.1 no such user\r\n"


def honest(command: str) -> bytes | None:
    """A server that tells the truth: ``user...`` exists, nobody else does."""
    return NO if command.startswith("RCPT") and "<user" not in command else None


def at_rcpt(answer: bytes) -> Callable[[str], bytes | None]:
    """Every RCPT is answered so."""
    return lambda command: answer if command.startswith("RCPT") else None


@dataclass(frozen=True)
class Fault:
    """``apply`` makes a server behave so; ``reason``: what the core must call it, None where it does no harm."""

    name: str
    apply: Callable[[MailServer], None]
    reason: Reason | None


def _set(**fields: object) -> Callable[[MailServer], None]:
    def apply(server: MailServer) -> None:
        for name, value in fields.items():
            setattr(server, name, value)

    return apply


FAULTS = (
    Fault("banner never comes", _set(banner=b""), Reason.TIMEOUT),
    Fault("half-open TCP: nothing comes back any more", _set(respond=lambda command: b""), Reason.TIMEOUT),
    Fault("RCPT is never answered", _set(respond=at_rcpt(b"")), Reason.TIMEOUT),
    Fault("reply in one-byte pieces", _set(trickle=True), None),
    Fault("100 KB reply line", _set(respond=at_rcpt(b"250 " + b"x" * 100_000 + b"\r\n")), Reason.PROTOCOL_ERROR),
    Fault("replies nobody asked for", _set(respond=at_rcpt(b"250 fine\r\n250 and more\r\n")), Reason.PROTOCOL_ERROR),
    Fault("closed in mid-batch", _set(respond=at_rcpt(b"!")), Reason.PROTOCOL_ERROR),
    Fault(
        "TLS handshake that hangs",
        _set(ehlo=TLS_EHLO, respond=lambda c: INSISTS if c[:4] in ("MAIL", "RCPT") else None),
        Reason.TIMEOUT,
    ),
)


def heal(server: MailServer) -> None:
    """From now on an honest server."""
    _set(banner=b"220 mx.test ESMTP\r\n", ehlo=EHLO, respond=honest, trickle=False)(server)
