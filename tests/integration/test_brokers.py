"""Each kind of broker that this machine can run does what `ops.brokers.base.Broker` says."""

import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from ops.brokers.base import Broker, BrokerError
from ops.brokers.daemon import wait_until
from ops.brokers.embedded import Embedded
from ops.brokers.kafka import JarKafka
from ops.brokers.real import start
from ops.brokers.wire import serves


def port_of(broker: Broker) -> int:
    return int(broker.bootstrap.rpartition(":")[2])


@pytest.fixture(params=[Embedded, JarKafka], ids=["embedded", "jars"], scope="module")
def running(request: pytest.FixtureRequest) -> Iterator[Broker]:
    maker: Callable[[], Broker] = request.param
    try:
        broker = maker()
    except BrokerError as missing:
        if os.environ.get("CI", "").lower() == "true":
            raise
        pytest.skip(str(missing))
    yield broker
    broker.stop()
    assert not serves(port_of(broker))


@asynccontextmanager
async def admin(broker: Broker) -> AsyncIterator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


async def write(broker: Broker, topic: str, value: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap, enable_idempotence=broker.durable) as producer:
        await producer.send_and_wait(topic, value)


async def read(broker: Broker, topic: str) -> bytes:
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=broker.bootstrap, auto_offset_reset="earliest")
    async with consumer:
        record = await consumer.getone()
    return bytes(record.value or b"")


async def test_a_record_goes_in_and_comes_out(running: Broker) -> None:
    async with admin(running) as client:
        await client.create_topics([NewTopic("hello", 2, 1)])
    await write(running, "hello", b"x")
    assert await read(running, "hello") == b"x"


async def test_after_a_kill_the_port_is_dead_and_a_restart_serves_on_the_same_one(running: Broker) -> None:
    before = running.bootstrap
    async with admin(running) as client:
        await client.create_topics([NewTopic("kept", 1, 1)])
    await write(running, "kept", b"written before the crash")
    running.kill()
    assert not serves(port_of(running))
    running.restart()
    assert running.bootstrap == before
    assert serves(port_of(running))
    if running.durable:
        assert await read(running, "kept") == b"written before the crash"


def test_stop_can_be_called_twice() -> None:
    broker = Embedded()
    broker.stop()
    broker.stop()
    assert not serves(port_of(broker))


def test_a_broker_dies_with_the_process_that_started_it() -> None:
    program = "from ops.brokers.embedded import Embedded; print(Embedded().bootstrap, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        port = int(parent.stdout.readline().rpartition(b":")[2])
        assert serves(port)
        parent.send_signal(signal.SIGKILL)
    wait_until(lambda: not serves(port), timeout=10, what="the orphan did not end")


@pytest.mark.parametrize(("brokers", "serving"), [(0, False), (1, True)])
def test_a_broker_that_its_controller_has_not_let_in_does_not_serve_yet(brokers: int, serving: bool) -> None:
    answer = struct.pack(">iii", 1, 0, brokers)
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor() as pool:
        pool.submit(lambda: server.accept()[0].sendall(struct.pack(">i", len(answer)) + answer))
        assert serves(server.getsockname()[1]) is serving


def test_a_port_that_hangs_up_does_not_serve() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor() as pool:

        def hang_up() -> None:
            server.accept()[0].close()

        pool.submit(hang_up)
        assert not serves(server.getsockname()[1])


def test_a_given_broker_is_used_as_it_stands_and_never_stopped(running: Broker) -> None:
    given = start({"KAFKA_BOOTSTRAP_SERVERS": running.bootstrap})
    assert given.bootstrap == running.bootstrap
    given.stop()
    assert serves(port_of(running))
