"""The composition root: which roles run in this process, and what each is made of. Nothing happens at import."""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from mode import Service

from schemas.vocabulary import Lane
from streams.access.keys import ConfiguredKey
from streams.checks.dialogue import Prober
from streams.checks.evidence import Prepared, Probe
from streams.chores import Chore, Chores
from streams.core import Core, open_core
from streams.delivery import Producer
from streams.dns.answers import MailRoute
from streams.engine import Engine, engine, subscribe, table
from streams.group import Group
from streams.installed import TABLES, now_ms
from streams.metrics import Metrics
from streams.observe import PoolObserver
from streams.optouts import OptOutReader
from streams.progress import ProgressWatch, Watched
from streams.records import Outgoing
from streams.roles.cancels import Cancelled, CancelWatch
from streams.roles.completion import Completion
from streams.roles.gate import Gate
from streams.roles.keyring import Keyring
from streams.roles.probe import Probing
from streams.roles.retry import RetryService
from streams.roles.route import Route
from streams.roles.upkeep import record_key
from streams.settings import Settings
from streams.subscription import Subscription
from streams.tables import DurableTable


@asynccontextmanager
async def open_worker(roles: Sequence[str], settings: Settings, metrics: Metrics) -> AsyncIterator[Group]:
    """What runs these roles, ready to be started; SMTP sessions are closed at the end of the block.

    Raises:
        ValueError: a setting names a list, network, name server or key that is none.
        StartupError: this installation of Faust would lose records.
    """
    async with AsyncExitStack() as stack:
        parts = _Parts(settings, metrics)
        if {"route", "probe"} & set(roles):
            parts.services.append(CancelWatch(settings, parts.cancelled))
            observer = PoolObserver(metrics)
            core = open_core(settings, observer=observer, on_query=parts.dns_asked)
            parts.core = await stack.enter_async_context(core)
            observer.read(parts.core.pool.snapshot)
        yield parts.group(roles)


