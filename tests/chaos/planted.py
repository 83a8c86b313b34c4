"""`mailvet` with a defect: what the worker is protected by is taken away, so that the chaos suite has to find it.

Run as ``python -m tests.chaos.planted worker --role ROLE``; ``CHAOS_DEFECT`` names one of :data:`DEFECTS`.
"""

import asyncio
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from schemas.pipeline import Attempt
from streams.delivery import OrderedAcks, runner
from streams.records import Incoming, Outgoing
from streams.roles import completion, gate, retry
from streams.roles.progress import Progress


def early_ack() -> None:
    """As Faust does by itself: a record counts as done when it was taken, whatever becomes of its work."""
    begin = runner.Delivery._begin

    def _begin(self: runner.Delivery, event: runner.Event) -> None:
        begin(self, event)
        event.ack()

    runner.Delivery._begin = _begin  # type: ignore[method-assign]


def unordered_acks() -> None:
    """As with several handlers under Faust: the highest offset is committed, whatever is unfinished before it."""
    OrderedAcks.done = lambda self, offset: [offset]  # type: ignore[method-assign]


def cancelled_counts_as_done() -> None:
    """As Faust's ``finally`` does it: a handler that was cancelled acknowledges its record."""
    work = runner.Delivery._work

    async def _work(self: runner.Delivery, lane: Any, record: Incoming) -> None:
        event = lane.events.get(record.offset)
        try:
            await work(self, lane, record)
        except asyncio.CancelledError:
            event.ack()
            raise

    runner.Delivery._work = _work  # type: ignore[method-assign]


def dropped_retry() -> None:
    """Every fifth record that is due is committed and not forwarded."""
    number, forward = itertools.count(1), retry.Tier._work

    async def _work(self: retry.Tier, partition: Any, records: Sequence[Incoming]) -> None:
        deliver = self._deliver

        async def some(outputs: Sequence[Outgoing]) -> None:
            await deliver([output for output in outputs if next(number) % 5])

        self._deliver = some
        try:
            await forward(self, partition, records)
        finally:
            self._deliver = deliver

    retry.Tier._work = _work  # type: ignore[method-assign]


def double_charge() -> None:
    """A request that comes again is decided again."""
    admit = gate.Gate.admit

    async def _admit(self: gate.Gate, record: Incoming) -> Sequence[Outgoing]:
        self._decision = lambda tenant, uid: None  # type: ignore[method-assign]
        try:
            return await admit(self, record)
        finally:
            del self._decision

    gate.Gate.admit = _admit  # type: ignore[method-assign]


def skipped_dead_letter() -> None:
    """Every second record that can't be used is left out."""
    number, handle = itertools.count(1), runner.Delivery._handle

    async def _handle(self: runner.Delivery, record: Incoming) -> Sequence[Outgoing]:
        outputs = await handle(self, record)
        dead = [output for output in outputs if output.topic == "mailvet.deadletters.v1"]
        return () if dead and next(number) % 2 == 0 else outputs

    runner.Delivery._handle = _handle  # type: ignore[method-assign]


def changed_on_replay() -> None:
    """Nobody remembers what was decided: a later record says it again in its own words."""
    decide = completion.decide

    def forgetful(before: Progress, name: str, attempt: Attempt, at: Any) -> Progress:
        return decide(before.model_copy(update={"by": {}, "finished_by": None}), name, attempt, at)

    completion.decide = forgetful


DEFECTS: Final[Mapping[str, Callable[[], None]]] = {
    each.__name__: each
    for each in (
        early_ack,
        unordered_acks,
        cancelled_counts_as_done,
        dropped_retry,
        double_charge,
        skipped_dead_letter,
        changed_on_replay,
    )
}

if __name__ == "__main__":
    from ops.cli.main import main

    DEFECTS[os.environ["CHAOS_DEFECT"]]()
    main()
