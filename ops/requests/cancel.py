"""The end of a request: asked for by its client with its key, or ordered by an operator."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from ops.cli.errors import Unfinished, UserError
from ops.cli.kafka import POLL_MS, consumer, producer, read_from, require_topics
from ops.requests.reading import find
from ops.requests.status import State, Status
from schemas.client import Client, Presenter, read_output
from schemas.pipeline import CancelOrder
from schemas.request import request_uid
from schemas.result import Cancellation, CancelOutcome, Output, Summary
from schemas.topics import CANCELS, physical_name
from streams.codec import encode

LONGEST_PAUSE_S = 5.0


async def ask_to_cancel(
    bootstrap: str, namespace: str, presenter: Presenter, request_id: str, *, within_s: float
) -> tuple[Cancellation, Summary | None]:
    """The gate's answer and, where it was accepted, the summary that followed.

    Raises:
        UserError: no broker, or its topics are missing.
        Unfinished: the answer did not come within ``within_s`` seconds.
    """
    client = Client(presenter, namespace=namespace)
    async with consumer(bootstrap) as reader, producer(bootstrap) as writer:
        topic = client.find_results(await reader.topics())
        await require_topics(reader, client.requests_topic, topic)
        await read_from(reader, topic, await writer.partitions_for(topic), {})
        record, found = client.cancel(request_id), list[Output]()
        try:
            async with asyncio.timeout(within_s):
                await writer.send_and_wait(record.topic, record.value, key=record.key, headers=record.headers)
                await _follow(reader, request_uid(client.tenant, request_id), found)
        except TimeoutError:
            pass
        except KafkaError as error:
            raise Unfinished(f"the broker refused the request: {error!r}") from None
    answers = [each for each in found if isinstance(each, Cancellation)]
    if not answers:
        raise Unfinished(
            f"no answer came within {within_s:g} s: is a worker with the role gate running, and does it know this key? "
            "The request may still be cancelled; asking again does no harm"
        )
    return answers[-1], next((each for each in found if isinstance(each, Summary)), None)


async def _follow(reader: AIOKafkaConsumer, uid: str, found: list[Output]) -> None:
    """Read until the answer is there and, where it was accepted, the summary."""
    while True:
        for batch in (await reader.getmany(timeout_ms=POLL_MS)).values():
            found += [each for record in batch if (each := read_output(record.value)) and each.request_uid == uid]
        outcomes = {each.outcome for each in found if isinstance(each, Cancellation)}
        summed = any(isinstance(each, Summary) for each in found)
        if outcomes and (summed or outcomes != {CancelOutcome.ACCEPTED}):
            return


async def order_to_cancel(
    bootstrap: str,
    namespace: str,
    tenant: str,
    request_id: str,
    *,
    by: str,
    delays_s: Sequence[float],
    within_s: float,
) -> Status:
    """Order the end of a request that runs; how it stood if it did not, and else how it ended.

    Raises:
        UserError: no broker, topics are missing, or the tables are not ours to read: then this is no operator.
        Unfinished: it did not end within ``within_s`` seconds.
    """
    look = partial(find, bootstrap, namespace, tenant, request_id, delays_s=delays_s, within_s=within_s)
    try:
        async with asyncio.timeout(within_s):
            status = await look()
            if not _runs(status):
                return status
            if status.verdict_by is None:
                raise UserError("the tables can't be read, so this is no operator: cancel with the key that asked")
            order = CancelOrder(request_uid=status.request_uid, verdict_by=status.verdict_by, by=by)
            await _order(bootstrap, namespace, order)
            return await _end_of(look)
    except TimeoutError:
        raise Unfinished(
            f"it did not end within {within_s:g} s: is a worker with the role completion running? The order stands"
        ) from None


def _runs(status: Status) -> bool:
    return status.state in (State.RUNNING, State.CANCELLING)


async def _end_of(look: Callable[[], Awaitable[Status]]) -> Status:
    pause_s = 0.5
    while _runs(status := await look()):
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
    return status


async def _order(bootstrap: str, namespace: str, order: CancelOrder) -> None:
    topic = physical_name(CANCELS.name, namespace)
    async with consumer(bootstrap) as reader, producer(bootstrap) as writer:
        await require_topics(reader, topic)
        try:
            await writer.send_and_wait(topic, encode(order), key=order.request_uid.encode())
        except KafkaError as error:
            raise Unfinished(f"the broker refused the order: {error!r}") from None
