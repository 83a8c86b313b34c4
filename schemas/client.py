"""Asking and reading in Python, whichever Kafka library carries the records: no I/O, no thread, no clock of its own.

:class:`Client` makes the records to write (:class:`Record`) and is given the value of each record that was read; what
belongs to a request stands in its :class:`Pending`. Nothing of ours but :mod:`schemas` is needed. Two programs around
it are in ``docs/examples``, one on aiokafka and one on confluent-kafka.
"""

import time
import uuid
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import TypeAdapter, ValidationError

from schemas import bearer, signing
from schemas.request import Cancel, Request, request_uid
from schemas.result import Cancellation, Output, Rejection, Result, Summary
from schemas.signing import Malformed
from schemas.topics import REQUESTS, RESULTS, own_results, physical_name
from schemas.vocabulary import THROTTLED

Headers = list[tuple[str, bytes]]

KEY_ID_LINE = f"{signing.KEY_ID_HEADER}: "
"""Stands before the id of the key in a file that ``mailvet keys create`` wrote, above the private key."""

_PEM = "-----BEGIN "
_OUTPUT: TypeAdapter[Result | Rejection | Summary | Cancellation] = TypeAdapter(Output)


class Unnamed(Malformed):
    """A private key without the id of the key that it belongs to."""


class Presenter(Protocol):
    """Whoever sends requests, with the credential that proves it."""

    @property
    def tenant(self) -> str: ...

    def headers(self, topic: str, request_id: str, value: bytes) -> Headers:
        """The headers of one record on its way to ``topic``."""


@dataclass(frozen=True, slots=True)
class BearerKey:
    """A bearer key, checked for mistypes: its tenant can't be read from one that is :class:`Malformed`."""

    token: str = field(repr=False)

    @property
    def tenant(self) -> str:
        """Whose key it is."""
        return bearer.parse(self.token).tenant

    def headers(self, _topic: str, _request_id: str, _value: bytes) -> Headers:
        """The key itself, the same for every record."""
        return [(bearer.HEADER, self.token.encode())]


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key and the id of the key that it belongs to. ``clock``: seconds since 1970."""

    key_id: str
    private: Ed25519PrivateKey = field(repr=False)
    audience: str = signing.DEFAULT_AUDIENCE
    clock: Callable[[], float] = time.time

    @property
    def tenant(self) -> str:
        """Whose key it is."""
        return signing.split_key_id(self.key_id)[0]

    def headers(self, topic: str, request_id: str, value: bytes) -> Headers:
        """A signature over the record, as of now."""
        return signing.sign(
            self.private,
            audience=self.audience,
            topic=topic,
            key_id=self.key_id,
            signed_at_ms=round(self.clock() * 1000),
            request_id=request_id,
            value=value,
        )


def read_credential(
    text: str, key_id: str | None = None, audience: str = signing.DEFAULT_AUDIENCE
) -> BearerKey | SigningKey:
    """The credential in a file that ``mailvet keys create`` wrote: a bearer key, or a private key in PEM.

    ``key_id`` is that of a private key whose file does not say it.

    Raises:
        Malformed: it is neither (:class:`Unnamed`: nobody says whose private key it is). Nothing of it is quoted.
    """
    if _PEM not in text:
        token = (text.splitlines() or [""])[0].strip()
        bearer.parse(token)
        return BearerKey(token)
    before = text[: text.index(_PEM)].splitlines()
    in_file = next((line.removeprefix(KEY_ID_LINE).strip() for line in before if line.startswith(KEY_ID_LINE)), None)
    name = key_id or in_file
    if not name:
        raise Unnamed("whose private key is it? Its key id, TENANT_KEY, is missing")
    signing.split_key_id(name)
    return SigningKey(name, signing.read_private_key(text.encode()), audience)


def read_output(value: bytes | None) -> Result | Rejection | Summary | Cancellation | None:
    """A record of a results topic; None for what is none, or a newer version's."""
    try:
        return _OUTPUT.validate_json(value or b"")
    except ValidationError:
        return None


@dataclass(frozen=True, slots=True)
class Record:
    """A record to write, as every Kafka library takes it.

    Where it lands does not matter, so any partitioner will do. The same key for a request and what is said of it later
    keeps their order.
    """

    topic: str
    key: bytes
    value: bytes
    headers: Headers = field(repr=False)


