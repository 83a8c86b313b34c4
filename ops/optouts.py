"""The do-not-probe list from the operator's side: read from its topic, changed by writing to it."""

from collections.abc import Iterable, Mapping
from contextlib import suppress

from aiokafka.errors import KafkaError
from pydantic import ValidationError

from ops.cli.errors import Unfinished
from ops.cli.kafka import producer
from ops.keys import read_topic
from schemas.optouts import OptOut, OptOutChange
from schemas.topics import OPT_OUTS, physical_name
from streams.codec import encode


async def read_list(bootstrap: str, namespace: str) -> dict[str, OptOut]:
    """Every domain that ever was on the list, by name. What is no entry is passed over, as workers do.

    Raises:
        UserError: no broker, or its topics are missing.
        Unfinished: the list could not be read to its end.
    """
    found: dict[str, OptOut] = {}
    async for key, value in read_topic(bootstrap, physical_name(OPT_OUTS.name, namespace)):
        domain = key.decode("ascii", "replace")
        if value is None:
            found.pop(domain, None)
            continue
        with suppress(ValidationError):
            found[domain] = OptOut.model_validate_json(value)
    return dict(sorted(found.items()))


def changed(known: Mapping[str, OptOut], domains: Iterable[str], change: OptOutChange) -> list[OptOut]:
    """The records to write: none for a domain that stands so already."""
    records = []
    for domain in dict.fromkeys(domains):
        before = known.get(domain)
        if change.listed is not (before is not None and before.listed):
            records.append(before.after(change) if before else OptOut(domain=domain, changes=(change,)))
    return records


async def write(bootstrap: str, namespace: str, records: Iterable[OptOut]) -> None:
    """Write records; running workers know of them in a second.

    Raises:
        UserError: no broker answered.
        Unfinished: the broker refused one; those before it are written.
    """
    topic = physical_name(OPT_OUTS.name, namespace)
    async with producer(bootstrap) as writer:
        for record in records:
            try:
                await writer.send_and_wait(topic, encode(record), key=record.domain.encode())
            except KafkaError as error:
                raise Unfinished(f"the broker did not take {record.domain}: {error!r}") from None
