"""What keys used, read from ``usage.v1``."""

from datetime import date

from ops.keys import read_topic, understood
from schemas.topics import USAGE, physical_name
from schemas.usage import Usage


async def read_usage(
    bootstrap: str,
    namespace: str,
    *,
    tenant: str | None = None,
    key: str | None = None,
    first: date | None = None,
    last: date | None = None,
) -> list[Usage]:
    """One record a key and day, by day, tenant and key; of one tenant, one key's name, and days from first to last.

    Raises:
        UserError: no broker, its topics are missing, or workers of another version wrote what stands there.
        Unfinished: the topic could not be read to its end.
    """
    newest: dict[bytes, Usage] = {}
    async for name, value in read_topic(bootstrap, physical_name(USAGE.name, namespace)):
        if value is None or not _is_asked(name.decode(), tenant, key, first, last):
            continue
        usage = understood(Usage, value)
        if name not in newest or newest[name].revision <= usage.revision:
            newest[name] = usage
    return sorted(newest.values(), key=lambda usage: (usage.day, usage.tenant, usage.key))


def _is_asked(name: str, tenant: str | None, key: str | None, first: date | None, last: date | None) -> bool:
    of_tenant, of_key, day = name.split(":")
    if tenant not in (None, of_tenant) or key not in (None, of_key):
        return False
    return (first is None or first.isoformat() <= day) and (last is None or day <= last.isoformat())
