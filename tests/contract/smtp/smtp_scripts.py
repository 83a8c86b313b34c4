"""A mail server in a few lines, for one test: says what it is told to say, and remembers what it heard."""

import asyncio
import datetime
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from streams.smtp.hosts import Host

EHLO = b"250-mx.test\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250 SMTPUTF8\r\n"
Respond = Callable[[str], bytes | Awaitable[bytes | None] | None]
"""A command to the bytes that answer it; None: the server's default; empty: silence; b"!" at the end: then close."""


@dataclass
class MailServer:
    """On a loopback port. ``respond`` overrides; what it leaves (None) is answered as a friendly server would."""

    respond: Respond = lambda command: None
    banner: bytes = b"220 mx.test ESMTP\r\n"
    ehlo: bytes = EHLO
    tls: ssl.SSLContext | None = None
    trickle: bool = False
    """Every byte is a write of its own."""
    heard: list[str] = field(default_factory=list)
    reads: list[bytes] = field(default_factory=list)
    peers: list[str] = field(default_factory=list)
    connections: int = 0
    gone: int = 0
    address: str = "127.0.0.1"
    port: int = 0
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    @property
    def host(self) -> Host:
        return Host("mx.test", self.address, self.port)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, self.address, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self._server.close()
        for writer in self.writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.peers.append(writer.get_extra_info("peername")[0])
        self.writers.append(writer)
        try:
            if await self._say(writer, self.banner):
                await self._converse(reader, writer)
        except (ConnectionError, ssl.SSLError):
            pass
        finally:
            self.gone += 1
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        rest = b""
        while data := await reader.read(65536):
            self.reads.append(data)
            *lines, rest = (rest + data).split(b"\r\n")
            for line in lines:
                command = line.decode()
                command = command[:4].upper() + command[4:]  # smtplib whispers
                self.heard.append(command)
                answer = await self._answer(command)
                if not await self._say(writer, answer):
                    return
                if command.upper() == "STARTTLS" and answer.startswith(b"220"):
                    await self._shake_hands(reader, writer)

    async def _shake_hands(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Without TLS of its own it hangs until the client goes: a ClientHello is random, and may hold a CRLF."""
        if self.tls is not None:
            await writer.start_tls(self.tls)
            return
        while await reader.read(65536):
            pass

    async def _answer(self, command: str) -> bytes:
        answer = self.respond(command)
        if isinstance(answer, Awaitable):
            answer = await answer
        if answer is not None:
            return answer
        verb = command[:4]
        if verb == "EHLO":
            return self.ehlo
        return {"STAR": b"220 go\r\n", "QUIT": b"221 bye\r\n!"}.get(verb, b"250 2.0.0 ok\r\n")

    async def _say(self, writer: asyncio.StreamWriter, text: bytes) -> bool:
        """False when that was the last word."""
        words = text.removesuffix(b"!")
        for piece in (bytes([byte]) for byte in words) if self.trickle else (words,):
            writer.write(piece)
            await writer.drain()
            if self.trickle:
                await asyncio.sleep(0)
        return not text.endswith(b"!")


def certificate(folder: Path) -> ssl.SSLContext:
    """A server's TLS with a certificate that nobody has reason to trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mx.test")])
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now - day, now + day)
    pem = folder / "mx.pem"
    pem.write_bytes(
        builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context
