"""DNS messages as bytes (RFC 1035 section 4, RFC 6891): the few parts that mail routing needs, read strictly."""

import struct
from ipaddress import IPv6Address
from socket import inet_ntoa
from typing import NamedTuple

from streams.dns.transport import Answer, Exchange, RecordType, Status

UDP_PAYLOAD = 1232
"""Octets of a datagram that cross any path unfragmented (DNS flag day 2020); a longer answer comes by TCP."""

_HEADER = struct.Struct("!6H")
_QUESTION = struct.Struct("!2H")
_RECORD = struct.Struct("!2HIH")
_TO_QUESTION = b"\xc0\x0c"
"""A pointer to the name that was asked: most records have it for their owner (RFC 1035 section 4.1.4)."""
_OPT = b"\x00" + struct.pack("!2HIH", 41, UDP_PAYLOAD, 0, 0)
_RECURSION_DESIRED, _RESPONSE, _TRUNCATED, _RCODE = 0x0100, 0x8000, 0x0200, 0x000F
_IN, _CNAME, _SOA = 1, 5, 6
_MAX_NAME, _MAX_LABEL = 255, 63
_MAX_TTL = 0x7FFFFFFF
_MAX_CHAIN = 16
_MAX_POINTERS = 127  # as many as a name has labels; a chain of pointers alone is work for nothing
_HOSTNAME = b"abcdefghijklmnopqrstuvwxyz0123456789-_"
_STATUS = {0: Status.NODATA, 2: Status.SERVFAIL, 3: Status.NXDOMAIN, 5: Status.REFUSED}


class BadName(ValueError):
    """A name that has no form on the wire: an empty or long label, more than 255 octets, not ASCII."""


class BadMessage(ValueError):
    """Bytes that are not a DNS message."""


class Message(NamedTuple):
    """What was read of one response."""

    ident: int
    question: bytes
    truncated: bool
    answer: Answer


class _Record(NamedTuple):
    name: str
    rdtype: int
    ttl: int
    start: int
    length: int


def encode_question(name: str, rdtype: RecordType) -> bytes:
    """The question section; :class:`BadName` where DNS cannot hold the name."""
    try:
        labels = name.lower().removesuffix(".").encode("ascii").split(b".")
    except UnicodeEncodeError:
        raise BadName("a name must be ASCII on the wire") from None
    sizes = list(map(len, labels))
    if not 0 < min(sizes) <= max(sizes) <= _MAX_LABEL or b"".join(labels).translate(None, _HOSTNAME):
        raise BadName("a label must be 1 to 63 letters, digits, hyphens or underscores")
    wire = b"".join([bytes((size,)) + label for size, label in zip(sizes, labels, strict=True)]) + b"\x00"
    if len(wire) > _MAX_NAME:
        raise BadName("a name must not exceed 255 octets")
    return wire + _QUESTION.pack(rdtype, _IN)


def encode_query(ident: int, question: bytes) -> bytes:
    """A recursive query with EDNS0."""
    return _HEADER.pack(ident, _RECURSION_DESIRED, 1, 0, 0, 1) + question + _OPT


def decode(data: bytes) -> Message:
    """Read a response; raises :class:`BadMessage` for anything that is not a whole one with one question."""
    try:
        return _decode(data)
    except (struct.error, IndexError) as short:
        raise BadMessage("the message ends too early") from short


def _decode(data: bytes) -> Message:
    ident, flags, questions, answers, authorities, _ = _HEADER.unpack_from(data)
    if not flags & _RESPONSE or questions != 1:
        raise BadMessage("not a response to one question")
    name, at = _read_name(data, _HEADER.size)
    rdtype, rdclass = _QUESTION.unpack_from(data, at)
    at += _QUESTION.size
    question = data[_HEADER.size : at].lower()
    rcode, truncated = flags & _RCODE, bool(flags & _TRUNCATED)
    if truncated or rcode not in (0, 3):
        failed = Answer(_STATUS.get(rcode, Status.SERVFAIL), name, detail=f"the server answered with code {rcode}")
        return Message(ident, question, truncated, failed)
    found, at = _read_records(data, at, answers, name, rdclass)
    canonical, ttl = _follow(data, name, found)
    if canonical is None:
        circle = Answer(Status.SERVFAIL, name, detail="the name leads through CNAME records that come to no end")
        return Message(ident, question, False, circle)
    if rcode == 0 and (records := [each for each in found if each.rdtype == rdtype and each.name == canonical]):
        ttl = _least(ttl, min(record.ttl for record in records))
        return Message(ident, question, False, _positive(data, canonical, records, ttl))
    denials, _ = _read_records(data, at, authorities, name, rdclass)
    ttl = _least(ttl, _denial_ttl(data, denials))
    return Message(ident, question, False, Answer(_STATUS[rcode], canonical, ttl=ttl))


