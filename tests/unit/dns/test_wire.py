"""The wire format, with dnspython as the second reader."""

import contextlib

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.dns.transport import Answer, Exchange, RecordType, Status
from streams.dns.wire import BadMessage, BadName, decode, encode_query, encode_question


def response(name: str, rdtype: str, *answers: tuple[str, int, str, str], **options: object) -> bytes:
    """What a server says; each answer is (owner, ttl, type, text)."""
    message = dns.message.make_response(dns.message.make_query(name, rdtype, use_edns=0))
    message.set_rcode(options.get("rcode", dns.rcode.NOERROR))
    message.answer = [dns.rrset.from_text(owner, ttl, "IN", kind, text) for owner, ttl, kind, text in answers]
    if soa := options.get("soa"):
        message.authority = [dns.rrset.from_text("test.", soa[0], "IN", "SOA", f"ns. root. 1 2 3 4 {soa[1]}")]
    if options.get("truncated"):
        message.flags |= dns.flags.TC
    return message.to_wire()


def answer_to(name: str, rdtype: str, *answers: tuple[str, int, str, str], **options: object) -> Answer:
    return decode(response(name, rdtype, *answers, **options)).answer


def test_a_query_is_one_that_dnspython_reads() -> None:
    query = dns.message.from_wire(encode_query(4711, encode_question("Mail.Example.TEST.", RecordType.MX)))
    assert query.id == 4711
    assert query.flags == dns.flags.RD
    assert query.question[0].to_text() == "mail.example.test. IN MX"
    assert (query.edns, query.payload) == (0, 1232)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "a..b",
        ".a",
        "bücher.de",
        "a" * 64 + ".test",
        ".".join(["a" * 60] * 5),
        "a b.test",
        "a\r\nb.test",
        "a\\000b",
    ],
)
def test_a_name_that_dns_cannot_hold_is_refused(name: str) -> None:
    with pytest.raises(BadName):
        encode_question(name, RecordType.A)


def test_the_longest_names_are_not() -> None:
    encode_question("a" * 63 + ".test", RecordType.A)
    encode_question(".".join(["a" * 49] * 5 + ["abc"]), RecordType.A)


def test_mx_records_come_with_preference_host_and_the_least_ttl() -> None:
    found = answer_to("d.test", "MX", ("d.test.", 300, "MX", "10 MX1.d.test."), ("d.test.", 200, "MX", "5 ."))
    assert found.status is Status.OK
    assert set(found.exchanges) == {Exchange(10, "mx1.d.test"), Exchange(5, "")}
    assert found.ttl == 200


def test_addresses_of_both_families_come_as_text() -> None:
    assert answer_to("d.test", "A", ("d.test.", 60, "A", "192.0.2.1")).addresses == ("192.0.2.1",)
    assert answer_to("d.test", "AAAA", ("d.test.", 60, "AAAA", "2001:db8::1")).addresses == ("2001:db8::1",)


def test_an_alias_is_followed_and_the_least_ttl_of_the_chain_holds() -> None:
    found = answer_to(
        "d.test",
        "A",
        ("d.test.", 60, "CNAME", "e.test."),
        ("e.test.", 30, "CNAME", "f.test."),
        ("f.test.", 90, "A", "192.0.2.1"),
    )
    assert (found.status, found.canonical, found.addresses, found.ttl) == (Status.OK, "f.test", ("192.0.2.1",), 30)


def test_an_alias_without_its_target_is_no_data_under_the_other_name() -> None:
    found = answer_to("d.test", "A", ("d.test.", 60, "CNAME", "e.test."))
    assert (found.status, found.canonical, found.ttl) == (Status.NODATA, "e.test", 60)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5])
def test_aliases_in_a_circle_teach_nothing(length: int) -> None:
    names = ["d.test.", *(f"e{n}.test." for n in range(length - 1))]
    chain = [(name, 60, "CNAME", names[(n + 1) % length]) for n, name in enumerate(names)]
    found = answer_to("d.test", "A", *chain)
    assert found.status is Status.SERVFAIL
    assert "CNAME" in found.detail


def test_records_of_other_names_and_types_are_not_an_answer() -> None:
    found = answer_to("d.test", "A", ("x.test.", 60, "A", "192.0.2.1"), ("d.test.", 60, "AAAA", "2001:db8::1"))
    assert (found.status, found.addresses) == (Status.NODATA, ())


@pytest.mark.parametrize(("soa", "ttl"), [((300, 60), 60), ((60, 300), 60), (None, None)])
def test_a_denial_holds_as_long_as_its_soa_says(soa: tuple[int, int] | None, ttl: int | None) -> None:
    missing = answer_to("d.test", "A", rcode=dns.rcode.NXDOMAIN, soa=soa)
    assert (missing.status, missing.ttl) == (Status.NXDOMAIN, ttl)
    assert answer_to("d.test", "A", soa=soa) == Answer(Status.NODATA, "d.test", ttl=ttl)


def test_other_records_beside_a_denial_say_nothing_of_its_time() -> None:
    message = dns.message.from_wire(response("d.test", "A", rcode=dns.rcode.NXDOMAIN))
    message.authority = [dns.rrset.from_text("test.", 7, "IN", "NS", "ns.test.")]
    assert decode(message.to_wire()).answer.ttl is None


