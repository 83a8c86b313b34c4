"""The world: starts and stops everything, and says where it is."""

import errno
import ssl
from collections.abc import Iterator
from types import TracebackType

from ops.world.bulk import bulk_addresses, bulk_personalities
from ops.world.catalogue import CATALOGUE
from ops.world.catalogue import samples as samples_of
from ops.world.config import NETWORK, WorldConfig
from ops.world.dns_server import DnsServer
from ops.world.greylist import Greylist
from ops.world.personality import HostRow, Mailboxes, Personality, Records, Sample
from ops.world.smtp_server import SmtpHost
from ops.world.stats import WorldStats
from ops.world.tls import self_signed_context
from ops.world.transaction import Site
from ops.world.zone import Zone

FREE_PORT_TRIES = 20
HOSTS_PER_OCTET = 250


class PortTakenError(OSError):
    """A port that the world was told to use belongs to somebody else."""


class World:
    """DNS and SMTP servers on loopback, from ``async with`` to its end.

    Raises :class:`PortTakenError` on entering where a configured port is taken. ``catalogue`` replaces the default
    personalities; bulk personalities are added as the configuration says.
    """

    def __init__(self, config: WorldConfig | None = None, catalogue: tuple[Personality, ...] = CATALOGUE) -> None:
        self.config = config or WorldConfig()
        self.catalogue = (*catalogue, *bulk_personalities(self.config))
        self.network = NETWORK
        self.stats = WorldStats()
        self.addresses: dict[str, str] = {}
        self._hosts: dict[str, SmtpHost] = {}
        self._build_hosts(self_signed_context("mx.mailvet.test"))
        self._dns = DnsServer(self._zone(), self.config, self.stats.dns)

    async def __aenter__(self) -> "World":
        try:
            if self.config.dns:
                await self._start_dns(self.config.dns_port)
            await self._start_hosts()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Stop everything; doing it twice does no harm."""
        await self._dns.stop()
        for host in self._hosts.values():
            await host.stop()

    @property
    def resolver(self) -> str:
        """The DNS server's ``HOST:PORT``."""
        return f"{self._dns.address}:{self._dns.port}"

    @property
    def smtp_port(self) -> int:
        """The one port of all SMTP hosts."""
        return max((host.port for host in self._hosts.values()), default=self.config.smtp_port)

    @property
    def host_names(self) -> tuple[str, ...]:
        """The hosts that can be stopped, started and frozen; ``addresses`` has their addresses."""
        return tuple(self._hosts)

    def samples(self) -> tuple[Sample, ...]:
        """Addresses with the verdicts that a right verifier gives."""
        return samples_of(self.catalogue)

    def bulk_addresses(self, count: int, missing: float = 0.5) -> Iterator[Sample]:
        """Addresses of the bulk domains, of which a share of ``missing`` (0 to 1) does not exist."""
        if self.config.bulk_domains < 1:
            raise ValueError("this world has no bulk domains: set WorldConfig.bulk_domains")
        return bulk_addresses(self.config.bulk_domains, count, missing)

    # Outages

    async def stop_host(self, name: str) -> None:
        """Nobody listens there any more, and open connections are cut."""
        await self._hosts[name].stop()

    async def start_host(self, name: str) -> None:
        """Listen again where the host was stopped."""
        await self._hosts[name].start(self.smtp_port)

    def freeze_host(self, name: str, frozen: bool = True) -> None:
        """Connections stay open and nothing is answered any more, as behind a network that lost its way back."""
        self._hosts[name].frozen = frozen

    def set_rtt(self, seconds: float, host: str | None = None) -> None:
        """Change the round-trip time of one host's new connections, or of everything."""
        for server in self._hosts.values() if host is None else (self._hosts[host],):
            server.rtt_s = seconds
        if host is None:
            self._dns.rtt_s = seconds

    async def stop_dns(self) -> None:
        """Nobody answers DNS any more."""
        await self._dns.stop()

    async def start_dns(self) -> None:
        """Answer DNS again, on the port that it had."""
        await self._start_dns(self._dns.port)

    # Building and starting

    def _build_hosts(self, tls: ssl.SSLContext) -> None:
        for personality in self.catalogue:
            domains = dict.fromkeys(personality.all_domains, personality.mailboxes)
            for row in personality.all_hosts:
                second, third = divmod(len(self.addresses), HOSTS_PER_OCTET)
                self.addresses[row.name] = f"127.77.{second}.{third + 1}"
                if row.listens:
                    self._hosts[row.name] = SmtpHost(self._site(row, domains), self.addresses[row.name], tls)

    def _site(self, row: HostRow, domains: dict[str, Mailboxes]) -> Site:
        greylist = Greylist(self.config.greylist_s)
        return Site(row.name, row.manners, domains, greylist, self.config, self.stats, self.stats.host(row.name))

    def _zone(self) -> Zone:
        names: dict[str, Records] = {}
        for personality in self.catalogue:
            names.update(personality.records())
        return Zone(names, self.addresses, self.config.dns_ttl_s)

    async def _start_dns(self, port: int) -> None:
        try:
            await self._dns.start(port)
        except OSError as error:
            raise _explained(error, "DNS", self._dns.address, port) from error

    async def _start_hosts(self) -> None:
        """All on one port. A free port of the first host may be taken at another one's address: then anew."""
        for attempt in range(FREE_PORT_TRIES):
            port = self.config.smtp_port
            for host in self._hosts.values():
                try:
                    await host.start(port)
                except OSError as error:
                    if self.config.smtp_port or error.errno != errno.EADDRINUSE or attempt == FREE_PORT_TRIES - 1:
                        raise _explained(error, "SMTP", host.address, port) from error
                    break
                port = host.port
            else:
                return
            for host in self._hosts.values():
                await host.stop()


def _explained(error: OSError, what: str, address: str, port: int) -> OSError:
    if error.errno == errno.EADDRINUSE:
        return PortTakenError(f"{what} port {port} at {address} is taken: stop what listens there, or choose another")
    return OSError(error.errno, f"{what} can't listen at {address}:{port}: {error.strerror}")
