"""What the tests of the roles share: records, a pipeline's values, fakes for whoever would ask the network."""

import asyncio
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, TypeVar

import orjson
from prometheus_client import CollectorRegistry

from schemas.pipeline import Admitted, Ticket
from schemas.request import request_uid
from schemas.vocabulary import Depth, Lane, Stage
from streams.access.credentials import mint
from streams.checks.evidence import Prepared, Probe
from streams.codec import encode
from streams.dns.answers import MailHost, MailRoute, RouteKind
from streams.metrics import Metrics
from streams.records import Incoming, Outgoing
from streams.settings import Settings
from streams.smtp.replies import Reply

NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
NOW_MS = round(NOW.timestamp() * 1000)
KEY = mint("acme", "k1", b"0123456789abcdef")

T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that waits for nobody."""
    return asyncio.run(coroutine)


def settings(**changes: Any) -> Settings:
    """The defaults with a key; nothing of the environment."""
    return Settings.model_construct(**{"dev_key": _secret(KEY), **_defaults(), **changes})


def _secret(text: str) -> Any:
    return Settings(dev_key=text).dev_key


def _defaults() -> dict[str, Any]:
    return {
        name: f.get_default(call_default_factory=True) for name, f in Settings.model_fields.items() if name != "dev_key"
    }


def metrics() -> Metrics:
    """Metrics of a process of its own."""
    return Metrics(CollectorRegistry())


@dataclass
class Clock:
    """Milliseconds that pass only when told."""

    now_ms: int = NOW_MS

    def __call__(self) -> int:
        return self.now_ms


@dataclass
class Log:
    """One partition of a topic: gives records their offsets."""

    topic: str
    partition: int = 0
    records: list[Incoming] = field(default_factory=list)

    def append(self, value: bytes, key: bytes | None = None, headers: Any = (), at_ms: int = NOW_MS) -> Incoming:
        """The record as a reader gets it."""
        record = Incoming(
            self.topic, self.partition, len(self.records), key, value, headers=dict(headers), timestamp_ms=at_ms
        )
        self.records.append(record)
        return record

    def take(self, outgoing: Outgoing, at_ms: int = NOW_MS) -> Incoming:
        """What a role wrote, as the next one reads it."""
        return self.append(outgoing.value, outgoing.key, outgoing.headers, at_ms)


def request_bytes(request_id: str = "r1", addresses: Sequence[str] = ("a@example.com",), **fields: Any) -> bytes:
    """A client's request."""
    return orjson.dumps({"request_id": request_id, "addresses": list(addresses), **fields})


def ticket(total: int, **changes: Any) -> Ticket:
    """The ticket of a request of tenant acme."""
    request_id = changes.pop("request_id", "r1")
    values: dict[str, Any] = {
        "request_uid": request_uid("acme", request_id),
        "request_id": request_id,
        "tenant": "acme",
        "key_id": "k1",
        "total": total,
        "depth": Depth.SMTP,
        "lane": Lane.BULK,
        "charged": total,
        "charged_day": "2026-03-10",
        "admitted_at": NOW,
        "verdict_by": NOW + timedelta(hours=3),
    }
    return Ticket(**{**values, **changes})


def admitted(addresses: Sequence[str], **changes: Any) -> Incoming:
    """The record of ``admitted.<lane>.v1``."""
    value = encode(Admitted(ticket=ticket(len(addresses), **changes), addresses=tuple(addresses)))
    return Log("mailvet.admitted.bulk.v1").append(value)


def mx(domain: str, *hosts: str) -> MailRoute:
    """A route to hosts with addresses of the documentation's network."""
    numbers = count(1)
    found = tuple(MailHost(host, place * 10, (f"192.0.2.{next(numbers)}",)) for place, host in enumerate(hosts))
    return MailRoute(domain, RouteKind.MX, found)


def no_route(domain: str, kind: RouteKind) -> MailRoute:
    """A domain without anybody to ask."""
    return MailRoute(domain, kind)


@dataclass
class FakeResolver:
    """Knows some routes; every other domain is run by mail.example.net."""

    routes: Mapping[str, MailRoute] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    async def route(self, domain: str) -> MailRoute:
        self.asked.append(domain)
        await asyncio.sleep(0)
        return self.routes.get(domain) or mx(domain, "mail.example.net")


OK = Probe(Stage.RCPT, reply=Reply(250, ("2.1.5 Ok",)), catch_all=False)
REFUSED = Probe(Stage.RCPT, reply=Reply(550, ("5.1.1 User unknown",)))
GREYLISTED = Probe(Stage.RCPT, reply=Reply(450, ("4.7.1 Greylisted, try again later",)))


@dataclass
class FakeProber:
    """Answers by the local part before any digits; remembers who asked for what."""

    answers: Mapping[str, Probe] = field(default_factory=dict)
    asked: list[tuple[str, tuple[str, ...], Mapping[str, Any]]] = field(default_factory=list)

    async def ask(self, route: MailRoute, provider: str, prepared: Sequence[Prepared], **how: Any) -> list[Probe]:
        self.asked.append((provider, tuple(each.address for each in prepared), how))
        await asyncio.sleep(0)
        return [self.answers.get(each.local.rstrip("0123456789"), OK)._replace(provider=provider) for each in prepared]


def values(outputs: Iterable[Outgoing], topic: str) -> list[dict[str, Any]]:
    """What was written to one topic, as plain data."""
    return [orjson.loads(output.value) for output in outputs if output.topic == topic]
