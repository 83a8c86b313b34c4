"""Through a SOCKS5 proxy by python-socks; ``_async/socks.py`` is the asynchronous twin."""

import socket
from collections.abc import Callable

from python_socks import ProxyType
from python_socks.sync import Proxy as Passage

from streams.smtp.hosts import Host
from streams.smtp.socks import Opened, unconnected, unpassed
from streams.smtp.ways import Proxy


def pass_through(
    proxy: Proxy, host: Host, step_timeout_s: float, on_open: Callable[[socket.socket], None]
) -> socket.socket:
    """A connection to the address of ``host``, which the proxy is told as it stands: it looks up no name.

    ``step_timeout_s`` bounds the way to the proxy and each of its answers; ``on_open`` is given the socket as soon as
    there is one, so that it can be cut from outside.

    :raises NoPassage: nothing is left open.
    """
    try:
        sock = socket.create_connection((proxy.host, proxy.port), step_timeout_s)
    except OSError as error:
        raise unconnected(error) from error
    on_open(sock)
    passage = Passage(
        ProxyType.SOCKS5,
        proxy.host,
        proxy.port,
        proxy.username or None,
        proxy.password or None,
        forward=Opened(sock),  # type: ignore[arg-type]
    )
    try:
        return passage.connect(host.address, host.port, timeout=step_timeout_s)
    except Exception as error:
        raise unpassed(error) from error