@dataclass(slots=True)
class Pending:
    """A request and what has come of it so far. ``request_uid`` is the key of all its records."""

    request: Request
    request_uid: str
    results: dict[int, Result] = field(default_factory=dict)
    summary: Summary | None = None
    rejection: Rejection | None = None
    cancellation: Cancellation | None = None
    """The latest answer to a request to cancel it."""

    @property
    def missing(self) -> int:
        """Addresses without their verdict."""
        return len(self.request.addresses) - len(self.results)

    @property
    def done(self) -> bool:
        """Nothing more will come: every verdict and the summary are there, or the request was rejected.

        A summary may be read before the last result where they were repeated after a crash.
        """
        return self.rejection is not None or (self.summary is not None and not self.missing)

    @property
    def retry_after_s(self) -> float | None:
        """How many seconds after a rejection the same may be asked again; None where that would not help."""
        rejection = self.rejection
        if rejection is None or (rejection.reason not in THROTTLED and rejection.retry_after_ms is None):
            return None
        return (rejection.retry_after_ms or 0) / 1000

    def take(self, output: Result | Rejection | Summary | Cancellation) -> bool:
        """Note one record of this request. False for a repeat (:mod:`schemas.dedupe`): it is the same to the byte."""
        if isinstance(output, Result):
            return self.results.setdefault(output.index, output) is output
        known: Rejection | Summary | Cancellation | None = getattr(self, output.kind)
        setattr(self, output.kind, output)
        return output != known


class Client:
    """The requests of one tenant, many at a time, and their answers.

    A results topic may be read by many: what is not of an open request here is passed over, and so is what was
    published again. Memory grows with what is open, which is the caller's to bound.

    Args:
        presenter: the credential.
        namespace: of the installation, where several share a broker.
        own_topic: the tenant's results stand in a topic of its own; :meth:`find_results` looks.

    Raises:
        Malformed: the credential can't be right.
    """

    def __init__(self, presenter: Presenter, *, namespace: str = "", own_topic: bool = False) -> None:
        self.tenant = presenter.tenant
        self.requests_topic = physical_name(REQUESTS.name, namespace)
        self._presenter = presenter
        self._shared, self._own = (each.named(namespace).name for each in (RESULTS, own_results(self.tenant)))
        self.results_topic = self._own if own_topic else self._shared
        self._open: dict[str, Pending] = {}

    def find_results(self, topics: Collection[str]) -> str:
        """The results topic, given all topics that the broker shows us: the tenant's own where there is one."""
        self.results_topic = self._own if self._own in topics else self._shared
        return self.results_topic

    @property
    def pending(self) -> Collection[Pending]:
        """The open requests."""
        return self._open.values()

    @property
    def in_flight(self) -> int:
        """Addresses of open requests without their verdict."""
        return sum(pending.missing for pending in self._open.values())

    def ask(self, addresses: Iterable[str], *, request_id: str | None = None, **fields: Any) -> tuple[Pending, Record]:
        """Open a request: what will come of it, and the record to write once results are being read.

        A record that may have been lost is written again as it is (:meth:`record` signs it anew): it is charged and
        answered once by its id. ``fields`` are those of :class:`schemas.request.Request`.

        Raises:
            pydantic.ValidationError: it is no request; nothing was opened.
        """
        request = Request(request_id=request_id or uuid.uuid4().hex, addresses=tuple(addresses), **fields)
        pending = Pending(request, request_uid(self.tenant, request.request_id))
        self._open[pending.request_uid] = pending
        return pending, self.record(pending)

    def ask_again(self, rejected: Pending) -> tuple[Pending, Record]:
        """A rejected request under an id of its own, for the decision on the old one stands."""
        request = rejected.request
        fields = {name: getattr(request, name) for name in request.model_fields_set - {"request_id", "addresses"}}
        return self.ask(request.addresses, **fields)

    def record(self, pending: Pending) -> Record:
        """The request's record, its value the same bytes every time, signed as of now."""
        return self._record(pending.request.request_id, pending.request)

    def cancel(self, request_id: str) -> Record:
        """The record that ends a request of this key: what is not decided is answered ``unknown``, ``cancelled``."""
        return self._record(request_id, Cancel(request_id=request_id))

    def take(self, value: bytes | None) -> Pending | None:
        """Note a record of the results topic. Returns its request if it is one of ours and this was news.

        A request that is done is closed: later records of it are a stranger's.
        """
        output = read_output(value)
        pending = self._open.get(output.request_uid) if output is not None else None
        if output is None or pending is None or not pending.take(output):
            return None
        if pending.done:
            del self._open[pending.request_uid]
        return pending

    def forget(self, pending: Pending) -> None:
        """Close a request that nobody waits for any longer. It goes on unless it is cancelled."""
        self._open.pop(pending.request_uid, None)

    def _record(self, request_id: str, body: Request | Cancel) -> Record:
        # What is not set is left out, so that a default may change without another body.
        value = body.model_dump_json(exclude_unset=isinstance(body, Request)).encode()
        headers = self._presenter.headers(self.requests_topic, request_id, value)
        return Record(self.requests_topic, request_id.encode(), value, headers)