def _positive(data: bytes, name: str, records: list[_Record], ttl: int | None) -> Answer:
    if records[0].rdtype == RecordType.MX:
        return Answer(Status.OK, name, exchanges=tuple(_exchange(data, record) for record in records), ttl=ttl)
    return Answer(Status.OK, name, addresses=tuple(_address(data, record) for record in records), ttl=ttl)


def _least(first: int | None, second: int | None) -> int | None:
    return min(first, second) if first is not None and second is not None else second if first is None else first


def _follow(data: bytes, name: str, found: list[_Record]) -> tuple[str | None, int | None]:
    """The end of the CNAME chain, null where it has none, and the least TTL on the way."""
    aliases = {record.name: record for record in found if record.rdtype == _CNAME}
    ttl = None
    for _ in range(_MAX_CHAIN):
        if (alias := aliases.get(name)) is None:
            return name, ttl
        ttl = _least(ttl, alias.ttl)
        name, _ = _read_name(data, alias.start)
    return None, ttl


def _denial_ttl(data: bytes, authority: list[_Record]) -> int | None:
    """How long a denial holds: the lesser of the SOA's TTL and its MINIMUM field (RFC 2308 section 5)."""
    for record in authority:
        if record.rdtype == _SOA and record.length >= 22:
            (minimum,) = struct.unpack_from("!I", data, record.start + record.length - 4)
            return min(record.ttl, int(minimum))
    return None


def _read_records(data: bytes, at: int, count: int, asked: str, rdclass: int) -> tuple[list[_Record], int]:
    records = []
    for _ in range(count):
        name, at = (asked, at + 2) if data.startswith(_TO_QUESTION, at) else _read_name(data, at)
        rdtype, its_class, ttl, length = _RECORD.unpack_from(data, at)
        at += _RECORD.size
        if at + length > len(data):
            raise BadMessage("a record is longer than the message")
        if its_class == rdclass:
            # RFC 2181 section 8: a TTL with the highest bit set counts as zero.
            records.append(_Record(name, rdtype, ttl if ttl <= _MAX_TTL else 0, at, length))
        at += length
    return records, at


def _exchange(data: bytes, record: _Record) -> Exchange:
    if record.length < 3:
        raise BadMessage("an MX record is too short")
    host, _ = _read_name(data, record.start + 2)
    return Exchange(int.from_bytes(data[record.start : record.start + 2]), host)


def _address(data: bytes, record: _Record) -> str:
    raw = data[record.start : record.start + record.length]
    if len(raw) != (4 if record.rdtype == RecordType.A else 16):
        raise BadMessage("an address record has the wrong length")
    return inet_ntoa(raw) if len(raw) == 4 else str(IPv6Address(raw))


def _read_name(data: bytes, at: int) -> tuple[str, int]:
    """A name at an offset, lower case and without the final dot, and the offset behind it."""
    labels: list[bytes] = []
    after, barrier, octets, pointers = -1, at, 1, 0
    while length := data[at]:
        if length <= _MAX_LABEL:
            end = at + 1 + length
            octets += length + 1
            if octets > _MAX_NAME:
                raise BadMessage("a name is longer than 255 octets")
            labels.append(data[at + 1 : end])
            at = end
            continue
        # A pointer leads strictly backwards, so that no chain of them can go round in circles.
        target = int.from_bytes(data[at : at + 2]) & 0x3FFF
        pointers += 1
        if length < 0xC0 or target >= barrier or pointers > _MAX_POINTERS:
            raise BadMessage("a name has a bad pointer")
        after = at + 2 if after < 0 else after
        at = barrier = target
    return _name_text(labels), at + 1 if after < 0 else after


def _name_text(labels: list[bytes]) -> str:
    """Host names as they are; any other octet as RFC 4343's ``\\DDD``, so that nothing hostile reaches a log."""
    if b"".join(labels).lower().translate(None, _HOSTNAME):
        return ".".join(map(_escaped, labels))
    return b".".join(labels).lower().decode("ascii")


def _escaped(label: bytes) -> str:
    return "".join(chr(octet) if octet in _HOSTNAME else f"\\{octet:03d}" for octet in label.lower())
