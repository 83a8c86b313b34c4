"""Carries a schedule out, and makes everything whole again."""

import asyncio
import random
import signal
from collections.abc import Sequence
from contextlib import AsyncExitStack

from aiokafka import AIOKafkaProducer, TopicPartition

from ops.brokers.base import BrokerError
from ops.brokers.kafka import KafkaCluster
from tests.chaos.proxy import Proxy
from tests.chaos.rig import Rig
from tests.chaos.schedule import Fault, Kind

BROKER_STARTS = 3
"""A broker that ends as it starts (its controllers had no majority yet) is started again, as any supervisor does."""

REPEATS = 40
"""Records of a topic that are written a second time."""


class Chaos:
    """Every fault is over when :meth:`run` is, and is told in the rig's timeline."""

    def __init__(self, system: Rig, cluster: KafkaCluster, seed: int) -> None:
        self._system, self._cluster = system, cluster
        self._chance = random.Random(f"{seed} repeats")
        self._proxies: dict[str, Proxy] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> "Chaos":
        for node in self._cluster.nodes:
            proxy = await self._stack.enter_async_context(Proxy(node.front, node.behind))
            self._proxies[str(node.number)] = proxy
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def run(self, faults: Sequence[Fault]) -> None:
        """All of them, each at its time from now on."""
        began = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as group:
            for fault in faults:
                group.create_task(self._one(fault, began))

    async def _one(self, fault: Fault, began: float) -> None:
        await asyncio.sleep(max(0.0, began + fault.at_s - asyncio.get_running_loop().time()))
        self._system.note(f"{fault.kind} {fault.target} ({fault.lasts_s:.1f} s)")
        await self._carry_out(fault)
        if fault.lasts_s:
            self._system.note(f"over: {fault.kind} {fault.target}")

    async def _carry_out(self, fault: Fault) -> None:
        match fault.kind:
            case Kind.KILL | Kind.TERMINATE | Kind.FREEZE:
                await self._worker(fault)
            case Kind.BROKER_KILL | Kind.BROKER_RESTART:
                await self._broker(fault)
            case Kind.DNS | Kind.SMTP_DOWN | Kind.SMTP_FROZEN:
                await self._world(fault)
            case Kind.STALL | Kind.RESET:
                await self._network(fault)
            case Kind.REPEAT:
                await self._repeat(fault.target)

    async def _worker(self, fault: Fault) -> None:
        worker = self._system.workers[fault.target]
        if fault.kind is Kind.FREEZE:
            worker.signal(signal.SIGSTOP)
            await asyncio.sleep(fault.lasts_s)
            worker.signal(signal.SIGCONT)
            return
        self._system.wanted.discard(fault.target)
        if fault.kind is Kind.KILL:
            await asyncio.to_thread(worker.kill)
        else:
            await self._system.leave(fault.target)
        await asyncio.sleep(fault.lasts_s)
        self._system.wanted.add(fault.target)

    async def _broker(self, fault: Fault) -> None:
        number = int(fault.target)
        end = self._cluster.kill if fault.kind is Kind.BROKER_KILL else self._cluster.terminate
        await asyncio.to_thread(end, number)
        await asyncio.sleep(fault.lasts_s)
        for left in reversed(range(BROKER_STARTS)):
            try:
                await asyncio.to_thread(self._cluster.start, number)
                return
            except BrokerError as error:
                if not left:
                    raise
                self._system.note(str(error))

    async def _world(self, fault: Fault) -> None:
        world = self._system.world
        if fault.kind is Kind.DNS:
            await world.stop_dns()
            await asyncio.sleep(fault.lasts_s)
            await world.start_dns()
            return
        for name in world.host_names:
            if fault.kind is Kind.SMTP_DOWN:
                await world.stop_host(name)
            else:
                world.freeze_host(name)
        await asyncio.sleep(fault.lasts_s)
        for name in world.host_names:
            if fault.kind is Kind.SMTP_DOWN:
                await world.start_host(name)
            else:
                world.freeze_host(name, frozen=False)

    async def _network(self, fault: Fault) -> None:
        if fault.kind is Kind.STALL:
            proxy = self._proxies[fault.target]
            proxy.stall(True)
            await asyncio.sleep(fault.lasts_s)
            proxy.stall(False)
            return
        for proxy in self._proxies.values():
            proxy.refuse(True)
            proxy.reset()
        await asyncio.sleep(fault.lasts_s)
        for proxy in self._proxies.values():
            proxy.refuse(False)

    async def _repeat(self, topic: str) -> None:
        """Some records of each partition once more, as a producer writes them whose broker answered too late."""
        system = self._system
        async with (
            system.reader(topic) as reader,
            AIOKafkaProducer(bootstrap_servers=system.broker.bootstrap, acks="all", max_request_size=2**24) as producer,
        ):
            ends = await reader.end_offsets(list(reader.assignment()))
            for partition, end in ends.items():
                await self._repeat_some(reader, producer, partition, end)

    async def _repeat_some(self, reader, producer, partition: TopicPartition, end: int) -> None:  # type: ignore[no-untyped-def]
        if end == 0:
            return
        reader.seek(partition, self._chance.randrange(end))
        found = await reader.getmany(partition, timeout_ms=1000, max_records=REPEATS)
        for record in found.get(partition, ()):
            await producer.send(
                partition.topic,
                record.value,
                key=record.key,
                headers=list(record.headers),
                partition=partition.partition,
            )
        await producer.flush()
