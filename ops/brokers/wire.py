"""Is a broker serving? One Metadata request over a plain socket: works beside a running event loop and needs no client.

A port that is open says little: Kafka listens before its controller has let the broker in. A Metadata answer lists the
brokers that were let in, so one that names a broker means that topics can be made.
"""

import socket
import struct

_METADATA, _VERSION, _CORRELATION = 3, 4, 1
_NO_TOPICS = 0


def metadata_request() -> bytes:
    """Metadata v4 for no topic at all, creating none (https://kafka.apache.org/protocol: request header v1)."""
    client = b"mailvet"
    body = struct.pack(f">hhih{len(client)}si?", _METADATA, _VERSION, _CORRELATION, len(client), client, 0, False)
    return struct.pack(">i", len(body)) + body


def brokers_in(response: bytes) -> int:
    """How many brokers a Metadata v4 response (without its length) names: correlation id, throttle time, array."""
    if len(response) < 12:
        return 0
    correlation, _throttle, brokers = struct.unpack_from(">iii", response)
    return max(0, brokers) if correlation == _CORRELATION else 0


def _read_exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = connection.recv(size - len(data))
        if not chunk:
            raise ConnectionError("the broker closed the connection")
        data += chunk
    return data


def serves(port: int, *, timeout: float = 1.0) -> bool:
    """Whether a broker on ``127.0.0.1:port`` answers within `timeout` seconds and has been let into its cluster."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
            connection.sendall(metadata_request())
            (size,) = struct.unpack(">i", _read_exactly(connection, 4))
            return brokers_in(_read_exactly(connection, size)) > 0
    except OSError:
        return False
