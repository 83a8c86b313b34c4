"""Records that nobody should write: random bytes, wrong types, deep nesting, far too large, and worse."""

import random
from collections.abc import Iterator
from typing import Any

import orjson


def hostile_values(count: int, seed: int = 7) -> Iterator[bytes]:
    """``count`` of them, the same ones for a seed. What can be answered has the request id ``hostile-<number>``."""
    chance = random.Random(seed)
    for number in range(count):
        yield _MAKERS[number % len(_MAKERS)](number, chance)


def _json(number: int, **fields: Any) -> bytes:
    return orjson.dumps({"request_id": f"hostile-{number}", "addresses": ["alice@accepts.test"], **fields})


def _nested(opening: bytes, closing: bytes, depth: int) -> bytes:
    return opening * depth + closing * depth


def _huge(number: int, chance: random.Random) -> bytes:
    # Ten megabytes once; megabytes are enough to make the point a second time.
    size = 10 * 1024 * 1024 if number < len(_MAKERS) else 1024 * 1024 + 1
    return b'{"request_id":"' + b"x" * size + b'","addresses":["a@b.test"]}'


def _control(number: int, chance: random.Random) -> bytes:
    nasty = chance.choice(["\r\nRSET\r\n", "\x00", "\n", "\x1b[2J", "\u2028", "\x7f", "\u202e", "\r", "\x85"])
    where = chance.choice(
        ["{0}a@accepts.test", "a{0}b@accepts.test", "a@accepts{0}.test", "a@accepts.test>{0}", '"{0}"@accepts.test']
    )
    return _json(number, addresses=[where.format(nasty)])


def _deep_value(number: int, chance: random.Random) -> bytes:
    return b'{"request_id":"hostile-%d","addresses":%s}' % (number, _nested(b"[", b"]", 200))


_WRONG_FIELDS: tuple[dict[str, Any], ...] = (
    {"addresses": "alice@accepts.test"},
    {"addresses": []},
    {"addresses": [1, 2, 3]},
    {"addresses": [None]},
    {"addresses": {"0": "a@b.test"}},
    {"addresses": ["a@b.test"] * 1001},
    {"addresses": ["x" * 1025]},
    {"request_id": 7},
    {"request_id": ""},
    {"request_id": "x" * 129},
    {"request_id": "a\nb"},
    {"depth": "deepest"},
    {"depth": 3},
    {"lane": "fast"},
    {"verdict_by": "tomorrow"},
    {"verdict_by": "2020-01-01T00:00:00"},
    {"options": {"retry": "perhaps"}},
    {"options": {"unheard_of": True}},
    {"unheard_of": 1},
    {"schema_version": 2},
    {"schema_version": "1.0"},
    {"schema_version": 2**62},
)

_MAKERS = (
    lambda number, chance: chance.randbytes(chance.randrange(1, 400)),
    lambda number, chance: _json(number, **chance.choice(_WRONG_FIELDS)),
    _huge,
    _control,
    lambda number, chance: _nested(b"[", b"]", 100_000),
    lambda number, chance: _nested(b'{"a":', b"}", 50_000),
    _deep_value,
    lambda number, chance: _json(number)[:-2] + b"\xff\xfe" + b'"]}',
    lambda number, chance: b"",
    lambda number, chance: b"null",
    lambda number, chance: b'{"request_id":"twice","request_id":"hostile-%d","addresses":["a@b.test"]}' % number,
    lambda number, chance: b'{"request_id":"hostile-%d","addresses":["a@b.test"],"x":%s}' % (number, b"9" * 5000),
    lambda number, chance: b'{"request_id":"hostile-%d","addresses":["\\ud800@b.test"]}' % number,
    lambda number, chance: _json(
        number, addresses=["a" * 300 + "@accepts.test", "@", "", " ", "a@b@c", "a@[127.0.0.1]"]
    ),
    lambda number, chance: _json(number, verdict_by="1970-01-01T00:00:00Z"),
    lambda number, chance: _json(number, verdict_by="9999-12-31T23:59:59Z"),
    lambda number, chance: b"\xef\xbb\xbf" + _json(number),
    lambda number, chance: _json(number).decode().encode("utf-16"),
)
