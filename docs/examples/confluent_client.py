"""Verify addresses with confluent-kafka: many requests at a time, a deadline, "not now" heeded, repeats dropped.

    python confluent_client.py alice@example.com bob@example.org --key-file web.pem --deadline 60

librdkafka's partitioner (CRC32) is another than Java's and aiokafka's (murmur2): that makes no difference here.
"""

import argparse
import os
import time
from collections import deque
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from schemas.client import Client, Pending, Record, read_credential

WAIT_S = 10.0
"""For what the broker is asked at the start, and for what it still has to take at the end."""

LAST_S = 30.0
"""What is cancelled is answered within a moment."""


class Verifier:
    """Requests out and answers in, about ``window`` addresses waiting at a time."""

    def __init__(self, client: Client, producer: Producer, consumer: Consumer, window: int) -> None:
        self.client, self.producer, self.consumer, self.window = client, producer, consumer, window
        self.fresh: deque[list[str]] = deque()
        self.again: list[tuple[float, Pending]] = []

    def verify(self, addresses: list[str], size: int, deadline_s: float) -> int:
        """Ask for all, ``size`` a request, and print every verdict. What is open at the deadline is cancelled.

        Returns how many addresses were never asked for.
        """
        self.fresh.extend(addresses[first : first + size] for first in range(0, len(addresses), size))
        deadline = time.monotonic() + deadline_s
        while (self.fresh or self.again or self.client.pending) and time.monotonic() < deadline:
            self.send_what_is_due()
            self.read()
        for pending in list(self.client.pending):
            self.send(self.client.cancel(pending.request.request_id))
        deadline = time.monotonic() + LAST_S
        while self.client.pending and time.monotonic() < deadline:
            self.read()
        return sum(map(len, self.fresh)) + sum(pending.missing for _, pending in self.again) + self.client.in_flight

    def send_what_is_due(self) -> None:
        """Those that were told "not now" first, then as many new ones as the window has room for."""
        now = time.monotonic()
        due, self.again = [p for at, p in self.again if at <= now], [(at, p) for at, p in self.again if at > now]
        for pending in due:
            self.send(self.client.ask_again(pending)[1])
        while self.fresh and not self.again and self.client.in_flight < self.window:
            self.send(self.client.ask(self.fresh.popleft())[1])

    def send(self, record: Record) -> None:
        """Hand over a record; what the broker refuses ends the program."""
        self.producer.produce(
            record.topic, record.value, key=record.key, headers=record.headers, on_delivery=_raise_if_lost
        )
        self.producer.poll(0)

    def read(self) -> None:
        """Take what there is of the results topic."""
        self.producer.poll(0)
        for message in self.consumer.consume(500, timeout=0.2):
            if message.error() is not None:
                raise KafkaException(message.error())
            pending = self.client.take(message.value())
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


def _raise_if_lost(error: object, _message: object) -> None:
    if error is not None:
        raise KafkaException(error)


def main(options: argparse.Namespace) -> None:
    """Connect, look where the end of the results is, then ask."""
    text = options.key_file.read_text() if options.key_file else os.environ["MAILVET_KEY"]
    client = Client(read_credential(text), namespace=os.environ.get("MAILVET_NAMESPACE", ""))
    # Not idempotent: a repeat is charged and answered once, and a tenant needs no further right.
    producer = Producer({"bootstrap.servers": options.bootstrap, "acks": "all"})
    # A service keeps its place in a group; nothing is committed here, so the name joins none.
    consumer = Consumer(
        {"bootstrap.servers": options.bootstrap, "group.id": f"{client.tenant}-none", "enable.auto.commit": False}
    )
    try:
        topics = consumer.list_topics(timeout=WAIT_S).topics
        topic = client.find_results(topics)
        partitions = [TopicPartition(topic, number) for number in topics[topic].partitions]
        for partition in partitions:
            partition.offset = consumer.get_watermark_offsets(partition, timeout=WAIT_S)[1]
        consumer.assign(partitions)  # Before the first request: no answer can be missed.
        verifier = Verifier(client, producer, consumer, options.window)
        left = verifier.verify(options.addresses, options.size, options.deadline)
    finally:
        producer.flush(WAIT_S)
        consumer.close()
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
    main(read_options())
