"""What the commands on keys are told: names, times, spans, limits and scopes, as people write them."""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import click
from pydantic import TypeAdapter, ValidationError

from ops.cli.output import printable
from schemas import base, signing
from schemas.base import KEY_NAME_PATTERN
from schemas.keys import OPTIONS, Policy, Scopes
from schemas.request import MAX_ADDRESSES
from schemas.vocabulary import Depth, Lane
from streams.checks.lists import ascii_domain

_SPAN = re.compile(r"([0-9]{1,6})([smhdw])", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_NONE = "none"
_REQUEST_ID: TypeAdapter[str] = TypeAdapter(base.RequestId)


class KeyId(click.ParamType):
    """``TENANT_KEY`` as a pair of names."""

    name = "TENANT_KEY"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        try:
            return signing.split_key_id(value)
        except signing.Malformed:
            self.fail(
                f"{printable(value)!r} is no key id: write TENANT_KEY, letters, digits, dots and hyphens", param, ctx
            )


class Name(click.ParamType):
    """A tenant, a policy or the like."""

    name = "NAME"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        if not re.fullmatch(KEY_NAME_PATTERN, value, re.ASCII):
            self.fail(f"{printable(value)!r}: at most 64 letters, digits, dots and hyphens", param, ctx)
        return str(value)


class Domain(click.ParamType):
    """A domain in any script as its ASCII form, or one of the words allowed."""

    name = "DOMAIN"

    def __init__(self, *words: str) -> None:
        self._words = words

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        domain = value if value in self._words else ascii_domain(value)
        if domain is None:
            self.fail(f"{printable(value)!r} is no domain: write it as in example.org", param, ctx)
        return str(domain)


class RequestId(click.ParamType):
    """What a client calls a request (:data:`schemas.base.RequestId`)."""

    name = "ID"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        try:
            return str(_REQUEST_ID.validate_python(value))
        except ValidationError:
            self.fail(f"{printable(value)!r} is no request id: 1 to 128 printable characters", param, ctx)


class Span(click.ParamType):
    """``0``, ``30s``, ``90m``, ``24h``, ``7d``, ``2w``."""

    name = "SPAN"

    def convert(self, value: Any, param: Any, ctx: Any) -> timedelta:
        if isinstance(value, timedelta):
            return value
        match = _SPAN.fullmatch(value)
        if value != "0" and match is None:
            self.fail(f"{printable(value)!r}: write 0, or a number and s, m, h, d or w, such as 24h", param, ctx)
        return timedelta(**{_UNITS[match[2]]: int(match[1])}) if match else timedelta(0)


class When(click.ParamType):
    """A moment in ISO 8601 (UTC unless it says otherwise), a span from now, or one of the words allowed."""

    name = "WHEN"

    def __init__(self, *words: str) -> None:
        self._words = words

    def convert(self, value: Any, param: Any, ctx: Any) -> datetime | str:
        if isinstance(value, datetime):
            return value
        if value in self._words:
            return str(value)
        try:
            if _SPAN.fullmatch(value):
                return datetime.now(UTC) + Span().convert(value, param, ctx)
            moment = datetime.fromisoformat(value)
            return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
        except (ValueError, OverflowError):
            words = "".join(f", or {word}" for word in self._words)
            self.fail(
                f"{printable(value)!r}: write 2027-01-31T00:00:00Z, or a span from now such as 90d{words}", param, ctx
            )


class Limit(click.ParamType):
    """A positive number, or ``none`` for no such limit."""

    name = "N|none"

    def __init__(self, number: type[int] | type[float] = int) -> None:
        self._number = number

    def convert(self, value: Any, param: Any, ctx: Any) -> int | float | str:
        if value == _NONE or not isinstance(value, str):
            return value  # type: ignore[no-any-return]
        try:
            number = self._number(value)
        except ValueError:
            number = self._number(0)
        if not 0 < number <= 10**12:
            self.fail(f"{printable(value)!r}: a positive number, or none", param, ctx)
        return number


def policy_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--rate``, ``--burst``, ``--daily``, ``--monthly``, ``--in-flight``, ``--max-addresses``."""
    for decorate in reversed(
        (
            click.option("--rate", "rate_per_s", type=Limit(float), help="Requests a second over time."),
            click.option("--burst", type=click.IntRange(1, 10**6), help="Requests at once."),
            click.option("--daily", type=Limit(), help="Addresses in a UTC day."),
            click.option("--monthly", type=Limit(), help="Addresses in a UTC month."),
            click.option("--in-flight", type=Limit(), help="Addresses that wait for their answers at a time."),
            click.option("--max-addresses", type=click.IntRange(1, MAX_ADDRESSES), help="Addresses in one request."),
        )
    ):
        command = decorate(command)
    return command


LIMITS = ("rate_per_s", "burst", "daily", "monthly", "in_flight", "max_addresses")


def chosen(options: Mapping[str, Any]) -> dict[str, Any]:
    """Of a command's options the limits that were given; none is null."""
    given = {name: options[name] for name in LIMITS if options[name] is not None}
    return {name: None if value == _NONE else value for name, value in given.items()}


def changed(policy: Policy, limits: Mapping[str, Any]) -> Policy:
    """The policy with these limits in place of its own.

    Raises:
        click.UsageError: a limit is out of its bounds.
    """
    try:
        return Policy.model_validate({**policy.model_dump(), **limits})
    except ValidationError as error:
        raise click.UsageError(first_problem(error)) from None


def first_problem(error: ValidationError) -> str:
    """What is wrong first, and where, in one line."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = "".join(f"{part}: " for part in first["loc"])
    return f"{where}{first['msg'].removeprefix('Value error, ')}"


def scopes_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--scope depth:dns --scope lane:bulk --scope option:retry``, of each kind all unless some are named."""
    return click.option(
        "--scope",
        "scopes",
        multiple=True,
        metavar="KIND:NAME",
        callback=lambda _ctx, _param, value: scopes_of(value) if value else None,
        help="What it may ask for: depth:NAME, lane:NAME, option:NAME or option:none; of each kind all by default.",
    )(command)


def scopes_of(words: tuple[str, ...]) -> Scopes:
    """The scopes that words such as ``depth:dns`` name. Raises :class:`click.BadParameter`."""
    kinds: dict[str, tuple[str, set[str]]] = {
        "depth": ("depths", set(Depth)),
        "lane": ("lanes", set(Lane)),
        "option": ("options", {*OPTIONS, _NONE}),
    }
    named: dict[str, set[str]] = {}
    for word in words:
        kind, _, name = word.partition(":")
        field, names = kinds.get(kind, ("", set()))
        if name not in names:
            known = "; ".join(f"{each}:{'|'.join(sorted(all_))}" for each, (_, all_) in kinds.items())
            raise click.BadParameter(f"{printable(word)!r} is no scope: {known}")
        named.setdefault(field, set()).add(name)
    return Scopes.model_validate({field: names - {_NONE} for field, names in named.items()})
