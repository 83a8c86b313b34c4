"""The pure parts of the world: lines, grammar, greylist, zone, catalogue, bulk addresses, counters."""

import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.world import CATALOGUE, EXPECTED, World, WorldConfig, greylist
from ops.world.bulk import bulk_addresses, bulk_domain
from ops.world.grammar import domain_key, forward_path, is_hello, reverse_path
from ops.world.greylist import Greylist
from ops.world.lines import MAX_UNFINISHED, LineReader
from ops.world.personality import ORDINARY, UNKNOWN_MAILBOX, DnsFault, Records
from ops.world.stats import MAX_VIOLATIONS, ViolationKind, WorldStats
from ops.world.zone import Zone
from schemas.vocabulary import Reason, Verdict

# Lines


@given(st.lists(st.binary(max_size=20)), st.integers(1, 7))
def test_lines_do_not_depend_on_how_the_bytes_arrive(parts: list[bytes], size: int) -> None:
    data = b"\r\n".join(parts)
    whole, pieces = LineReader(), LineReader()
    expected = whole.feed(data)
    assert [line for at in range(0, len(data), size) for line in pieces.feed(data[at : at + size])] == expected


def test_an_endless_line_is_not_kept_for_good() -> None:
    reader = LineReader()
    for _ in range(10):
        assert reader.feed(b"x" * MAX_UNFINISHED) == []
    assert reader.feed(b"\r") == []
    (line,) = reader.feed(b"\n")
    assert len(line) < 2 * MAX_UNFINISHED


# Grammar


@pytest.mark.parametrize(
    ("argument", "address"),
    [
        ("TO:<alice@a.test>", "alice@a.test"),
        ("to:<a.b+c@a.test>", "a.b+c@a.test"),
        ('TO:<"a b\\"@"@a.test>', '"a b\\"@"@a.test'),
        ("TO:<a@[127.0.0.1]>", "a@[127.0.0.1]"),
        ("TO:<jörg@bücher.test>", "jörg@bücher.test"),
        ("TO:<postmaster>", "postmaster"),
    ],
)
def test_forward_paths(argument: str, address: str) -> None:
    path = forward_path(argument)
    assert path is not None
    assert path.address == address


@pytest.mark.parametrize(
    "argument",
    [
        "<a@a.test>",
        "TO:<>",
        "TO: <a@a.test>",
        "TO:<a@a.test",
        "TO:<.a@a.test>",
        "TO:<a..b@a.test>",
        "TO:<a b@a.test>",
        "TO:<a@-a.test>",
        "TO:<a@a..test>",
        "TO:<a@a.test>X=1",
        "TO:<a@a.test> ",
        f"TO:<a@{'a.' * 130}test>",
        f"TO:<{'ä' * 33}@a.test>",
    ],
)
def test_what_is_no_forward_path(argument: str) -> None:
    assert forward_path(argument) is None


def test_reverse_paths_may_be_null_and_carry_parameters() -> None:
    null, full = reverse_path("FROM:<> BODY=8BITMIME"), reverse_path("from:<a@b.test> SIZE=1 SMTPUTF8")
    assert null is not None
    assert (null.address, null.parameters) == ("", ("BODY=8BITMIME",))
    assert full is not None
    assert (full.address, full.parameters) == ("a@b.test", ("SIZE=1", "SMTPUTF8"))
    assert reverse_path("FROM:<>x") is None
    assert reverse_path("TO:<a@b.test>") is None


def test_hello_names() -> None:
    assert is_hello("mail.a.test")
    assert is_hello("[127.0.0.1]")
    assert not is_hello("two words")


def test_domains_compare_as_a_labels() -> None:
    assert domain_key("BÜCHER.test") == "xn--bcher-kva.test"
    assert domain_key("A.Test") == "a.test"
    assert domain_key("ä" * 70 + ".test") == "ä" * 70 + ".test"


# Greylist


def test_the_oldest_triplet_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greylist, "MAX_TRIPLETS", 2)
    memory = Greylist(10)
    for second, recipient in enumerate(("a", "b", "c")):
        memory.wait("c", "s", recipient, second)
    assert memory.wait("c", "s", "b", 11) == 0
    assert memory.wait("c", "s", "a", 11) == 10


# DNS


def zone() -> Zone:
    names = {
        "a.test": Records(mx=("mx.a.test", "mx2.a.test")),
        "mx.a.test": Records(a=("mx.a.test",), aaaa=("::1",)),
        "null.test": Records(mx=(".",)),
        "alias.test": Records(cname="a.test"),
        "loop.test": Records(cname="loop.test"),
        "bad.test": Records(fault=DnsFault.SERVFAIL),
        "no.test": Records(fault=DnsFault.REFUSED),
        "quiet.test": Records(fault=DnsFault.SILENT),
        "deep.down.test": Records(txt="hello"),
    }
    return Zone(names, {"mx.a.test": "127.77.0.1"}, 60)


