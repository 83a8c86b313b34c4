"""The seam to the network over a blocking socket; ``_async/link.py`` is its asynchronous twin."""

import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from streams.smtp.exchange import Capabilities

_READ = 64 * 1024
_WRITE_S = 30.0
"""How long a write may wait for room in the socket; ours are a few kilobytes."""


class Link(Protocol):
    """What a connection needs of the network."""

    capabilities: Capabilities

    def watch(self, on_activity: Callable[[], None]) -> None:
        """Call back when bytes or the end come while nobody reads, where that can be noticed."""

    def write(self, data: bytes) -> None:
        """Send all of ``data``; a lost connection is told by :meth:`read`."""

    def read(self, timeout: float) -> bytes:
        """What has come, or the next that comes within ``timeout`` seconds; empty when the server has closed.

        :raises TimeoutError: nothing came.
        """

    def unread(self) -> bytes | None:
        """What has come while nobody read; empty when the server has closed; None: nothing. Never waits."""

    def start_tls(self, timeout: float) -> None:
        """STARTTLS, the handshake and EHLO once more; ``capabilities`` are new then.

        :raises DialFailed: it did not work; the connection is of no use any more.
        """

    def cut(self) -> None:
        """End the connection at once, from any thread; whoever reads finds the end."""

    def close(self, farewell: bytes = b"") -> None:
        """Send ``farewell``, wait for nothing, close. May be called again."""


class SocketLink:
    """The half of a :class:`Link` that every socket shares; its dialler adds STARTTLS."""

    __slots__ = ("_broken", "_socket")

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._broken = False

    def watch(self, on_activity: Callable[[], None]) -> None:
        """A blocking socket tells nothing by itself: it is looked at when it is to be used again."""

    def write(self, data: bytes) -> None:
        self._socket.settimeout(_WRITE_S)
        try:
            self._socket.sendall(data)
        except OSError:
            self._broken = True

    def read(self, timeout: float) -> bytes:
        if self._broken:
            return b""
        self._socket.settimeout(max(timeout, 0.001))  # zero would mean "don't block"
        try:
            return self._socket.recv(_READ)
        except TimeoutError:
            raise
        except OSError:
            return b""

    def unread(self) -> bytes | None:
        try:
            self._socket.settimeout(0)
            return self._socket.recv(_READ)
        except (BlockingIOError, ssl.SSLWantReadError):
            return None
        except OSError:
            return b""

    def cut(self) -> None:
        with suppress(OSError):
            # SSLSocket's own would take the TLS state from under the thread that reads
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self, farewell: bytes = b"") -> None:
        with suppress(OSError):
            if farewell:
                self._socket.settimeout(0)
                self._socket.send(farewell)
        self._socket.close()
