"""Users, ACLs and TLS on a broker that asks who is there: who gets through, who doesn't, each role as its own user."""

import asyncio
import contextlib
import csv
import json
import os
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import GroupAuthorizationFailedError, TopicAuthorizationFailedError
from aiokafka.protocol.fetch import FetchRequest
from click.testing import CliRunner, Result
from prometheus_client.parser import text_string_to_metric_families

from ops.access.acls import group_prefix, user_name
from ops.access.rights import ROLES, of_roles, written
from ops.brokers.base import BrokerError, free_port
from ops.brokers.daemon import Daemon
from ops.brokers.kafka import SecuredKafka
from ops.cli.topics import command as topics_command
from ops.world import World
from schemas.keys import Create
from schemas.pipeline import Task, TaskItem, Ticket
from schemas.request import request_uid
from schemas.topics import (
    ADMISSIONS_BULK,
    ADMITTED_BULK,
    DEADLETTERS,
    KEY_COMMANDS,
    REQUESTS,
    RESULTS,
    RETRIES_5M,
    SETTLEMENTS,
    TASKS_BULK,
    TASKS_INTERACTIVE,
    USAGE,
    Topic,
    own_results,
)
from schemas.vocabulary import Depth, Lane
from streams.access.credentials import HEADER, mint
from streams.codec import encode
from streams.kafka import client_options
from streams.settings import Settings
from tests.chaos.rig import QUICK
from tests.integration.conftest import until
from tests.unit.access.commands import give

NAMESPACE = "eu"
TENANTS = ("acme", "globex")
OPERATOR = user_name("operator", NAMESPACE)
ACME, GLOBEX = (user_name(f"tenant.{tenant}", NAMESPACE) for tenant in TENANTS)
KEY = mint("acme", "k1", b"0123456789abcdef")
SANDBOX = "mailbox-full@sandbox.mailvet.test"
READ, WRITTEN = "mailvet_records_in_total", "mailvet_records_out_total"
SHARED = Settings.model_validate({"namespace": NAMESPACE, "tenant_topics": TENANTS})


