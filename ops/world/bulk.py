"""Domains and addresses for load, by rule and not by table: ``user...`` exists, everybody else does not."""

from collections.abc import Iterator

from ops.world.config import WorldConfig
from ops.world.personality import HostRow, Personality, Sample
from schemas.vocabulary import Reason


def bulk_domain(number: int) -> str:
    """The name of a bulk domain; numbers start at 1."""
    return f"d{number:04}.bulk.mailvet.test"


def bulk_personalities(config: WorldConfig) -> Iterator[Personality]:
    """One row a bulk host, the domains dealt out among them in turn."""
    for host in range(1, min(config.bulk_hosts, config.bulk_domains) + 1):
        yield Personality(
            name=f"bulk{host}",
            does="one of the hosts that share the bulk domains",
            domains=tuple(bulk_domain(n) for n in range(host, config.bulk_domains + 1, config.bulk_hosts)),
            hosts=(HostRow(name=f"mx.bulk{host}.test", manners=config.bulk_manners),),
        )


def bulk_addresses(domains: int, count: int, missing: float) -> Iterator[Sample]:
    """``count`` addresses, dealt out among the domains in turn; a share of ``missing`` (0 to 1) does not exist.

    The missing ones are spread evenly over each domain, and the same arguments give the same addresses.
    """
    for index in range(count):
        place, domain = divmod(index, domains)
        absent = int((place + 1) * missing) > int(place * missing)
        local, reason = (
            (f"nobody{place}", Reason.MAILBOX_NOT_FOUND) if absent else (f"user{place}", Reason.MAILBOX_ACCEPTED)
        )
        yield Sample(f"{local}@{bulk_domain(domain + 1)}", "bulk", reason, reason)
