"""The lists that are verified: who exists is told by the local part, who serves a domain by its name.

Domains are new in each pass, so that no cache of a client helps it but within the pass; providers are the same.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

EXISTS = "user"
"""Locals of it and a number exist, all others do not."""

LATER = "later"
"""But these, which are told to come later the first time (greylisting), and exist from then on."""

ZONE = "bench.test"
PASS_SIZE = 2000


@dataclass(frozen=True, slots=True)
class Domain:
    """One mail domain of a list: the number of its provider, and how many addresses it has, of which how many exist."""

    provider: int
    size: int
    missing: int


@dataclass(frozen=True, slots=True)
class BenchList:
    """What one pass holds. ``miss_ratio`` is the part of all addresses that does not exist."""

    name: str
    does: str
    domains: tuple[Domain, ...]

    @property
    def providers(self) -> int:
        """How many servers it needs."""
        return len({domain.provider for domain in self.domains})

    @property
    def size(self) -> int:
        """Addresses of one pass."""
        return sum(domain.size for domain in self.domains)

    @property
    def miss_ratio(self) -> float:
        """0 to 1."""
        return sum(domain.missing for domain in self.domains) / self.size

    def one_pass(self, number: int) -> list[str]:
        """The addresses of the pass ``number``, in an order that tells nothing; the same each time."""
        addresses = [
            address for n, domain in enumerate(self.domains) for address in _addresses(domain, f"p{number}d{n}")
        ]
        random.Random(number).shuffle(addresses)
        return addresses

    def passes(self, first: int, count: int) -> list[str]:
        """So many passes, one after the other."""
        return [address for number in range(first, first + count) for address in self.one_pass(number)]


def exists(address: str) -> bool:
    """Whether the sink will accept ``address``, which is one of these lists'."""
    return address.startswith(EXISTS)


def mail_domain(label: str, provider: int) -> str:
    """A domain that the provider of that number serves."""
    return f"{label}.h{provider}.{ZONE}"


def exchanger(provider: int) -> str:
    """The name of a provider's host; each has a registrable domain of its own, and so is a provider of its own."""
    return f"mx.h{provider}-{ZONE}"


def host_address(provider: int) -> str:
    """Where that host listens."""
    return f"127.88.{provider // 250}.{provider % 250 + 1}"


def _addresses(domain: Domain, label: str) -> Iterator[str]:
    name = mail_domain(label, domain.provider)
    for index in range(domain.size):
        yield f"{'gone' if index < domain.missing else EXISTS}{index}@{name}"


def _even(providers: int, size: int, missing: int) -> tuple[Domain, ...]:
    return tuple(Domain(provider, size, missing) for provider in range(providers))


def _zipf(providers: int, size: int, seed: int = 1) -> tuple[Domain, ...]:
    """Domains whose providers are drawn by Zipf's law; every third domain has one address, the others 2 to 20."""
    dice = random.Random(seed)
    weights = [1 / rank for rank in range(1, providers + 1)]
    domains: list[Domain] = []
    left = size
    while left:
        count = min(left, 1 if len(domains) % 3 == 0 else dice.randint(2, 20))
        [provider] = dice.choices(range(providers), weights)
        missing = sum(dice.random() < 0.5 for _ in range(count))
        domains.append(Domain(provider, count, missing))
        left -= count
    return tuple(domains)


LISTS = {
    row.name: row
    for row in (
        BenchList("A", "100 domains x 20 addresses, half missing", _even(100, 20, 10)),
        BenchList("B", "5 domains x 400 addresses, half missing", _even(5, 400, 200)),
        BenchList("S", "5 domains x 400 addresses, 5 % missing", _even(5, 400, 20)),
        BenchList("Z", "100 providers by Zipf's law, a third of domains with one address", _zipf(100, PASS_SIZE)),
    )
}
"""By name; each has 2,000 addresses a pass."""

PROVIDERS = max(row.providers for row in LISTS.values())
