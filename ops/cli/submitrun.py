"""A run of `submit` from its first request to the file of results, whether it is begun or gone on with."""

import secrets
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import click
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from ops.cli.csvfiles import CsvFile, sha256_of, write_csv
from ops.cli.errors import Interrupted, Unfinished, UserError
from ops.cli.kafka import consumer, producer, read_from, require_topics
from ops.cli.output import counted, printable
from ops.cli.progress import Meter
from ops.cli.signals import stop_on_signals, unless_stopped
from ops.cli.submission import COLUMNS, Asked, Plan, Submission
from ops.cli.submitstate import Learned, State
from schemas.client import Presenter
from schemas.topics import REQUESTS, RESULTS, own_results, physical_name
from schemas.vocabulary import Depth, Lane

RESULTS_TOPIC = "results topic"
GO_ON = "the same command with --resume goes on"


@dataclass(frozen=True, slots=True)
class Job:
    """What was asked for, checked."""

    source: CsvFile
    out: Path
    key: Presenter
    bootstrap: str
    namespace: str
    results_topic: str
    """Empty: the tenant's own where it has one."""
    depth: Depth
    lane: Lane | None
    request_size: int
    window: int
    timeout: float

    @property
    def state_path(self) -> Path:
        """The state lies beside the results."""
        return self.out.with_name(f"{self.out.name}.state")

    def settings(self) -> dict[str, str]:
        """What must not change between a run and the one that goes on with it."""
        return {
            "content of the file": sha256_of(self.source.path),
            "--column": self.source.header[self.source.column],
            "--delimiter": self.source.delimiter,
            "--encoding": self.source.encoding,
            "--request-size": str(self.request_size),
            "--depth": self.depth,
            "--lane": self.lane or "",
            "--namespace": self.namespace,
            "--results-topic": self.results_topic,
            "tenant of the key": self.key.tenant,
        }


def new_state(job: Job) -> State:
    """Begin: all of the file is read before anything is sent, so no request is charged for one that turns out broken.

    Raises:
        UserError: the file can't be read to its end, or the state file can't be written.
    """
    total = sum(1 for _ in job.source.addresses())
    settings = job.settings()
    run = f"csv-{settings['content of the file'][:16]}-{secrets.token_hex(4)}"
    return State(job.state_path, {**settings, "run": run, "total": str(total)})


def prepared(job: Job, state: State) -> "Run":
    """The run that `state` stands for.

    Raises:
        UserError: it was begun with another file, key or options.
    """
    changed = [name for name, value in job.settings().items() if state.settings.get(name) != value]
    if changed:
        raise UserError(f"can't go on: {', '.join(changed)} changed since the run was begun; --force begins anew")
    plan = Plan(
        run=state.settings["run"],
        tenant=state.settings["tenant of the key"],
        key=job.key,
        requests_topic=physical_name(REQUESTS.name, job.namespace),
        request_size=job.request_size,
        total=int(state.settings["total"]),
        depth=job.depth,
        lane=job.lane,
    )
    return Run(job, plan, state)


@dataclass(frozen=True, slots=True)
class Run:
    """A job and its state, and what is left to do."""

    job: Job
    plan: Plan
    state: State

    async def to_the_end(self) -> None:
        """Ask everything that has no answer yet.

        Raises:
            UserError: no broker answers, or it has not our topics.
            Unfinished, Interrupted: the sentence says why, how much is done, and how to go on.
        """
        if self.state.answered() == self.plan.total:
            return
        try:
            with stop_on_signals() as stop:
                await unless_stopped(self._ask(), stop)
        except KafkaError as error:
            raise self._on_the_way(Unfinished(f"the broker refused: {printable(str(error))}")) from None
        except (Unfinished, Interrupted) as error:
            raise self._on_the_way(error) from None

    def _on_the_way(self, error: click.ClickException) -> click.ClickException:
        done = f"{self.state.answered():,} of {counted(self.plan.total, 'address', 'addresses')} are answered"
        error.message = f"{error.message}; {done}, {GO_ON}"
        return error

    async def _ask(self) -> None:
        job, plan, state = self.job, self.plan, self.state
        async with consumer(job.bootstrap) as reader, producer(job.bootstrap) as writer:
            results_topic = await self._results_topic(reader)
            await require_topics(reader, plan.requests_topic, results_topic)
            partitions = await writer.partitions_for(results_topic)
            positions = await read_from(reader, results_topic, partitions, state.positions())
            # Kept before the first request goes out: its answers lie behind these offsets, whenever we read them.
            state.learn(Learned(positions=positions))
            with Meter(plan.total, state.answered()) as meter:
                submission = Submission(
                    plan,
                    state,
                    writer,
                    reader,
                    begun=self.begun(),
                    fresh=self.fresh(),
                    window=job.window,
                    timeout=job.timeout,
                    meter=meter,
                )
                await submission.run()

    async def _results_topic(self, reader: AIOKafkaConsumer) -> str:
        """The one that was named, else the one that this run read before, else the tenant's own where we see one."""
        job, known = self.job, self.state.settings.get(RESULTS_TOPIC)
        if job.results_topic or known:
            return job.results_topic or known or ""
        shared, own = (
            topic.named(job.namespace).name
            for topic in (RESULTS, own_results(self.state.settings["tenant of the key"]))
        )
        found = own if own in await reader.topics() else shared
        self.state.remember(RESULTS_TOPIC, found)
        return found

    def begun(self) -> list[Asked]:
        """What an earlier run may have sent and what isn't answered in full."""
        waiting = {}
        for number, sent in self.state.begun().items():
            if missing := self.state.missing(self.plan.ordinals(number)):
                waiting[number] = (sent, missing)
        return [
            Asked(number, addresses, set(missing), sent.generation, sent.delivered, earlier=True)
            for number, addresses in self._batches(waiting)
            for sent, missing in [waiting[number]]
        ]

    def fresh(self) -> Iterator[Asked]:
        """What nobody has sent yet, read from the file as it is wanted."""
        begun = self.state.begun()
        for number, addresses in self._batches():
            if number not in begun:
                yield Asked(number, addresses, set(self.plan.ordinals(number)))

    def _batches(self, only: Container[int] | None = None) -> Iterator[tuple[int, tuple[str, ...]]]:
        if only is not None and not only:
            return
        addresses = self.job.source.addresses()
        for number in range(-(-self.plan.total // self.plan.request_size)):
            batch = tuple(islice(addresses, len(self.plan.ordinals(number))))
            if only is None or number in only:
                yield number, batch

    def write(self) -> Mapping[str, int]:
        """Write the results; returns how many of each verdict there are.

        Raises:
            Unfinished: the file was changed while its addresses were asked.
            UserError: the results can't be written.
        """
        if sha256_of(self.job.source.path) != self.state.settings["content of the file"]:
            raise Unfinished(
                f"{self.job.source.path} was changed while its addresses were asked, so the answers do not fit its "
                "rows: put the old content back and use --resume, or begin anew with --force"
            )
        verdicts: Counter[str] = Counter()
        write_csv(self.job.source, self.job.out, COLUMNS, _counting(self.state.cells(), verdicts))
        return verdicts


def _counting(rows: Iterable[Sequence[str]], verdicts: Counter[str]) -> Iterator[Sequence[str]]:
    for row in rows:
        verdicts[row[0]] += 1
        yield row