@dataclass
class Secure:
    """An installation on a broker that asks who is there."""

    broker: SecuredKafka
    passwords: Path
    workers: dict[str, Daemon] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)

    def environment(self, user: str, **more: str) -> dict[str, str]:
        """The settings of a process that is this user."""
        secret = (
            {"KAFKA_SASL_PASSWORD": self.broker.password}
            if user == self.broker.admin
            else {"KAFKA_SASL_PASSWORD_FILE": str(self.passwords / user)}
        )
        return {
            "KAFKA_BOOTSTRAP_SERVERS": self.broker.clients,
            "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "KAFKA_SSL_CA_FILE": str(self.broker.ca_file),
            "KAFKA_SASL_USERNAME": user,
            "MAILVET_NAMESPACE": NAMESPACE,
            "MAILVET_TENANT_TOPICS": ",".join(TENANTS),
            **secret,
            **more,
        }

    def run(self, user: str, *arguments: str, **more: str) -> Result:
        """`mailvet topics ...` as this user."""
        return CliRunner().invoke(topics_command, list(arguments), env=self.environment(user, **more))

    def options(self, user: str) -> dict[str, object]:
        """An aiokafka client's, as this user."""
        values = {
            name.removeprefix("KAFKA_").lower(): value
            for name, value in self.environment(user).items()
            if name.startswith("KAFKA_")
        }
        return client_options(Settings.model_validate(values), "test")

    async def write(
        self, user: str, topic: Topic, value: bytes, headers: Mapping[str, str] = {}, *, key: bytes | None = None
    ) -> None:
        """One record, as this user."""
        async with AIOKafkaProducer(**self.options(user)) as producer:
            pairs = [(name, text.encode()) for name, text in headers.items()]
            await producer.send_and_wait(topic.named(NAMESPACE).name, value, key=key, headers=pairs)

    async def read(self, user: str, topic: Topic, *, group: str | None = None) -> list[bytes]:
        """What stands on the topic, as this user sees it."""
        async with self.reader(user, topic, group=group) as consumer:
            ends = await consumer.end_offsets(consumer.assignment())
            found: list[bytes] = []
            while any([await consumer.position(each) < end for each, end in ends.items()]):
                for batch in (await consumer.getmany(timeout_ms=200)).values():
                    found += [record.value for record in batch]
            if group is not None:
                await consumer.commit()
            return found

    @contextlib.asynccontextmanager
    async def reader(self, user: str, topic: Topic, *, group: str | None = None) -> AsyncIterator[AIOKafkaConsumer]:
        """A consumer at the beginning of the topic."""
        options = {"group_id": group, "enable_auto_commit": False, "request_timeout_ms": 5000}
        async with AIOKafkaConsumer(**self.options(user), **options) as consumer:
            consumer.assign([TopicPartition(topic.named(NAMESPACE).name, each) for each in range(2)])
            await consumer.seek_to_beginning()
            yield consumer

    async def fetch(self, user: str, topic: Topic) -> int:
        """The error code of a Fetch request for the first partition: no client's caution stands before the broker's."""
        client = AIOKafkaClient(**self.options(user))
        await client.bootstrap()
        try:
            asked = [(topic.named(NAMESPACE).name, [(0, 0, 1024)])]
            answer = await client.send(client.get_random_node(), FetchRequest(100, 0, 1024, 0, asked))
            [(_, [(_, code, *_)])] = answer.topics
            return int(code)
        finally:
            await client.close()

    # -- workers --------------------------------------------------------------------------------------------------

    async def start(self, world: World, logs: Path, *roles: str) -> None:
        """A process for each role, each its own user."""
        for role in roles:
            self.workers[role] = self._worker(world, logs, role)
        await asyncio.gather(*(asyncio.to_thread(self.workers[role].start) for role in roles))

    def _worker(self, world: World, logs: Path, role: str) -> Daemon:
        port = self.ports[role] = free_port()
        settings = QUICK | {
            "RETRY_DELAYS_S": "0.5,0.5,0.5",
            "DEV_KEY": KEY,
            "RESOLVERS": world.resolver,
            "SMTP_PORT": str(world.smtp_port),
            "ALLOWED_NETWORKS": world.network,
            "METRICS_PORT": str(port),
        }
        return Daemon(
            [sys.executable, "-m", "ops.cli.main", "worker", "--role", role],
            log=logs / f"{role}.log",
            ready=lambda: bool(_get(port, "/health/ready")),
            start_timeout=60.0,
            name=f"worker {role}",
            environment=os.environ
            | {f"MAILVET_{name}": value for name, value in settings.items()}
            | self.environment(user_name(role, NAMESPACE)),
        )

    def used(self) -> set[tuple[str, str, str]]:
        """What the workers have read and written so far: counter, role and topic."""
        families = (each for port in self.ports.values() for each in text_string_to_metric_families(_get(port)))
        return {
            (sample.name, sample.labels["role"], sample.labels["topic"])
            for family in families
            for sample in family.samples
            if sample.name in (READ, WRITTEN) and sample.value
        }

    def close(self) -> None:
        """End everything."""
        for worker in self.workers.values():
            worker.kill()
        self.broker.stop()


def _get(port: int, path: str = "/metrics") -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    """The broker with our users, made by the administrator, and our topics, made by the operator."""
    try:
        broker = SecuredKafka()
    except BrokerError as missing:
        if os.environ.get("CI", "").lower() == "true":
            raise
        pytest.skip(str(missing))
    made = Secure(broker, tmp_path_factory.mktemp("secure") / "passwords")
    try:
        users = made.run(broker.admin, "acls", "apply", "--passwords", str(made.passwords))
        assert users.exit_code == 0, users.output
        topics = made.run(OPERATOR, "apply", "--partitions", "2")
        assert topics.exit_code == 0, topics.output
        yield made
    finally:
        made.close()


# -- every role as its own user ------------------------------------------------------------------------------------


