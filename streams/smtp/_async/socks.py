"""Through a SOCKS5 proxy by python-socks; ``_sync/socks.py`` is the synchronous twin."""

import asyncio
import socket
from typing import Any

from python_socks import ProxyType
from python_socks.async_.asyncio import Proxy as Passage

from streams.smtp.hosts import Host
from streams.smtp.socks import Opened, unconnected, unpassed
from streams.smtp.ways import Proxy


class _Opened(Opened):
    async def connect(self, **_: Any) -> socket.socket:  # type: ignore[override]
        return self._sock


async def pass_through(proxy: Proxy, host: Host, step_timeout_s: float) -> socket.socket:
    """A connection to the address of ``host``, which the proxy is told as it stands: it looks up no name.

    ``step_timeout_s`` bounds the way to the proxy, and again the proxy's way to the host.

    :raises NoPassage: nothing is left open.
    """
    try:
        async with asyncio.timeout(step_timeout_s):
            sock = await _connect(proxy)
    except OSError as error:
        raise unconnected(error) from error
    passage = Passage(
        ProxyType.SOCKS5,
        proxy.host,
        proxy.port,
        proxy.username or None,
        proxy.password or None,
        forward=_Opened(sock),  # type: ignore[arg-type]
    )
    try:
        return await passage.connect(host.address, host.port, timeout=step_timeout_s)
    except Exception as error:
        raise unpassed(error) from error


async def _connect(proxy: Proxy) -> socket.socket:
    loop = asyncio.get_running_loop()
    failed: OSError = OSError("the proxy's name has no address")
    for family, kind, protocol, _, address in await loop.getaddrinfo(proxy.host, proxy.port, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            await loop.sock_connect(sock, address)
        except OSError as error:
            sock.close()
            failed = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failed
