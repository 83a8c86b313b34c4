"""One host, three makers: the world, real Postfix, real Exim. ``user...`` exists at every domain, nobody else does."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ops.mta.exim import Exim
from ops.mta.postfix import Postfix
from ops.mta.server import MailServer
from ops.world import World, WorldConfig
from ops.world.bulk import bulk_domain
from ops.world.manners import Manners, Tls
from streams.smtp.hosts import Host

DOMAINS = 40
WORLD_HOST = "mx.bulk1.test"

LIMITS: Mapping[str, Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "": {"world": {}, "postfix": {}, "exim": {}},
        "5 recipients": {
            "world": {"max_recipients": 5},
            "postfix": {"smtpd_recipient_limit": "5"},
            "exim": {"recipients_max": "5"},
        },
        "2 connections": {
            "world": {"max_connections": 2},
            "postfix": {"smtpd_client_connection_count_limit": "2"},
            "exim": {"smtp_accept_max_per_host": "2"},
        },
        "TLS": {"world": {"tls": Tls.REQUIRED}, "postfix": {}, "exim": {}},
    }
)
"""The same limit in each one's words; all else is its default."""


@dataclass
class MailHost:
    """A running host; ``restart`` cuts every connection."""

    kind: str
    host: Host
    restart: Callable[[], Awaitable[None]]
    log: Callable[[], str]


def address(number: int, domain: int = 0, *, exists: bool = True) -> str:
    """An address that the host serves."""
    return f"{'user' if exists else 'nobody'}{number}@{bulk_domain(domain % DOMAINS + 1)}"


def real_host(kind: str, limit: str, tls: Path | None) -> MailServer:
    """A real server, not yet started."""
    make = {"postfix": Postfix, "exim": Exim}[kind]
    return make(settings=LIMITS[limit][kind], tls=tls if limit == "TLS" else None)


def world_of(limit: str) -> World:
    """A world whose bulk host has the limit; Exim's count of RSETs too, which the world can keep as well."""
    manners = Manners(**{"nonmail_commands": 10, **LIMITS[limit]["world"]})
    return World(WorldConfig(bulk_domains=DOMAINS, bulk_manners=manners), ())


def of_world(world: World) -> MailHost:
    """The bulk host of a running world."""

    async def restart() -> None:
        await world.stop_host(WORLD_HOST)
        await world.start_host(WORLD_HOST)

    host = Host(WORLD_HOST, world.addresses[WORLD_HOST], world.smtp_port)
    return MailHost("world", host, restart, lambda: str(world.stats.violations))


def of_real(server: MailServer) -> MailHost:
    """The first address of a running server."""

    async def restart() -> None:
        server.stop()
        server.start()

    return MailHost(server.name, Host("mx.real.test", server.addresses[0], server.port), restart, server.log)
