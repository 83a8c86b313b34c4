"""The verification core, put together from settings: what `mailvet check` and the probe role both run."""

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from schemas.vocabulary import Lane
from streams.checks.dialogue import Prober, kept_for_interactive
from streams.checks.lists import Lists, read_domains
from streams.checks.optouts import OptOuts
from streams.checks.precheck import Precheck
from streams.checks.providers import directory
from streams.checks.reply_rules import load_rules
from streams.checks.suggest import public_suffixes
from streams.checks.verify import Verifier
from streams.dns.resolver import MailResolver
from streams.outbound import NOTHING, Outbound, read_outbound
from streams.settings import Settings
from streams.smtp._async.pool import AsyncSMTPPool
from streams.smtp.identity import Identity
from streams.smtp.lifecycle import Event, Notice
from streams.smtp.policy import PolicyBook, ProviderPolicy
from streams.smtp.shards import shard_name


class Observer(Protocol):
    """Who is told what the pool does."""

    def on_event(self, event: Event) -> None: ...
    def on_notice(self, notice: Notice) -> None: ...


@dataclass(frozen=True, slots=True)
class Core:
    """The parts that verify, each usable alone."""

    settings: Settings
    precheck: Precheck
    resolver: MailResolver
    pool: AsyncSMTPPool
    prober: Prober
    policies: PolicyBook
    opt_outs: OptOuts

    def verifier(
        self, *, retry_delays_s: tuple[float, ...] = (), lane: Lane | None = None, catch_all_probe: bool = True
    ) -> Verifier:
        """Verifies lists of addresses with these parts."""
        return Verifier(
            precheck=self.precheck,
            resolver=self.resolver,
            prober=self.prober,
            opted_out=self.opt_outs,
            risky=frozenset(self.settings.risky_flags),
            timeout_s=self.settings.dialogue_deadline_s,
            retry_delays_s=retry_delays_s,
            lane=lane,
            catch_all_probe=catch_all_probe,
        )


@asynccontextmanager
async def open_core(
    settings: Settings,
    *,
    observer: Observer | None = None,
    on_query: Callable[[str, str, str, float], None] | None = None,
) -> AsyncIterator[Core]:
    """The core for as long as the block runs; sessions are closed after it.

    :raises ValueError: a name server, network, list or configuration that the settings name is none.
    """
    opt_outs = OptOuts(read_domains(settings.do_not_probe))
    identity = Identity(settings.helo or socket.gethostname(), settings.mail_from)
    outbound = read_outbound(settings.smtp_config, identity, _said(settings))
    policies = _policies(settings, outbound)
    pool = AsyncSMTPPool(
        identity=None if outbound.ways else identity,
        ways=outbound.ways,
        policies=policies,
        total=settings.sessions_total,
        kept_free=kept_for_interactive,
        on_event=observer.on_event if observer else None,
        on_notice=observer.on_notice if observer else None,
    )
    resolver = MailResolver(
        settings.resolvers,
        allowed_networks=settings.allowed_networks,
        timeout=settings.dns_timeout_s,
        on_query=on_query,
    )
    prober = Prober(pool, port=settings.smtp_port)
    _read_tables()
    try:
        yield Core(settings, Precheck(Lists.from_settings(settings)), resolver, pool, prober, policies, opt_outs)
    finally:
        await prober.close()
        await pool.close()
        await resolver.aclose()


def _read_tables() -> None:
    """Before the first address has to wait for them; that takes a tenth of a second, once a process."""
    load_rules()
    directory()
    public_suffixes()


def _policies(settings: Settings, outbound: Outbound = NOTHING) -> PolicyBook:
    """The policy of every provider: the settings, then the operator's file; each shard has its share of the limits,
    whoever talks for it."""
    default = ProviderPolicy(**{**_said(settings), **outbound.default})
    whole = PolicyBook(default=default, overrides=outbound.providers)
    shares = {
        shard_name(provider, shard, shards): asdict(_share(whole.policy(provider), shards))
        for provider, shards in settings.provider_shards.items()
        for shard in range(shards)
    }
    return PolicyBook(default=default, overrides={**outbound.providers, **shares})


def _said(settings: Settings) -> dict[str, Any]:
    return {
        "sessions": settings.sessions_per_provider,
        "sessions_max": settings.sessions_per_provider_max,
        "connect_timeout_s": settings.connect_timeout_s,
        "command_timeout_s": settings.command_timeout_s,
    }


def _share(policy: ProviderPolicy, shards: int) -> ProviderPolicy:
    """One shard's part of what counts for the provider as a whole; what counts for a session stays as it is."""
    return replace(
        policy,
        sessions=max(1, policy.sessions // shards),
        sessions_max=policy.sessions_max // shards,
        warm=policy.warm // shards,
        connections_per_s=policy.connections_per_s / shards,
        recipients_per_s=policy.recipients_per_s / shards,
    )
