"""What is asked in a run: requests of every size in both lanes, and records that nobody can use. Pure."""

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import orjson

from ops.world import Sample
from schemas.request import MAX_REQUEST_BYTES, request_uid
from streams.access.credentials import HEADER

SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500)
MALFORMED_EVERY = 8
"""After so many requests there is one that is none."""

Headers = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class Ask:
    """A record for ``requests.v1``; what it asks for, which is nothing where nobody can read it."""

    value: bytes | None
    headers: Headers
    key: bytes | None = None
    uid: str = ""
    samples: tuple[Sample, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 of its bytes."""
        return hashlib.sha256(self.value or b"").hexdigest()


def asks(
    samples: Sequence[Sample], *, tenant: str, key: str, seed: int, malformed_every: int = MALFORMED_EVERY
) -> Iterator[Ask]:
    """Requests for all samples, in the order of a seed, with malformed records among them."""
    chance = random.Random(f"{seed} load")
    left = list(samples)
    chance.shuffle(left)
    headers: Headers = ((HEADER, key.encode()),)
    malformed = _malformed(headers, f"{tenant}-{seed}")
    for number in count(1):
        if not left:
            return
        size = min(chance.choice(SIZES), len(left))
        piece, left = tuple(left[:size]), left[size:]
        name = f"chaos-{seed}-{number}"
        body = {"request_id": name, "addresses": [sample.address for sample in piece]}
        yield Ask(orjson.dumps(body), headers, None, request_uid(tenant, name), piece)
        if number % malformed_every == 0:
            yield next(malformed)


def _malformed(headers: Headers, name: str) -> Iterator[Ask]:
    """For ever; no two of them have the same bytes, but for the record without any."""
    yield Ask(None, headers, b"a tombstone")
    for number in count():
        good = orjson.dumps({"request_id": f"{name}-bad-{number}", "addresses": ["alice@accepts.test"]})
        text = str(number).encode()
        yield from (
            Ask(b"no JSON " + text, headers),
            Ask(b'{"request_id": "' + text, headers),
            Ask(good[:-2] + b"\xff" + good[-2:], headers),
            Ask(orjson.dumps({"request_id": f"{name}-{number}", "addresses": []}), headers),
            Ask(orjson.dumps({"schema_version": 99, "request_id": f"{name}-{number}", "addresses": ["a@b"]}), headers),
            Ask(good, ()),
            Ask(good + b" ", ((HEADER, b"Bearer nonsense"),)),
            Ask(b"[" * (MAX_REQUEST_BYTES + 1 + number), headers),
        )
