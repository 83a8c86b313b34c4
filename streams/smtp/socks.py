"""What a SOCKS5 proxy that does not lead to a host says of the host, and what of itself; both pools share it.

python-socks shakes hands on a connection that was opened for it. A reply code of the proxy (RFC 1928 section 6) speaks
of the host; all else that goes wrong (nobody listens, credentials that are not taken, another protocol) of the proxy.
"""

import os
import socket
from typing import Any

from python_socks import ProxyError, ProxyTimeoutError

from streams.smtp.errors import DialFailure, SMTPError, is_local


class NoPassage(SMTPError, ConnectionError):
    """A proxy did not lead to the host; never repeats the proxy's address or credentials."""

    def __init__(self, failure: DialFailure, detail: str, *, local: bool = False, way_failed: bool = False) -> None:
        super().__init__(detail)
        self.failure = failure
        self.detail = detail
        self.local = local or way_failed
        self.way_failed = way_failed


def unconnected(error: OSError) -> NoPassage:
    """The proxy can't be reached."""
    if isinstance(error, TimeoutError):
        return NoPassage(DialFailure.TIMEOUT, "the proxy does not answer", way_failed=True)
    # asyncio writes the address into the words of its errors.
    words = error.strerror
    if error.errno and not isinstance(error, socket.gaierror):
        words = os.strerror(error.errno)
    return _own(error, f"the proxy can't be reached: {words or type(error).__name__}")


def unpassed(error: Exception) -> NoPassage:
    """The proxy was reached, and led nowhere."""
    if isinstance(error, ProxyTimeoutError):
        return NoPassage(DialFailure.TIMEOUT, "the proxy did not reach the host in time")
    if isinstance(error, ProxyError) and error.error_code is not None:
        return NoPassage(DialFailure.CONNECT, f"the proxy did not reach the host: {error}")
    if isinstance(error, ProxyError):
        return NoPassage(DialFailure.CONNECT, f"the proxy would not have us: {error}", way_failed=True)
    return _own(error, f"the proxy broke off: {type(error).__name__}")


def _own(error: Exception, detail: str) -> NoPassage:
    local = is_local(error)
    return NoPassage(DialFailure.CONNECT, detail, local=local, way_failed=not local)


class Opened:
    """Stands where python-socks expects a proxy before its own: the connection is open already."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def connect(self, **_: Any) -> socket.socket:
        """The connection to the proxy."""
        return self._sock
