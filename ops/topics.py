"""Topics as they are declared against topics as they are: what differs, and what of it may be put right.

Deciding is pure (`compare`); `Cluster` does the asking and the changing. Nothing that could lose records or break the
order of keys is ever done by itself: it is refused with a sentence.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    IncompatibleBrokerVersion,
    KafkaError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
    for_code,
)

from ops.cli.errors import UserError
from ops.cli.kafka import CONNECT_S, reach, unreachable
from schemas.topics import LEADING, Topic
from streams.installed import topics_of
from streams.kafka import kept_too_long
from streams.settings import Settings

REQUEST_S = 30.0
"""How long one change may take."""

SETTLE_S = 10.0
"""How long a change that the broker has confirmed may take to be seen."""

BROKER_DEFAULT = -1
"""The replication factor that the broker was configured with (KIP-464)."""

_PAUSE_S = 0.05
_OF_THE_TOPIC = 1  # config_source DYNAMIC_TOPIC_CONFIG: set on the topic, not inherited


class Remedy(StrEnum):
    """What `apply` does about a difference."""

    CREATE = "create"
    GROW = "add partitions"
    ALTER = "alter"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Existing:
    """A topic as the broker has it. `config` is what counts, `overrides` what was set on the topic itself."""

    partitions: int
    replicas: int
    config: Mapping[str, str]
    overrides: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that differs; `why` says for a refusal what would be lost, and what to do instead."""

    topic: Topic
    what: str
    have: str
    want: str
    remedy: Remedy
    why: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """Tells apart all differences of one comparison."""
        return self.topic.name, self.what

    def __str__(self) -> str:
        if self.remedy is Remedy.CREATE:
            return f"{self.topic.name}: missing ({self.want})"
        refusal = f": left as it is, {self.why}" if self.why else ""
        return f"{self.topic.name}: {self.what} is {self.have}, declared {self.want}{refusal}"


def declared(settings: Settings, *, partitions: int | None = None) -> tuple[Topic, ...]:
    """All topics of an installation, changelogs of tables included; `partitions` overrules every declared number.

    One number for all keeps tables and the topics that they follow co-partitioned.
    """
    topics = topics_of(settings)
    return topics if partitions is None else tuple(replace(topic, partitions=partitions) for topic in topics)


def compare(topic: Topic, existing: Existing | None, *, replicas: int = BROKER_DEFAULT) -> list[Difference]:
    """What differs of one topic. A config that the broker doesn't report is one that it doesn't know: no difference."""
    if existing is None:
        want = f"{topic.partitions} partitions, {', '.join(f'{k}={v}' for k, v in topic.config.items())}"
        return [Difference(topic, "topic", "missing", want, Remedy.CREATE)]
    found = []
    if existing.partitions != topic.partitions:
        found.append(_partitions(topic, existing.partitions))
    if replicas not in (BROKER_DEFAULT, existing.replicas):
        why = "replicas move by kafka-reassign-partitions.sh alone"
        have, want = str(existing.replicas), str(replicas)
        found.append(Difference(topic, "replication factor", have, want, Remedy.REFUSE, why))
    for name, want in topic.config.items():
        have = existing.config.get(name, want)
        # Smaller segments are deleted sooner after their time, which is all that is asked of them.
        if have != want and not (name == "segment.ms" and int(have) < int(want)):
            why = _danger(name, have, want)
            found.append(Difference(topic, name, have, want, Remedy.REFUSE if why else Remedy.ALTER, why))
    return found


def _partitions(topic: Topic, have: int) -> Difference:
    remedy, why = Remedy.REFUSE, ""
    if have > topic.partitions:
        why = "Kafka can't take partitions away"
    elif topic.key != "anything":
        why = f"records are keyed by {topic.key} and another number would send a key to another partition"
    else:
        remedy = Remedy.GROW
    return Difference(topic, "number of partitions", str(have), str(topic.partitions), remedy, why)


