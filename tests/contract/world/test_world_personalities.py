"""Each personality does what its row says, as clients see it that share no code with us: smtplib and dnspython."""

import asyncio
import contextlib
import smtplib
import ssl
from collections.abc import Iterator

import dns.exception
import dns.resolver
import pytest

from ops.world import EXPECTED, World, WorldConfig

TIMEOUT_S = 1.0
RANDOM_MAILBOX = "q7z1k9w3"

EXPECTED_ANSWERS = {
    "alice@nullmx.test": "null mx",
    "alice@nosuchdomain.test": "nxdomain",
    "alice@nomail.test": "no data",
    "alice@servfail.test": "dns failed",
    "alice@dnsrefused.test": "dns failed",
    "alice@dnssilent.test": "dns timeout",
    "alice@dnslate.test": "dns timeout",
    "alice@mxservfail.test": "dns failed",
    "alice@mxmissing.test": "nxdomain",
    "alice@mxprivate.test": "not loopback 10.0.0.1",
    "alice@mxlinklocal.test": "not loopback 169.254.169.254",
    "alice@dead.test": "refused connection",
    "alice@blocksbanner.test": "banner 554 5.7.1",
    "alice@noservice.test": "banner 554",
    "alice@blocksmail.test": "mail 550 5.7.1",
    "alice@blocksrcpt.test": "rcpt 554 5.7.1",
    "alice@refusessender.test": "rcpt 550 5.1.8",
    "alice@wantsptr.test": "rcpt 550 5.7.25",
    "alice@relaydenied.test": "rcpt 554 5.7.1",
    "alice@ratelimits.test": "rcpt 450 4.7.1",
    "alice@toomany.test": "banner 421 4.7.0",
    "alice@outofservice.test": "banner 421 4.3.2",
    "alice@diskfull.test": "rcpt 452 4.3.1",
    "brim@full.test": "rcpt 552 5.2.2",
    "brimming@full.test": "rcpt 452 4.2.2",
    "gone@disabled.test": "rcpt 550 5.2.1",
    "alice@greylists.test": "rcpt 450 4.2.0",
    "zoe.missing@greylists.test": "rcpt 450 4.2.0",
    "alice@greylists451.test": "rcpt 451 4.7.1",
    "zoe.missing@nonmail.test": "rcpt 550",
    "zoe.missing@heloonly.test": "rcpt 550",
    "jörg@asciionly.test": "no smtputf8",
    "alice@tlshangs.test": "timeout",
    "alice@nobanner.test": "timeout",
    "alice@slowbanner.test": "timeout",
    "alice@tarpit.test": "timeout",
    "alice@dropsmail.test": "dropped",
    "alice@dropsrcpt.test": "dropped",
    "alice@garbage.test": "no reply code",
    "alice@nocode.test": "no reply code",
    "alice@longline.test": "line too long",
    "alice@unasked.test": "one reply too many",
}
"""What is not in here is accepted, refused as unknown (550 5.1.1), or accepted as everybody else is."""

BY_REASON = {
    "mailbox_accepted": "rcpt 250",
    "mailbox_not_found": "rcpt 550 5.1.1",
    "catch_all": "rcpt 250 like everybody",
}


def answer_to(address: str, reason: str) -> str:
    """The row's answer; a host that says the same to everybody has it in the table under alice."""
    alice = f"alice@{address.partition('@')[2]}"
    if reason in BY_REASON:
        return EXPECTED_ANSWERS.get(address, BY_REASON[reason])
    return EXPECTED_ANSWERS.get(address) or EXPECTED_ANSWERS[alice]


class Asker:
    """A plain verifier of one address: one answer in words for whatever happened."""

    def __init__(self, world: World) -> None:
        self.port = world.smtp_port
        host, _, port = world.resolver.partition(":")
        self.resolver = dns.resolver.Resolver(configure=False)
        self.resolver.nameservers, self.resolver.port = [host], int(port)
        self.resolver.lifetime = TIMEOUT_S

    def ask(self, address: str) -> str:
        try:
            return self.by_dns(address)
        except dns.resolver.NXDOMAIN:
            return "nxdomain"
        except dns.resolver.NoAnswer:
            return "no data"
        except dns.resolver.NoNameservers:
            return "dns failed"
        except dns.exception.Timeout:
            return "dns timeout"

    def by_dns(self, address: str) -> str:
        domain = address.rpartition("@")[2].encode("idna").decode()
        answer = "nobody"
        for target in self.targets(domain):
            if not target.startswith("127."):
                return f"not loopback {target}"
            answer = self.by_smtp(target, address)
            if answer != "refused connection" and not answer.startswith("banner 421"):
                return answer
        return answer

    def targets(self, domain: str) -> Iterator[str]:
        try:
            exchangers = sorted(self.resolver.resolve(domain, "MX"), key=lambda record: record.preference)
        except dns.resolver.NoAnswer:
            yield from (item.address for item in self.resolver.resolve(domain, "A"))
            return
        for exchanger in exchangers:
            if exchanger.exchange.to_text() == ".":
                raise NullMX
            yield from (item.address for item in self.resolver.resolve(exchanger.exchange, "A"))

    def by_smtp(self, target: str, address: str) -> str:
        try:
            return dialogue(target, self.port, address)
        except smtplib.SMTPServerDisconnected as gone:
            return "timeout" if "timed out" in str(gone) else "dropped"
        except smtplib.SMTPConnectError as refused:
            return f"banner {code_of(refused.smtp_code, refused.smtp_error)}"
        except smtplib.SMTPResponseException as bad:
            return str(bad.smtp_error).lower().rstrip(".")
        except TimeoutError:
            return "timeout"
        except ConnectionRefusedError:
            return "refused connection"