def ask(name: str, kind: str) -> tuple[str, list[str]]:
    response, _ = zone().answer(dns.message.make_query(name, kind))
    return dns.rcode.to_text(response.rcode()), [item.to_text() for rrset in response.answer for item in rrset]


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("a.test", "MX", ("NOERROR", ["10 mx.a.test.", "20 mx2.a.test."])),
        ("MX.A.test", "A", ("NOERROR", ["127.77.0.1"])),
        ("mx.a.test", "AAAA", ("NOERROR", ["::1"])),
        ("null.test", "MX", ("NOERROR", ["0 ."])),
        ("alias.test", "MX", ("NOERROR", ["a.test.", "10 mx.a.test.", "20 mx2.a.test."])),
        ("alias.test", "CNAME", ("NOERROR", ["a.test."])),
        ("deep.down.test", "TXT", ("NOERROR", ['"hello"'])),
        ("deep.down.test", "SRV", ("NOERROR", [])),
        ("down.test", "A", ("NOERROR", [])),
        ("missing.test", "MX", ("NXDOMAIN", [])),
        ("mx2.a.test", "A", ("NXDOMAIN", [])),
        ("bad.test", "MX", ("SERVFAIL", [])),
        ("no.test", "MX", ("REFUSED", [])),
        ("example.com", "MX", ("REFUSED", [])),
    ],
)
def test_answers(name: str, kind: str, expected: tuple[str, list[str]]) -> None:
    assert ask(name, kind) == expected


def test_a_loop_of_aliases_ends() -> None:
    assert ask("loop.test", "A")[0] == "NOERROR"


def test_negative_answers_carry_the_soa_that_says_how_long_they_hold() -> None:
    response, _ = zone().answer(dns.message.make_query("missing.test", "MX"))
    assert response.authority[0][0].minimum == 60
    assert response.flags & dns.flags.RA


def test_only_plain_questions_are_answered() -> None:
    notify = dns.message.make_query("a.test", "MX")
    notify.set_opcode(dns.opcode.NOTIFY)
    assert zone().answer(notify)[0].rcode() == dns.rcode.NOTIMP
    chaos = dns.message.make_query("version.bind", "TXT", rdclass="CH")
    assert zone().answer(chaos)[0].rcode() == dns.rcode.FORMERR


def test_silence_is_said_beside_the_answer() -> None:
    assert zone().answer(dns.message.make_query("quiet.test", "MX"))[1] is DnsFault.SILENT


# Catalogue and bulk


def test_names_are_reserved_ones_and_belong_to_one_personality() -> None:
    names = [name for personality in CATALOGUE for name, _ in personality.records()]
    assert len(names) == len(set(names))
    assert all(name.endswith(".test") for name in names)


def test_every_personality_is_judged_and_no_address_twice() -> None:
    assert {sample.personality for sample in EXPECTED} == {personality.name for personality in CATALOGUE}
    assert len({sample.address for sample in EXPECTED}) == len(EXPECTED)


def test_a_sample_knows_its_verdicts() -> None:
    sample = next(sample for sample in EXPECTED if sample.address == "zoe.missing@greylists.test")
    assert (sample.first_verdict, sample.first_reason) == (Verdict.UNKNOWN, Reason.GREYLISTED)
    assert (sample.verdict, sample.reason) == (Verdict.UNDELIVERABLE, Reason.MAILBOX_NOT_FOUND)
    assert sample.retryable
    assert sample.eventually


def test_hosting_shares_one_host_among_many_domains() -> None:
    hosting = next(personality for personality in CATALOGUE if personality.name == "hosting")
    assert len(hosting.all_domains) >= 20
    assert {records.mx for name, records in hosting.records() if name in hosting.all_domains} == {("mx.hosting.test",)}


@pytest.mark.parametrize("local", ["user", "user7", "USER0042", "alice"])
def test_who_has_a_mailbox(local: str) -> None:
    assert ORDINARY.refusal(local) is None


@pytest.mark.parametrize("local", ["userq7d01kk4vb2m9x3w", "user-1", "nobody", "7"])
def test_who_has_none_though_it_may_begin_like_one_who_has(local: str) -> None:
    assert ORDINARY.refusal(local) == UNKNOWN_MAILBOX


def test_bulk_addresses_are_spread_over_domains_and_missing_ones_over_each() -> None:
    samples = list(bulk_addresses(4, 80, 0.25))
    assert len({sample.address for sample in samples}) == 80
    for number in range(1, 5):
        of_domain = [sample for sample in samples if sample.address.endswith(f"@{bulk_domain(number)}")]
        assert [sample.reason for sample in of_domain].count(Reason.MAILBOX_NOT_FOUND) == 5


def test_bulk_domains_are_dealt_out_among_the_hosts() -> None:
    world = World(WorldConfig(bulk_domains=10, bulk_hosts=3), catalogue=())
    assert [len(personality.all_domains) for personality in world.catalogue] == [4, 3, 3]
    assert list(world.addresses.values()) == ["127.77.0.1", "127.77.0.2", "127.77.0.3"]
    with pytest.raises(ValueError, match="no bulk domains"):
        next(World(catalogue=()).bulk_addresses(1))


# Counters


def test_violations_are_kept_to_a_bound_and_counted_beyond_it() -> None:
    stats = WorldStats()
    for _ in range(MAX_VIOLATIONS + 5):
        stats.violated("mx.a.test", ViolationKind.SYNTAX, "x" * 1000)
    assert len(stats.violations) == MAX_VIOLATIONS
    assert len(stats.violations[0].detail) == 200
    assert stats.summary()["violations"] == {"syntax": MAX_VIOLATIONS + 5}


def test_open_connections_are_counted_by_host_and_together() -> None:
    stats = WorldStats()
    one, two = stats.host("one"), stats.host("two")
    stats.opened(one)
    stats.opened(two)
    stats.closed(one)
    stats.opened(one)
    assert (one.open, one.open_max, one.connections) == (1, 1, 2)
    assert (stats.open, stats.open_max, stats.total("connections")) == (2, 2, 3)