@dataclass(slots=True)
class _Parts:
    """What the roles of a process share, and what each is made of."""

    settings: Settings
    metrics: Metrics
    core: Core | None = None
    cancelled: Cancelled = field(default_factory=lambda: Cancelled(now_ms))
    engines: list[Engine] = field(default_factory=list)
    services: list[Service] = field(default_factory=list)
    _watched: list[Watched] = field(default_factory=list)
    _bindings: list[tuple[Engine, str, tuple[Subscription, ...]]] = field(default_factory=list)
    _chores: list[tuple[Engine, tuple[Chore, ...]]] = field(default_factory=list)

    def group(self, roles: Sequence[str]) -> Group:
        """All roles in one group, with one producer for what they write."""
        producer = Producer(self.settings)
        makers: Mapping[str, Callable[[Producer], None]] = {
            "gate": self._gate,
            "route": self._route,
            "probe": self._probe,
            "retry": self._retry,
            "completion": self._completion,
        }
        for role in roles:
            makers[role](producer)
        first: list[Service] = [producer]
        if self.core is not None:
            opt_outs = self.core.opt_outs
            first.append(OptOutReader(self.settings, opt_outs, on_fatal=lambda error: group.fail(error)))  # noqa: PLW0108  no group yet
            self.metrics.opt_outs.set_function(lambda: float(len(opt_outs)))
        group = Group(first, self.engines, self.services, awaited=[each.settled for each in self._watched])
        self.metrics.decisions_kept_seconds.read(lambda: {(): self.settings.decisions_kept.total_seconds()})
        for app, role, subscriptions in self._bindings:
            subscribe(app, role, subscriptions, producer=producer, metrics=self.metrics, on_fatal=group.fail)
        group.also(ProgressWatch(self._watched, self.settings, on_fatal=group.fail))
        for app, chores in self._chores:
            group.also(Chores(app, chores, deliver=producer.deliver, clock=now_ms, on_fatal=group.fail))
        return group

    # -- the roles --------------------------------------------------------------------------------------------------

    def _gate(self, _: Producer) -> None:
        app = self._engine("gate")
        configured, kept = ConfiguredKey(self.settings), self.settings.decisions_kept
        keyring = Keyring(self.metrics, self._table(app, "keys"), configured, kept)
        gate = Gate(self.settings, self.metrics, keyring, self._table(app, "ledger"), now_ms)
        self._bindings.append((app, "gate", gate.subscriptions()))
        self._chores.append((app, (_quiet(gate.expire), _quiet(keyring.expire), gate.report)))

    def _route(self, _: Producer) -> None:
        core = self._core()
        route = Route(
            self.settings,
            self.metrics,
            precheck=core.precheck,
            resolver=core.resolver,
            clock=now_ms,
            cancelled=self.cancelled,
            opted_out=core.opt_outs,
        )
        self._bind_by_lane("route", route.subscriptions())

    def _probe(self, _: Producer) -> None:
        core = self._core()
        probing = Probing(
            self.settings,
            self.metrics,
            precheck=core.precheck,
            resolver=core.resolver,
            prober=_Measured(core.prober, self.metrics),
            clock=now_ms,
            sessions_of=core.pool.sessions,
            cancelled=self.cancelled,
            opted_out=core.opt_outs,
        )
        self._bind_by_lane("probe", probing.subscriptions())

    def _retry(self, producer: Producer) -> None:
        retry = RetryService(self.settings, producer, self.metrics, now_ms)
        self.services.append(retry)
        self._watched.extend(retry.tiers)
        self.metrics.ready.labels("retry").set_function(lambda: float(retry.settled))

    def _completion(self, _: Producer) -> None:
        app = self._engine("completion")
        requests, progress = self._table(app, "requests"), self._table(app, "progress")
        completion = Completion(self.settings, self.metrics, requests=requests, progress=progress)
        self._bindings.append((app, "completion", completion.subscriptions()))
        self._chores.append((app, (completion.sweep, _quiet(completion.forget_seen), _quiet(completion.expire))))

    # -- their parts ------------------------------------------------------------------------------------------------

    def _engine(self, name: str) -> Engine:
        app = engine(name, self.settings)
        self.engines.append(app)
        self._watched.append(app)
        self.metrics.ready.labels(name).set_function(lambda: float(app.settled.is_set()))
        return app

    def _bind_by_lane(self, role: str, subscriptions: Iterable[Subscription]) -> None:
        # One loop reads all topics of a Faust app, and a full buffer stops it: an app each (docs/decisions/0003).
        for subscription in subscriptions:
            lane = subscription.topic.name.split(".")[2]
            self._bindings.append((self._engine(f"{role}-{lane}"), role, (subscription,)))

    def _table(self, app: Engine, name: str) -> DurableTable:
        [declared] = [each for each in TABLES if each.name == name]
        made = table(app, declared, record_key)
        made.on_outdated = self.metrics.outdated_changes.labels(name).inc
        self._chores.append((app, (_quiet(lambda _: made.heal()),)))
        self.metrics.table_rows.read(lambda: {(name,): float(len(made))})
        self.metrics.standby_rows.read(lambda: {(name,): float(made.standby_rows)})
        self.metrics.standby_behind.read(lambda: {(name,): float(app.recovery.behind(made.changelog_topic_name))})
        return made

    def _core(self) -> Core:
        assert self.core is not None  # noqa: S101  open_worker() opened it for these roles
        return self.core

    # -- what metrics ask -------------------------------------------------------------------------------------------

    def dns_asked(self, _name: str, _type: str, status: str, seconds: float) -> None:
        """A question went out to a name server."""
        self.metrics.dns_queries.labels(status).inc()
        self.metrics.dns_seconds.observe(seconds)


@dataclass(frozen=True, slots=True)
class _Measured:
    """A prober whose dialogues are counted."""

    prober: Prober
    metrics: Metrics

    async def ask(
        self,
        route: MailRoute,
        provider: str,
        prepared: Sequence[Prepared],
        *,
        catch_all_probe: bool,
        lane: Lane | None,
        timeout: float,
        source: str | None = None,
    ) -> list[Probe]:
        """As :meth:`streams.checks.dialogue.Prober.ask`."""
        probes = await self.prober.ask(
            route, provider, prepared, catch_all_probe=catch_all_probe, lane=lane, timeout=timeout, source=source
        )
        for probe in probes:
            kind = f"{probe.reply.code // 100}xx" if probe.reply is not None else "none"
            self.metrics.smtp_replies.labels(probe.stage, kind).inc()
        self.metrics.smtp_dialogue_seconds.observe(max((probe.smtp_ms for probe in probes), default=0) / 1000)
        return probes


def _quiet(expire: Callable[[int], int]) -> Chore:
    """A chore that writes nothing but to its own table."""

    def chore(now: int) -> Iterable[Outgoing]:
        expire(now)
        return ()

    return chore