@pytest.mark.parametrize(
    ("rcode", "status"),
    [
        (dns.rcode.SERVFAIL, Status.SERVFAIL),
        (dns.rcode.REFUSED, Status.REFUSED),
        (dns.rcode.FORMERR, Status.SERVFAIL),
        (dns.rcode.NOTIMP, Status.SERVFAIL),
    ],
)
def test_a_server_that_fails_teaches_nothing(rcode: int, status: Status) -> None:
    found = answer_to("d.test", "A", rcode=rcode)
    assert found.status is status
    assert found.status.temporary
    assert str(int(rcode)) in found.detail


def test_a_cut_off_answer_says_so() -> None:
    message = decode(response("d.test", "A", ("d.test.", 60, "A", "192.0.2.1"), truncated=True))
    assert message.truncated
    assert message.answer.addresses == ()


def test_octets_that_are_no_host_name_are_shown_as_numbers() -> None:
    message = dns.message.from_wire(response("d.test", "MX"))
    message.answer = [dns.rrset.from_text("d.test.", 60, "IN", "MX", r"10 a\013\010b\.c.test.")]
    assert decode(message.to_wire()).answer.exchanges == (Exchange(10, r"a\013\010b\046c.test"),)


def test_a_ttl_with_the_highest_bit_counts_as_zero() -> None:
    wire = response("d.test", "A", ("d.test.", 60, "A", "192.0.2.1"))
    at = wire.index(b"\x00\x00\x00\x3c\x00\x04")
    assert decode(wire[:at] + b"\xff\xff\xff\xff" + wire[at + 4 :]).answer.ttl == 0


def test_records_of_another_class_are_passed_over() -> None:
    wire = response("d.test", "A", ("d.test.", 60, "A", "192.0.2.1"))
    at = wire.index(b"\x00\x01\x00\x00\x00\x3c")
    assert decode(wire[:at] + b"\x00\x03" + wire[at + 2 :]).answer.status is Status.NODATA


GOOD = response("d.test", "MX", ("d.test.", 60, "MX", "10 mx.d.test."))


@pytest.mark.parametrize("cut", range(len(GOOD) - 11))
def test_a_message_that_ends_too_early_is_refused(cut: int) -> None:
    # The last eleven octets are the OPT record, which nobody reads.
    with pytest.raises(BadMessage):
        decode(GOOD[:cut])


HEADER = b"\x00\x01\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00"
TWO_ANSWERS = HEADER[:7] + b"\x02" + HEADER[8:]
QUESTION = b"\x01d\x00\x00\x01\x00\x01"
# After header and question (19 octets): a TXT record whose data are 200 pointers, each to the one before it, and the
# name that the last of them begins.
CHAIN = b"\xc0\x0c" + b"".join((0xC000 + 31 + 2 * n).to_bytes(2) for n in range(199))
POINTERS = b"\xc0\x0c\x00\x10\x00\x01\x00\x00\x00\x3c\x01\x90" + CHAIN + (0xC000 + 31 + 398).to_bytes(2)


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(encode_query(1, encode_question("d.test", RecordType.A)), id="a query"),
        pytest.param(b"\x00\x01\x81\x80\x00\x02" + GOOD[6:], id="two questions"),
        pytest.param(HEADER + b"\xc0\x0c\x00\x01\x00\x01", id="a pointer to itself"),
        pytest.param(HEADER + QUESTION + b"\xc0\x20" + bytes(20), id="a pointer forwards"),
        pytest.param(TWO_ANSWERS + QUESTION + POINTERS + b"\x00\x10\x00\x01" + bytes(6), id="a chain of pointers"),
        pytest.param(HEADER + b"\x40" + bytes(80), id="a reserved kind of label"),
        pytest.param(HEADER + (b"\x3f" + b"a" * 63) * 4 + b"\x00\x00\x01\x00\x01", id="a name of 257 octets"),
        pytest.param(
            HEADER + QUESTION + b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x03abc", id="an A of three octets"
        ),
        pytest.param(
            HEADER + b"\x01d\x00\x00\x0f\x00\x01\xc0\x0c\x00\x0f\x00\x01\x00\x00\x00\x3c\x00\x02ab",
            id="an MX of two octets",
        ),
    ],
)
def test_what_is_no_answer_is_refused(wire: bytes) -> None:
    with pytest.raises(BadMessage):
        decode(wire)


@given(st.binary(max_size=300))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    for wire in (data, HEADER + data, HEADER + QUESTION + data):
        with contextlib.suppress(BadMessage):
            decode(wire)


@given(st.data())
def test_no_bytes_changed_on_the_way_break_the_reader(data: st.DataObject) -> None:
    wire = bytearray(GOOD)
    for at in data.draw(st.lists(st.integers(0, len(wire) - 1), max_size=4)):
        wire[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(BadMessage):
        decode(bytes(wire))


LABEL = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=20)
HOST = st.lists(LABEL, min_size=1, max_size=4).map(".".join)


@given(HOST, st.lists(st.tuples(st.integers(0, 65535), HOST, st.integers(0, 2**31 - 1)), min_size=1, max_size=8))
def test_it_reads_what_dnspython_reads(name: str, records: list[tuple[int, str, int]]) -> None:
    found = answer_to(name, "MX", *((f"{name}.", ttl, "MX", f"{pref} {host}.") for pref, host, ttl in records))
    assert sorted((each.preference, each.host) for each in found.exchanges) == sorted((p, h) for p, h, _ in records)
    assert found.ttl == min(ttl for _, _, ttl in records)
