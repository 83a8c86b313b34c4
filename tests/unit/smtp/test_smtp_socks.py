"""What a proxy that leads nowhere says of itself, and what of the host."""

import errno

import pytest
from python_socks import ProxyError, ProxyTimeoutError

from streams.smtp.errors import DialFailure
from streams.smtp.socks import unconnected, unpassed


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