def _danger(name: str, have: str, want: str) -> str:
    """Why a config is not changed by itself, empty when it may be: what only keeps or admits more may."""
    by_hand = "kafka-configs.sh --alter does it"
    if name == "cleanup.policy":
        return f"another policy can delete records; {by_hand}"
    if name == "retention.ms" and _shorter(int(want), int(have)):
        return f"a shorter retention deletes records; {by_hand}"
    if name == "max.message.bytes" and int(want) < int(have):
        return f"records as large as today's would be refused; {by_hand}"
    return ""


def _shorter(want: int, have: int) -> bool:
    return want >= 0 and (have < 0 or want < have)


class Cluster:
    """The broker's side: existing topics, and the remedies. Made by `connected`."""

    def __init__(self, client: AIOKafkaAdminClient) -> None:
        self._client = client

    async def differences(self, topics: Sequence[Topic], *, replicas: int = BROKER_DEFAULT) -> list[Difference]:
        """What differs, in the order of `topics`.

        Raises:
            UserError: the broker refused to tell.
        """
        existing = await self._existing(topics)
        return [each for topic in topics for each in compare(topic, existing.get(topic.name), replicas=replicas)]

    async def kept_too_long(self, settings: Settings) -> list[str]:
        """Which topics keep records longer than decisions are kept, a sentence each; what is missing keeps none.

        Raises:
            UserError: the broker refused to tell.
        """
        leading = [topic.named(settings.namespace) for topic in LEADING]
        existing = await self._existing(leading)
        return [
            sentence
            for topic in leading
            if topic.name in existing
            and (sentence := kept_too_long(topic.name, existing[topic.name].config, settings.decisions_kept))
        ]

    async def apply(self, differences: Iterable[Difference], *, replicas: int = BROKER_DEFAULT) -> list[Difference]:
        """Put right what may be; returns what is left, refused by us or by this broker, with the reason.

        Raises:
            UserError: the broker refused one of the changes; those before it were made.
        """
        differences = list(differences)
        by_remedy = {remedy: [each for each in differences if each.remedy is remedy] for remedy in Remedy}
        await self._create([each.topic for each in by_remedy[Remedy.CREATE]], replicas)
        refused = by_remedy[Remedy.REFUSE]
        for remedy, change in ((Remedy.GROW, self._grow), (Remedy.ALTER, self._alter)):
            try:
                await change(by_remedy[remedy])
            except IncompatibleBrokerVersion:
                why = f"this broker can't {remedy}"
                refused += [replace(each, remedy=Remedy.REFUSE, why=why) for each in by_remedy[remedy]]
        changed = {each.topic.name: each.topic for each in differences}
        return refused + await self._unseen(list(changed.values()), refused, replicas)

    async def _unseen(self, topics: Sequence[Topic], refused: Sequence[Difference], replicas: int) -> list[Difference]:
        """What still differs though it was changed: a broker confirms a change before it shows it, so wait."""
        known = {each.key for each in refused}
        left: list[Difference] = []
        for _ in range(int(SETTLE_S / _PAUSE_S)):
            left = [each for each in await self.differences(topics, replicas=replicas) if each.key not in known]
            if not left:
                break
            await asyncio.sleep(_PAUSE_S)
        return [replace(each, remedy=Remedy.REFUSE, why="the broker doesn't show the change") for each in left]

    async def _existing(self, topics: Sequence[Topic]) -> dict[str, Existing]:
        wanted = {topic.name for topic in topics}
        # The list of all topics: asking for a topic by its name could create it.
        found = {each["topic"]: each["partitions"] for each in await self._client.describe_topics(None)}
        configs = await self._configs(sorted(wanted & found.keys()))
        return {
            name: Existing(
                len(found[name]),
                min((len(partition["replicas"]) for partition in found[name]), default=0),
                config,
                overrides,
            )
            for name, (config, overrides) in configs.items()
        }

    async def _configs(self, names: Sequence[str]) -> dict[str, tuple[dict[str, str], dict[str, str]]]:
        resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
        configs = {}
        for response in await self._client.describe_configs(resources) if resources else ():
            for resource in response.to_object()["resources"]:
                if resource["error_code"] == UnknownTopicOrPartitionError.errno:
                    continue  # Another node than the one that listed it, and it does not know of it yet.
                _raise_refusal(resource["resource_name"], resource["error_code"], resource["error_message"])
                entries = [each for each in resource["config_entries"] if each["config_value"] is not None]
                everything = {each["config_names"]: each["config_value"] for each in entries}
                own = {each["config_names"] for each in entries if each.get("config_source") == _OF_THE_TOPIC}
                overrides = {name: value for name, value in everything.items() if name in own}
                configs[resource["resource_name"]] = (everything, overrides)
        return configs

    async def _create(self, topics: Sequence[Topic], replicas: int) -> None:
        if not topics:
            return
        # aiokafka takes "the broker's default" only together with an (empty) assignment.
        assignments: dict[int, list[int]] | None = {} if replicas == BROKER_DEFAULT else None
        new = [
            NewTopic(topic.name, topic.partitions, replicas, assignments, topic_configs=topic.config)
            for topic in topics
        ]
        response = await self._client.create_topics(new, timeout_ms=int(REQUEST_S * 1000))
        for each in response.to_object()["topic_errors"]:
            # Somebody else may have been quicker: that is what was wanted.
            if each["error_code"] != TopicAlreadyExistsError.errno:
                _raise_refusal(each["topic"], each["error_code"], each.get("error_message"))

    async def _grow(self, differences: Sequence[Difference]) -> None:
        totals = {each.topic.name: NewPartitions(each.topic.partitions) for each in differences}
        if totals:
            await self._client.create_partitions(totals)

    async def _alter(self, differences: Sequence[Difference]) -> None:
        """The request replaces all configs of a topic, so those that an operator set on it go along."""
        if not differences:
            return
        now = await self._configs(sorted({each.topic.name for each in differences}))
        changes: dict[str, dict[str, str]] = {name: dict(overrides) for name, (_, overrides) in now.items()}
        for each in differences:
            if each.topic.name in changes:
                changes[each.topic.name][each.what] = each.want
        resources = [ConfigResource(ConfigResourceType.TOPIC, name, config) for name, config in changes.items()]
        for response in await self._client.alter_configs(resources):
            for resource in response.to_object()["resources"]:
                _raise_refusal(resource["resource_name"], resource["error_code"], resource["error_message"])


