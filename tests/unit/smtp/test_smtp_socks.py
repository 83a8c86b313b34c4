"""What a proxy that leads nowhere says of itself, and what of the host."""

import asyncio
import errno
import socket

import pytest
from python_socks import ProxyError, ProxyTimeoutError

from streams.smtp._async import socks as async_socks
from streams.smtp.errors import DialFailure
from streams.smtp.socks import NoPassage, unconnected, unpassed
from streams.smtp.ways import Proxy
from tests.unit.smtp.fakes import HOSTS, run


@pytest.mark.parametrize(
    ("error", "failure", "local", "way_failed"),
    [
        (TimeoutError(), DialFailure.TIMEOUT, True, True),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), DialFailure.CONNECT, True, True),
        (OSError("the proxy's name has no address"), DialFailure.CONNECT, True, True),
        (OSError(errno.EMFILE, "too many"), DialFailure.CONNECT, True, False),
    ],
)
def test_a_proxy_that_can_not_be_reached(error, failure, local, way_failed):
    found = unconnected(error)
    assert (found.failure, found.local, found.way_failed) == (failure, local, way_failed)


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        # As asyncio raises it.
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('192.0.2.9', 1080)"), "Connection refused"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "Name or service not known"),
        (OSError("192.0.2.9 has no address"), "OSError"),
    ],
)
def test_the_address_of_a_proxy_is_nobody_elses_business(error, detail):
    assert unconnected(error).detail == f"the proxy can't be reached: {detail}"


@pytest.mark.parametrize(
    ("error", "failure", "way_failed"),
    [
        (ProxyTimeoutError("60"), DialFailure.TIMEOUT, False),
        (ProxyError("Host unreachable", error_code=4), DialFailure.CONNECT, False),
        (ProxyError("Username and password authentication failure"), DialFailure.CONNECT, True),
        (ConnectionResetError(errno.ECONNRESET, "reset"), DialFailure.CONNECT, True),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "what"), DialFailure.CONNECT, True),
    ],
)
def test_a_proxy_that_leads_nowhere(error, failure, way_failed):
    found = unpassed(error)
    assert (found.failure, found.way_failed) == (failure, way_failed)
    assert found.detail


class Socket:
    """Knows whether it was closed."""

    closed = False

    def __init__(self, *_: object) -> None:
        made.append(self)

    def setblocking(self, flag: bool) -> None:
        assert not flag

    def close(self) -> None:
        self.closed = True


made: list[Socket] = []


@pytest.mark.parametrize(
    ("outcomes", "failure"),
    [([ConnectionRefusedError(), None], None), ([None], DialFailure.TIMEOUT), ([], DialFailure.CONNECT)],
)
def test_every_address_of_the_proxy_is_tried_and_nothing_is_left_open(monkeypatch, outcomes, failure):
    """``None`` is silence: the time runs out, which is a cancellation from inside."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        left = list(outcomes)

        async def addresses(*_: object, **__: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
            return [(2, 1, 6, "", ("127.0.0.1", 1080))] * len(outcomes)

        async def connect(*_: object) -> None:
            if (error := left.pop(0)) is not None:
                raise error
            await asyncio.sleep(60)

        monkeypatch.setattr(loop, "getaddrinfo", addresses)
        monkeypatch.setattr(loop, "sock_connect", connect)
        monkeypatch.setattr(async_socks.socket, "socket", Socket)
        with pytest.raises(NoPassage) as failed:
            await async_socks.pass_through(Proxy("proxy.test"), HOSTS[0], 5.0)
        assert failed.value.failure is (failure or DialFailure.TIMEOUT)
        assert failed.value.way_failed
        assert len(made) == len(outcomes)
        assert all(each.closed for each in made)

    made.clear()
    run(main())
