"""`mailvet keys usage`: what keys used, by day."""

import asyncio
import csv
import math
import sys
from collections.abc import Sequence
from datetime import date
from typing import Any

import click

from ops import usage
from ops.cli.errors import UserError
from ops.cli.keyoffice import place_of, place_options
from ops.cli.keyoptions import KeyId, Name
from ops.cli.output import json_line, printable
from schemas import signing
from schemas.usage import Usage
from schemas.vocabulary import VERDICTS, Reason, Verdict
from streams.access.metering import within_s

Row = dict[str, Any]

_ANSWERS = [verdict for verdict in Verdict if verdict is not Verdict.REJECTED]
_REFUSALS = [reason for reason in Reason if VERDICTS[reason] is Verdict.REJECTED]
_SHOWN = ("day", "key_id", "requests", "addresses", *_ANSWERS, "given_back", "refused", "p50_s", "p95_s")


class Day(click.ParamType):
    """A UTC day."""

    name = "YYYY-MM-DD"

    def convert(self, value: Any, param: Any, ctx: Any) -> date:
        try:
            return date.fromisoformat(value)
        except ValueError:
            self.fail(f"{printable(value)!r}: write YYYY-MM-DD", param, ctx)


@click.command("usage")
@click.option("--tenant", type=Name(), help="Of one tenant alone.")
@click.option("--key", type=KeyId(), help="Of one key alone.")
@click.option("--from", "first", type=Day(), help="The first UTC day.")
@click.option("--to", "last", type=Day(), help="The last UTC day.")
@click.option("--csv", "as_csv", is_flag=True, help="Comma-separated values, every column, with a heading.")
@place_options
def command(
    *,
    tenant: str | None,
    key: tuple[str, str] | None,
    first: date | None,
    last: date | None,
    as_csv: bool,
    **options: Any,
) -> None:
    """What keys used, a line a key and UTC day; running workers are at most ten seconds ahead of it.

    A request belongs to the day on which it was decided. Addresses are those of admitted requests, and verdicts those
    of requests that have ended; what was given back was not charged in the end. Times are from admission to the
    summary: within so many seconds half (p50) and nearly all (p95) of the requests had ended.
    """
    place = place_of(options)
    if as_csv and place.as_json:
        raise UserError("--csv and --json: choose one")
    if key is not None and tenant not in (None, key[0]):
        raise UserError("--key names another tenant than --tenant")
    found = asyncio.run(
        usage.read_usage(
            place.bootstrap,
            place.namespace,
            tenant=key[0] if key else tenant,
            key=key[1] if key else None,
            first=first,
            last=last,
        )
    )
    if place.as_json:
        for each in found:
            click.echo(json_line({"key_id": signing.key_id(each.tenant, each.key), **each.model_dump(mode="json")}))
    elif as_csv:
        _write_csv(found)
    elif found:
        click.echo(table(found))
    else:
        click.echo("nothing was used", err=True)


def row_of(usage: Usage) -> Row:
    """One line, by column."""
    return {
        "day": usage.day,
        "tenant": usage.tenant,
        "key_id": signing.key_id(usage.tenant, usage.key),
        "requests": usage.requests,
        "addresses": usage.addresses,
        "settled": usage.settled,
        **{verdict: usage.verdicts.get(verdict, 0) for verdict in _ANSWERS},
        "given_back": usage.given_back,
        "refused": sum(usage.refused.values()),
        **{f"refused_{reason}": usage.refused.get(reason, 0) for reason in _REFUSALS},
        "mean_s": round(usage.seconds / usage.settled, 3) if usage.settled else None,
        **{f"p{round(part * 100)}_s": within_s(usage, part) for part in (0.5, 0.95, 0.99)},
    }


def _write_csv(found: Sequence[Usage]) -> None:
    columns = list(row_of(Usage(tenant="t", key="k", day="")))
    writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(row_of(each) for each in found)


def table(found: Sequence[Usage]) -> str:
    """Aligned columns, and the sums of several lines below them."""
    rows = [row_of(each) for each in found]
    if len(rows) > 1:
        rows.append({"day": "all", "key_id": "", **_sums(rows)})
    lines = [[_heading(name) for name in _SHOWN], *([_shown(row.get(name)) for name in _SHOWN] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_SHOWN))]
    return "\n".join("  ".join(_aligned(line, widths)).rstrip() for line in lines)


def _sums(rows: Sequence[Row]) -> Row:
    return {name: sum(row[name] for row in rows) for name in _SHOWN if isinstance(rows[0][name], int)}


def _aligned(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [
        cell.ljust(width) if place < 2 else cell.rjust(width)
        for place, (cell, width) in enumerate(zip(line, widths, strict=True))
    ]


def _heading(name: str) -> str:
    return name.upper().replace("_", " ")


def _shown(value: object) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return "longer" if math.isinf(value) else f"{value:g}"
    return "-" if value is None else str(value)