def _raise_refusal(topic: str, code: int, message: str | None) -> None:
    if code:
        error: Any = for_code(code)
        raise UserError(f"the broker refused {topic}: {message or error.description or error.__name__}")


@contextlib.asynccontextmanager
async def connected(bootstrap: str) -> AsyncIterator[Cluster]:
    """A cluster to ask and to change.

    Args:
        bootstrap: ``HOST:PORT[,HOST:PORT]``.

    Raises:
        UserError: no broker answered within `CONNECT_S`, or it went away.
    """
    client = AIOKafkaAdminClient(**reach(bootstrap), request_timeout_ms=int(REQUEST_S * 1000))
    try:
        try:
            await asyncio.wait_for(client.start(), CONNECT_S)
        except (KafkaError, OSError, TimeoutError):
            raise await unreachable(bootstrap) from None
        try:
            yield Cluster(client)
        except (KafkaError, OSError, TimeoutError) as error:
            raise UserError(f"the broker at {bootstrap} did not do it: {error!r}") from None
    finally:
        with contextlib.suppress(KafkaError, OSError, TimeoutError):
            await asyncio.wait_for(client.close(), 5)


async def create_all(bootstrap: str, settings: Settings, *, partitions: int | None = None) -> None:
    """Create what is missing, for the demo and for tests; raises `UserError` when a topic there differs."""
    async with connected(bootstrap) as cluster:
        refused = await cluster.apply(await cluster.differences(declared(settings, partitions=partitions)))
    if refused:
        raise UserError("; ".join(map(str, refused)))
