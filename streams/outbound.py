"""The operator's file of providers and ways out, ``MAILVET_SMTP_CONFIG``: read, checked, or refused in one sentence.

``docs/providers.md`` tells what may stand in it. A secret may lie in the environment instead, and none is ever quoted.
"""

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_core import ErrorDetails

from schemas.base import Name
from streams.checks.syntax import Malformed, parse_mailbox
from streams.smtp.identity import Identity
from streams.smtp.policy import PolicyBook, ProviderPolicy, StartTLS
from streams.smtp.ways import Proxy, Way, Ways

Overrides = Mapping[str, Any]
"""Fields of :class:`ProviderPolicy` by name."""


class OutboundError(ValueError):
    """The file can't be used; the message says where in it, and what to do."""


@dataclass(frozen=True, slots=True)
class Outbound:
    """What the file says; without one, nothing."""

    default: Overrides = field(default_factory=dict)
    providers: Mapping[str, Overrides] = field(default_factory=dict)
    ways: tuple[Way, ...] = ()


NOTHING = Outbound()


class _Table(BaseModel):
    """TOML has types of its own: nothing is converted, and what is not known is refused."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)


def _type_of(name: str, kind: Any) -> Any:
    # The one field whose values TOML can't say itself.
    return Annotated[StartTLS, Field(strict=False)] if name == "starttls" else kind


_Policy = create_model(
    "_Policy", __base__=_Table, **{each.name: (_type_of(each.name, each.type), None) for each in fields(ProviderPolicy)}
)  # type: ignore[call-overload]


class _Proxy(_Table):
    host: str
    port: int = 1080
    username: str = ""
    username_env: str = ""
    password: str = ""
    password_env: str = ""


class _Way(_Table):
    name: Name
    helo: str = ""
    mail_from: str | None = None
    source_ipv4: Annotated[IPv4Address | None, Field(strict=False)] = None
    source_ipv6: Annotated[IPv6Address | None, Field(strict=False)] = None
    proxy: _Proxy | None = None


class _File(_Table):
    default: _Policy = _Policy()
    providers: dict[str, _Policy] = {}
    ways: list[_Way] = []


def read_outbound(
    path: str, identity: Identity, base: Overrides, environment: Mapping[str, str] = os.environ
) -> Outbound:
    """What the file at ``path`` says; nothing where ``path`` is empty.

    ``identity`` is for ways that do not say their own, ``base`` what the settings say of every provider;
    ``environment`` holds the secrets that the file points to.

    :raises OutboundError: it can't be read, or something in it is wrong.
    """
    if not path:
        return NOTHING
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as wrong:
        raise OutboundError(
            f"can't read {path} (MAILVET_SMTP_CONFIG): {getattr(wrong, 'strerror', None) or wrong}"
        ) from None
    try:
        return _parsed(text, identity, base, environment)
    except OutboundError as wrong:
        raise OutboundError(f"{path}: {wrong}") from None


def _parsed(text: str, identity: Identity, base: Overrides, environment: Mapping[str, str]) -> Outbound:
    try:
        file = _File.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as wrong:
        raise OutboundError(f"this is not TOML: {wrong}") from None
    except ValidationError as wrong:
        raise OutboundError(_sentence(wrong.errors(include_url=False, include_input=False)[0])) from None
    default = file.default.model_dump(exclude_unset=True)
    providers = {name: _overrides(table) for name, table in file.providers.items()}
    _check_policies({**base, **default}, providers)
    return Outbound(default, providers, _ways(file.ways, identity, environment))


# Policies


def _overrides(table: BaseModel) -> Overrides:
    """What a provider's table says. Sessions that are said of one provider are what it shall bear: they don't grow."""
    said = table.model_dump(exclude_unset=True)
    return {"sessions_max": 0, **said} if "sessions" in said else said


def _check_policies(default: Overrides, providers: Mapping[str, Overrides]) -> None:
    """Values that can't stand together, or are out of range."""
    base = _checked("default", lambda: ProviderPolicy(**default))
    for name in providers:
        if "#" in name:
            raise OutboundError(f"{_place(('providers', name))}: name the provider; each of its shards gets its share")
        _checked(_place(("providers", name)), lambda name=name: PolicyBook(base, providers).policy(name))


def _checked(place: str, make: Any) -> Any:
    try:
        return make()
    except ValueError as wrong:
        raise OutboundError(f"{place}: {wrong}") from None


# Ways


def _ways(tables: Iterable[_Way], identity: Identity, environment: Mapping[str, str]) -> tuple[Way, ...]:
    ways = tuple(_way(number, table, identity, environment) for number, table in enumerate(tables, 1))
    if ways:
        _checked("ways", lambda: Ways(ways, ProviderPolicy()))
    return ways


def _way(number: int, table: _Way, identity: Identity, environment: Mapping[str, str]) -> Way:
    place = f"ways[{number}] ({table.name})"
    mail_from = identity.mail_from if table.mail_from is None else table.mail_from
    if mail_from and isinstance(wrong := parse_mailbox(mail_from), Malformed):
        raise OutboundError(f"{place}.mail_from: {wrong.sentence}")
    sources = tuple(str(source) for source in (table.source_ipv4, table.source_ipv6) if source is not None)
    proxy = _proxy(f"{place}.proxy", table.proxy, environment) if table.proxy is not None else None
    way: Way = _checked(
        place, lambda: Way(table.name, Identity(table.helo or identity.helo, mail_from), sources, proxy)
    )
    return way


def _proxy(place: str, table: _Proxy, environment: Mapping[str, str]) -> Proxy:
    username = _secret(f"{place}.username", table.username, table.username_env, environment)
    password = _secret(f"{place}.password", table.password, table.password_env, environment)
    proxy: Proxy = _checked(place, lambda: Proxy(table.host, table.port, username, password))
    return proxy


def _secret(place: str, said: str, variable: str, environment: Mapping[str, str]) -> str:
    """What the file says itself, or the environment variable that it names."""
    if said and variable:
        raise OutboundError(f"{place}: say it here or name a variable in {place}_env, not both")
    if variable and not environment.get(variable):
        raise OutboundError(f"{place}_env: the environment variable {variable} is not set")
    return environment[variable] if variable else said


# What is wrong


def _sentence(error: ErrorDetails) -> str:
    """The place, and what to do about it; never what stands there."""
    place, kind = error["loc"], error["type"]
    if kind == "extra_forbidden":
        return f"{_place(place)}: there is no such field{_suggestion(place)}"
    return f"{_place(place)}: {error['msg'][:1].lower()}{error['msg'][1:]}"


def _place(path: Iterable[str | int]) -> str:
    """As one would write it in TOML; tables of a list are counted from 1."""
    said = ""
    for part in path:
        if isinstance(part, int):
            said += f"[{part + 1}]"
        else:
            quoted = part if part.replace("-", "").replace("_", "").isalnum() else f'"{part[:80]}"'
            said += f".{quoted}" if said else quoted
    return said


def _suggestion(path: tuple[str | int, ...]) -> str:
    tables: dict[str, type[BaseModel]] = {"default": _Policy, "providers": _Policy, "ways": _Way, "proxy": _Proxy}
    model = next((tables[str(part)] for part in reversed(path[:-1]) if part in tables), _File)
    close = difflib.get_close_matches(str(path[-1]), model.model_fields, n=1)
    return f"; did you mean {close[0]}?" if close else ""