async def test_the_pipeline_runs_with_a_user_for_each_role_and_the_rights_are_those_that_it_uses(
    secure: Secure, tmp_path: Path
) -> None:
    async with World() as world:
        await secure.start(world, tmp_path, "gate", "completion")
        # Nobody is there who could route it: completion answers when its time is over.
        overdue = datetime.now(UTC) + timedelta(seconds=2)
        await _request(secure, "overdue", "alice@accepts.test", verdict_by=overdue.isoformat())
        await _request(secure, "ended", "alice@accepts.test")
        await until(lambda: _says(secure, ACME, "is cancelled: 1 unknown", "cancel", "ended", MAILVET_KEY=KEY))
        assert await _says(secure, OPERATOR, "0 of 1 address", "status", "overdue", "--tenant", "acme") or (
            await _says(secure, OPERATOR, "(1 timeout)", "status", "overdue", "--tenant", "acme")
        )
        await secure.start(world, tmp_path, "route", "probe", "retry")
        samples = [
            sample
            for sample in world.samples()
            if sample.personality in {"accepts", "greylists", "outofservice", "full"}
        ]
        expected = {sample.address: sample.reason.value for sample in samples} | {SANDBOX: "mailbox_full"}
        for lane in Lane:
            assert await _submit(secure, tmp_path, lane, list(expected)) == expected
        await _request(secure, "overdue", "another@body.test")
        for topic in of_roles(ROLES).reads:
            await secure.write(OPERATOR, topic, b"nothing that a role could use")
        for lane, topic in ((Lane.INTERACTIVE, TASKS_INTERACTIVE), (Lane.BULK, TASKS_BULK)):
            await secure.write(OPERATOR, topic, _misdirected(lane))
        await secure.write(OPERATOR, KEY_COMMANDS, encode(give(Create, at=datetime.now(UTC))), key=b"acme")
        with contextlib.suppress(TimeoutError):
            await until(lambda: secure.used() == _declared(), within=30.0)
        assert sorted(secure.used() ^ _declared()) == []
        assert all(worker.running for worker in secure.workers.values())
        await until(lambda: _every_role_has_a_dead_letter_of_each_topic(secure), within=30.0)
        await _answers_stand_in_the_tenants_topic_alone(secure)
        await until(lambda: secure.read(OPERATOR, USAGE), within=30.0)


async def _every_role_has_a_dead_letter_of_each_topic(secure: Secure) -> bool:
    letters = await secure.read(OPERATOR, DEADLETTERS)
    return letters.count(b"nothing that a role could use") == sum(len(rights.reads) for rights in ROLES.values())


async def _request(secure: Secure, request_id: str, address: str, **fields: str) -> None:
    value = json.dumps({"request_id": request_id, "addresses": [address], **fields}).encode()
    await secure.write(ACME, REQUESTS, value, {HEADER: KEY})