class NullMX(Exception):
    """RFC 7505."""


def dialogue(target: str, port: int, address: str) -> str:
    client = smtplib.SMTP(target, port, timeout=TIMEOUT_S, local_hostname="me.test")
    with contextlib.closing(client):
        client.ehlo_or_helo_if_needed()
        if client.has_extn("starttls"):
            client.starttls(context=blind_context())
            client.ehlo()
        return "one reply too many" if surplus(client) else transaction(client, address)


def surplus(client: smtplib.SMTP) -> bool:
    """Whether something came in that was not asked for."""
    client.sock.settimeout(0.05)
    try:
        return bool(client.file.peek(1))
    except TimeoutError:
        client.file = client.sock.makefile("rb")  # a buffered reader that timed out is of no more use
        return False
    finally:
        client.sock.settimeout(TIMEOUT_S)


def transaction(client: smtplib.SMTP, address: str) -> str:
    local, _, domain = address.rpartition("@")
    options = () if local.isascii() else ("SMTPUTF8",)
    if options and not client.has_extn("smtputf8"):
        return "no smtputf8"
    client.command_encoding = "utf-8"
    domain = domain.encode("idna").decode()
    mail = client.mail("me@me.test", options)
    if mail[0] != 250:
        return f"mail {code_of(*mail)}"
    code, text = client.rcpt(f"{local}@{domain}")
    if code != 250:
        return "no reply code" if code == -1 else f"rcpt {code_of(code, text)}"
    client.rset()
    client.mail("me@me.test")
    everybody = client.rcpt(f"{RANDOM_MAILBOX}@{domain}")[0] == 250
    client.quit()
    return "rcpt 250 like everybody" if everybody else "rcpt 250"


def blind_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def code_of(code: int, text: bytes | str) -> str:
    first = (text.decode(errors="replace") if isinstance(text, bytes) else text).partition(" ")[0]
    return f"{code} {first}" if first.count(".") == 2 and first.replace(".", "").isdigit() else str(code)


async def ask_all(world: World, addresses: list[str]) -> dict[str, str]:
    asker = Asker(world)

    def ask(address: str) -> str:
        try:
            return asker.ask(address)
        except NullMX:
            return "null mx"

    answers = await asyncio.gather(*(asyncio.to_thread(ask, address) for address in addresses))
    return dict(zip(addresses, answers, strict=True))


async def test_every_personality_says_what_its_row_says() -> None:
    async with World(WorldConfig(greylist_s=60)) as world:
        answers = await ask_all(world, [sample.address for sample in EXPECTED])
        assert answers == {sample.address: answer_to(sample.address, sample.first_reason) for sample in EXPECTED}
        assert world.stats.violations == []


async def test_a_second_ask_after_the_delay_passes_the_greylist() -> None:
    late = [sample for sample in EXPECTED if sample.eventually]
    async with World(WorldConfig(greylist_s=0.05)) as world:
        addresses = [sample.address for sample in late]
        await ask_all(world, addresses)
        await asyncio.sleep(0.1)
        answers = await ask_all(world, addresses)
    # The random mailbox is a triplet of its own, and is still greylisted.
    assert answers == {sample.address: BY_REASON[sample.reason] for sample in late}


def test_the_table_names_only_samples() -> None:
    assert EXPECTED_ANSWERS.keys() <= {sample.address for sample in EXPECTED}


@pytest.mark.parametrize("address", ["alice@customer01.test", "alice@customer24.test", "user9@accepts.test"])
async def test_hosted_domains_and_users_by_rule(address: str) -> None:
    async with World() as world:
        assert await ask_all(world, [address]) == {address: "rcpt 250"}
