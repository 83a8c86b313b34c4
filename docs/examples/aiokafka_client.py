"""Verify addresses with aiokafka: many requests at a time, a deadline, "not now" heeded, repeats dropped.

python aiokafka_client.py alice@example.com bob@example.org --key-file web.pem --deadline 60
"""

import argparse
import asyncio
import os
import time
from collections import deque
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from schemas.client import Client, Pending, Record, read_credential

LAST_S = 30.0
"""What is cancelled is answered within a moment."""


class Verifier:
    """Requests out and answers in, about ``window`` addresses waiting at a time."""

    def __init__(self, client: Client, producer: AIOKafkaProducer, consumer: AIOKafkaConsumer, window: int) -> None:
        self.client, self.producer, self.consumer, self.window = client, producer, consumer, window
        self.fresh: deque[list[str]] = deque()
        self.again: list[tuple[float, Pending]] = []

    async def verify(self, addresses: list[str], size: int, deadline_s: float) -> int:
        """Ask for all, ``size`` a request, and print every verdict. What is open at the deadline is cancelled.

        Returns how many addresses were never asked for.
        """
        self.fresh.extend(addresses[first : first + size] for first in range(0, len(addresses), size))
        deadline = time.monotonic() + deadline_s
        while (self.fresh or self.again or self.client.pending) and time.monotonic() < deadline:
            await self.send_what_is_due()
            await self.read()
        for pending in list(self.client.pending):
            await self.send(self.client.cancel(pending.request.request_id))
        deadline = time.monotonic() + LAST_S
        while self.client.pending and time.monotonic() < deadline:
            await self.read()
        return sum(map(len, self.fresh)) + sum(pending.missing for _, pending in self.again) + self.client.in_flight

    async def send_what_is_due(self) -> None:
        """Those that were told "not now" first, then as many new ones as the window has room for."""
        now = time.monotonic()
        due, self.again = [p for at, p in self.again if at <= now], [(at, p) for at, p in self.again if at > now]
        for pending in due:
            await self.send(self.client.ask_again(pending)[1])
        while self.fresh and not self.again and self.client.in_flight < self.window:
            await self.send(self.client.ask(self.fresh.popleft())[1])

    async def send(self, record: Record) -> None:
        """Write a record; the broker has it afterwards."""
        await self.producer.send_and_wait(record.topic, record.value, key=record.key, headers=record.headers)

    async def read(self) -> None:
        """Take what there is of the results topic."""
        for batch in (await self.consumer.getmany(timeout_ms=200)).values():
            for record in batch:
                pending = self.client.take(record.value)
                if pending is not None and pending.done:
                    self.finished(pending)

    def finished(self, pending: Pending) -> None:
        """Print a request's verdicts; ask again later if it was told "not now"."""
        for _, result in sorted(pending.results.items()):
            print(result.input, result.verdict, result.reason, sep=",")
        if pending.rejection is not None:
            if pending.retry_after_s is None:
                raise SystemExit(f"rejected: {pending.rejection.reason}: {pending.rejection.message}")
            self.again.append((time.monotonic() + pending.retry_after_s, pending))


async def main(options: argparse.Namespace) -> None:
    """Connect, look where the end of the results is, then ask."""
    text = options.key_file.read_text() if options.key_file else os.environ["MAILVET_KEY"]
    client = Client(read_credential(text), namespace=os.environ.get("MAILVET_NAMESPACE", ""))
    async with (
        # Not idempotent: a repeat is charged and answered once, and a tenant needs no further right.
        AIOKafkaProducer(bootstrap_servers=options.bootstrap, acks="all") as producer,
        # A service keeps its place in a group of its own; this program wants nothing but its own answers.
        AIOKafkaConsumer(bootstrap_servers=options.bootstrap, enable_auto_commit=False) as consumer,
    ):
        topic = client.find_results(await consumer.topics())
        partitions = [TopicPartition(topic, number) for number in await producer.partitions_for(topic)]
        consumer.assign(partitions)
        for partition, end in (await consumer.end_offsets(partitions)).items():
            consumer.seek(partition, end)  # Before the first request: no answer can be missed.
        verifier = Verifier(client, producer, consumer, options.window)
        left = await verifier.verify(options.addresses, options.size, options.deadline)
    if left:
        raise SystemExit(f"the deadline passed: {left} addresses have no verdict")


def read_options() -> argparse.Namespace:
    """What was asked for on the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("addresses", nargs="+")
    parser.add_argument("--bootstrap", default=os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9092"))
    parser.add_argument("--key-file", type=Path, help="else the environment: MAILVET_KEY")
    parser.add_argument("--size", type=int, default=100, help="addresses in a request")
    parser.add_argument("--window", type=int, default=10_000, help="addresses waiting at a time")
    parser.add_argument("--deadline", type=float, default=4 * 3600.0, help="seconds")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main(read_options()))