async def _says(secure: Secure, user: str, what: str, *command: str, **environment: str) -> bool:
    """Whether `mailvet request` says so to this user."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ops.cli.main", "request", *command),
        env=os.environ | secure.environment(user, **environment),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 70)
    return what in out.decode()


async def _submit(secure: Secure, folder: Path, lane: Lane, addresses: list[str]) -> dict[str, str]:
    """`mailvet submit` as the tenant: address to reason."""
    source, out = folder / f"{lane}.csv", folder / f"{lane}-out.csv"
    source.write_text("\n".join(["email", *addresses]) + "\n")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ops.cli.main", "submit", str(source), "--column", "email", "--out", str(out)),
        *("--lane", lane, "--request-size", "5"),
        env=os.environ | secure.environment(ACME, MAILVET_KEY=KEY),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err
    with out.open(newline="") as file:
        return {row["email"]: row["reason"] for row in csv.DictReader(file)}


def _misdirected(lane: Lane) -> bytes:
    """A task whose provider has changed since it was written: it is handed on."""
    now = datetime.now(UTC)
    ticket = Ticket(
        request_uid=request_uid("acme", "misdirected"),
        request_id="misdirected",
        tenant="acme",
        key_id="k1",
        total=1,
        depth=Depth.SMTP,
        lane=lane,
        own_topic=True,
        admitted_at=now,
        verdict_by=now + timedelta(hours=1),
    )
    item = TaskItem.model_validate(
        {"positions": [{"index": 0, "input": "a@accepts.test"}], "address": "alice@accepts.test"}
    )
    return encode(Task(ticket=ticket, provider="elsewhere.test", items=(item,), created_at=now))


def _declared() -> set[tuple[str, str, str]]:
    """What the workers may read and write: counter, role and topic.

    All but the shared results topic, of which this tenant must never see a record, the command to suspend a harvester,
    which nobody is here, and what the gate and completion write by the clock, which no metric counts: the overdue
    request and the usage of the tenant show that. What ends a cancelled request counts.
    """
    reads = {(READ, role, topic.name) for role, rights in ROLES.items() for topic in rights.reads}
    writes = {
        (WRITTEN, role, topic.name)
        for role, rights in ROLES.items()
        for topic in written(rights, SHARED)
        if topic not in (RESULTS, own_results("globex"))
    }
    uncounted = (("gate", USAGE), ("gate", KEY_COMMANDS))
    return reads | writes - {(WRITTEN, role, topic.name) for role, topic in uncounted}


async def _answers_stand_in_the_tenants_topic_alone(secure: Secure) -> None:
    records = [json.loads(value) for value in await secure.read(ACME, own_results("acme"), group=_group("acme", "crm"))]
    assert {record["kind"] for record in records} == {"result", "summary", "rejection", "cancellation"}
    overdue = [record for record in records if record["request_id"] == "overdue"]
    assert sorted(record["reason"] for record in overdue if record["kind"] != "summary") == [
        "request_id_conflict",
        "timeout",
    ]
    admin = secure.broker.admin
    assert await secure.read(admin, RESULTS) == []
    assert await secure.read(admin, own_results("globex")) == []


# -- who is refused ------------------------------------------------------------------------------------------------


def _group(tenant: str, name: str) -> str:
    return group_prefix(tenant, NAMESPACE) + name


@pytest.mark.parametrize(
    ("user", "topic"),
    [
        (ACME, own_results("globex")),
        (GLOBEX, own_results("acme")),
        (ACME, RESULTS),
        (ACME, REQUESTS),
        (ACME, DEADLETTERS),
        (ACME, ADMISSIONS_BULK),
        (user_name("probe", NAMESPACE), REQUESTS),
        (user_name("route", NAMESPACE), own_results("acme")),
        (OPERATOR, REQUESTS),
        (OPERATOR, own_results("acme")),
    ],
    ids=lambda each: each.name if isinstance(each, Topic) else each,
)
async def test_what_is_not_theirs_to_read_is_refused(secure: Secure, user: str, topic: Topic) -> None:
    assert await secure.fetch(user, topic) == TopicAuthorizationFailedError.errno


@pytest.mark.parametrize(
    ("user", "topic"),
    [
        (ACME, own_results("acme")),
        (GLOBEX, own_results("globex")),
        (OPERATOR, DEADLETTERS),
        (user_name("gate", NAMESPACE), REQUESTS),
    ],
    ids=lambda each: each.name if isinstance(each, Topic) else each,
)
async def test_what_is_theirs_to_read_is_not(secure: Secure, user: str, topic: Topic) -> None:
    assert await secure.fetch(user, topic) == 0


@pytest.mark.parametrize(
    ("user", "topic"),
    [
        (ACME, own_results("acme")),
        (ACME, own_results("globex")),
        (ACME, RESULTS),
        (ACME, ADMISSIONS_BULK),
        (ACME, SETTLEMENTS),
        (user_name("probe", NAMESPACE), RESULTS),
        (user_name("route", NAMESPACE), SETTLEMENTS),
        (user_name("retry", NAMESPACE), RETRIES_5M),
        (user_name("gate", NAMESPACE), TASKS_BULK),
        (user_name("completion", NAMESPACE), ADMITTED_BULK),
        (OPERATOR, own_results("acme")),
    ],
    ids=lambda each: each.name if isinstance(each, Topic) else each,
)
async def test_what_is_not_theirs_to_write_is_refused(secure: Secure, user: str, topic: Topic) -> None:
    with pytest.raises(TopicAuthorizationFailedError):
        async with asyncio.timeout(20):
            await secure.write(user, topic, b"forged")


@pytest.mark.parametrize("group", [_group("globex", "crm"), "eu.mailvet-gate", "crm", "eu.mailvet.tenant.acme"])
async def test_a_tenant_has_consumer_groups_of_its_own_and_no_others(secure: Secure, group: str) -> None:
    assert await secure.read(ACME, own_results("acme"), group=_group("acme", "mine")) is not None
    with pytest.raises(GroupAuthorizationFailedError):
        async with asyncio.timeout(20):
            await secure.read(ACME, own_results("acme"), group=group)


async def test_a_tenant_can_write_requests_and_nobody_without_a_password_anything(secure: Secure) -> None:
    await secure.write(ACME, REQUESTS, b"{}")
    wrong = await asyncio.to_thread(secure.run, ACME, "diff", KAFKA_SASL_PASSWORD_FILE="", KAFKA_SASL_PASSWORD="wrong")
    assert wrong.exit_code == 2
    assert f"did not let the user {ACME} in by SASL_SSL and SCRAM-SHA-512" in wrong.output
    plain = await asyncio.to_thread(
        secure.run, ACME, "diff", KAFKA_SECURITY_PROTOCOL="SSL", KAFKA_SASL_USERNAME="", KAFKA_SASL_PASSWORD_FILE=""
    )
    assert plain.exit_code == 2
    assert "no Kafka broker answers by SSL" in plain.output


async def test_a_worker_that_is_nobody_or_somebody_else_says_so_in_one_line(secure: Secure) -> None:
    for environment, sentence in (
        (
            {"KAFKA_SASL_PASSWORD_FILE": "", "KAFKA_SASL_PASSWORD": "sesame-sesame"},
            "did not let the user eu.mailvet.gate in",
        ),
        ({"KAFKA_SASL_PASSWORD_FILE": "/nowhere"}, "KAFKA_SASL_PASSWORD_FILE: /nowhere can't be read"),
        (secure.environment(user_name("probe", NAMESPACE)), "topics are missing on the broker (eu.mailvet-gate-keys"),
    ):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ops.cli.main", "worker", "--role", "gate", "--metrics-port", "0"),
            env=os.environ
            | secure.environment(user_name("gate", NAMESPACE))
            | environment
            | {"MAILVET_BROKER_WAIT_S": "2"},
            stderr=asyncio.subprocess.PIPE,
        )
        _, err = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 2
        assert sentence in err.decode()
        assert err.count(b"\n") == 1
        assert b"sesame" not in err


# -- the operator and the administrator ----------------------------------------------------------------------------


def test_the_operator_applies_and_compares_topics_and_may_not_touch_access(secure: Secure) -> None:
    assert secure.run(OPERATOR, "diff", "--partitions", "2").exit_code == 0
    more = secure.run(OPERATOR, "apply", "--partitions", "3")
    assert "changed eu.mailvet.requests.v1: number of partitions is 2, declared 3" in more.output
    refused = secure.run(OPERATOR, "acls", "diff")
    assert refused.exit_code == 2
    assert f"{OPERATOR} may not see or change who may do what" in refused.output


def test_access_is_compared_added_to_taken_away_and_left_alone_where_it_is_not_ours(secure: Secure) -> None:
    admin = secure.broker.admin
    assert secure.run(admin, "acls", "diff").exit_code == 0
    wider = {"MAILVET_TENANT_TOPICS": "acme,globex,initech"}
    differs = secure.run(admin, "acls", "diff", **wider)
    assert differs.exit_code == 1
    assert "missing: user eu.mailvet.tenant.initech\n" in differs.output
    added = secure.run(admin, "acls", "apply", **wider)
    assert added.exit_code == 0
    [password] = [line.split() for line in added.stdout.splitlines()]
    assert password[0] == "eu.mailvet.tenant.initech"
    assert len(password[1]) == 32
    left = secure.run(admin, "acls", "apply")
    assert left.exit_code == 1
    assert "not declared: user eu.mailvet.tenant.initech\n" in left.output
    assert secure.run(admin, "acls", "diff", **wider).exit_code == 0
    removed = secure.run(admin, "acls", "apply", "--delete")
    assert removed.exit_code == 0
    assert "removed: user eu.mailvet.tenant.initech\n" in removed.output
    assert secure.run(admin, "acls", "diff").exit_code == 0
    elsewhere = secure.run(admin, "acls", "diff", MAILVET_NAMESPACE="us")
    assert "missing: user us.mailvet.gate\n" in elsewhere.output
    assert "not declared" not in elsewhere.output


def test_a_new_password_takes_the_place_of_the_old_one(secure: Secure) -> None:
    path = secure.passwords / GLOBEX
    before = path.read_text()
    rotated = secure.run(secure.broker.admin, "acls", "apply", "--passwords", str(secure.passwords), "--rotate", GLOBEX)
    assert rotated.exit_code == 0
    assert path.read_text() != before
    assert path.read_text().strip() not in rotated.output
    assert path.stat().st_mode & 0o777 == 0o600
    assert "Topic authorization failed" in secure.run(GLOBEX, "diff").output
    old = secure.run(GLOBEX, "diff", KAFKA_SASL_PASSWORD_FILE="", KAFKA_SASL_PASSWORD=before.strip())
    assert "did not let the user" in old.output


def test_only_users_that_are_declared_get_a_new_password(secure: Secure) -> None:
    unknown = secure.run(secure.broker.admin, "acls", "apply", "--rotate", "eu.mailvet.nobody")
    assert unknown.exit_code == 2
    assert "no such user" in unknown.output
