"""What either pool does on real sockets."""

import asyncio

import pytest

from schemas.vocabulary import Stage
from streams.smtp.errors import ConnectFailed, DialFailure, LocalProtocolError, PoolClosed, PoolTimeout
from streams.smtp.hosts import Host
from streams.smtp.lifecycle import Life
from streams.smtp.policy import StartTLS
from streams.smtp.session import Ended

NO = b"550 5.1.1 no such user\r\n"


def refuse(*words: str):
    """A server that refuses recipients in which one of ``words`` stands."""

    def respond(command: str) -> bytes | None:
        return NO if command.startswith("RCPT") and any(word in command for word in words) else None

    return respond


def codes(answers) -> list[int | None]:
    return [reply and reply.code for reply in answers.replies]


def dead_port() -> Host:
    return Host("dead.test", "127.0.0.1", 1)


async def ask(pool, server, recipients, **kwargs):
    async with pool.lease("p", [server.host], timeout=10) as connection:
        return await connection.ask(recipients, **kwargs)


# Dialogue


async def test_one_write_asks_everybody(make_pool, serve):
    server = await serve(respond=refuse("bad"))
    answers = await ask(make_pool(), server, ["a@x.test", "bad@x.test", "b@y.test"])
    assert codes(answers) == [250, 550, 250]
    assert answers.mail is None
    assert answers.ended is None
    assert server.reads[1] == (
        b"MAIL FROM:<postmaster@probe.test>\r\nRCPT TO:<a@x.test>\r\nRCPT TO:<bad@x.test>\r\nRCPT TO:<b@y.test>\r\n"
    )


async def test_the_transaction_goes_on_over_leases_and_fresh_begins_anew(make_pool, serve):
    server = await serve()
    pool = make_pool()
    await ask(pool, server, ["a@x.test"])
    await ask(pool, server, ["b@x.test"])
    await ask(pool, server, ["c@x.test"], fresh=True)
    assert server.connections == 1
    assert server.heard[2:] == [
        "RCPT TO:<a@x.test>",
        "RCPT TO:<b@x.test>",
        "RSET",
        "MAIL FROM:<postmaster@probe.test>",
        "RCPT TO:<c@x.test>",
    ]
    assert pool.snapshot().counters["reused"] == 2


async def test_without_pipelining_one_at_a_time(make_pool, serve):
    server = await serve(ehlo=b"250 mx.test\r\n", respond=refuse("bad"))
    answers = await ask(make_pool(), server, ["bad@x.test", "a@x.test"])
    assert codes(answers) == [550, 250]
    assert len(server.reads) == 4


async def test_after_helo_nothing_is_offered(make_pool, serve):
    server = await serve(respond=lambda c: b"502 what?\r\n" if c.startswith("EHLO") else None)
    async with make_pool().lease("p", [server.host], timeout=10) as connection:
        assert not connection.capabilities.pipelining
        assert codes(await connection.ask(["a@x.test"])) == [250]
    assert server.heard[:2] == ["EHLO probe.test", "HELO probe.test"]


async def test_capabilities(make_pool, serve):
    server = await serve()
    async with make_pool().lease("p", [server.host], timeout=10) as connection:
        offered = connection.capabilities
        assert (offered.pipelining, offered.smtputf8, offered.starttls, offered.tls) == (True, True, False, False)
        assert offered.size == 1000
        assert connection.host == server.host
        assert connection.provider == "p"
        assert connection.room == connection.errors_left == 10
        assert "mx.test [127.0.0.1]" in repr(connection)


async def test_utf8_recipients_announce_smtputf8(make_pool, serve):
    server = await serve()
    pool = make_pool()
    await ask(pool, server, ["a@x.test"])
    assert codes(await ask(pool, server, ["jörg@x.test"], smtputf8=True)) == [250]
    assert server.heard[3:] == ["RSET", "MAIL FROM:<postmaster@probe.test> SMTPUTF8", "RCPT TO:<jörg@x.test>"]


async def test_utf8_where_the_server_has_it_not_is_our_mistake(make_pool, serve):
    server = await serve(ehlo=b"250 mx.test\r\n")
    async with make_pool().lease("p", [server.host], timeout=10) as connection:
        with pytest.raises(LocalProtocolError, match="SMTPUTF8"):
            await connection.ask(["jörg@x.test"], smtputf8=True)


async def test_an_address_that_breaks_out_never_reaches_the_socket(make_pool, serve):
    server = await serve()
    async with make_pool().lease("p", [server.host], timeout=10) as connection:
        with pytest.raises(LocalProtocolError, match="control"):
            await connection.ask(["good@x.test", "a@x.test>\r\nDATA"])
        assert codes(await connection.ask(["b@x.test"])) == [250]
    assert server.heard[1:3] == ["MAIL FROM:<postmaster@probe.test>", "RCPT TO:<b@x.test>"]


async def test_refused_mail_says_nothing_of_recipients(make_pool, serve):
    server = await serve(
        respond=lambda c: {"MAIL": b"550 5.1.8 who?\r\n", "RCPT": b"503 5.5.1 MAIL first\r\n"}.get(c[:4])
    )
    answers = await ask(make_pool(), server, ["a@x.test", "b@x.test"])
    assert answers.mail.code == 550
    assert codes(answers) == [None, None]
    assert answers.ended is None


async def test_no_more_is_asked_than_the_error_budget_allows(make_pool, serve):
    server = await serve(respond=refuse("@"))
    async with make_pool(error_budget=4, min_errors_left=2).lease("p", [server.host], timeout=10) as connection:
        answers = await connection.ask([f"u{i}@x.test" for i in range(6)])
        assert codes(answers) == [550] * 4 + [None] * 2
        assert connection.room == 0
        assert (await connection.ask(["a@x.test"])).ended is Ended.CLOSED


async def test_too_many_recipients_is_learned(make_pool, serve):
    asked = 0

    def respond(command: str) -> bytes | None:
        nonlocal asked
        asked = asked + 1 if command.startswith("RCPT") else 0
        return b"452 4.5.3 too many recipients\r\n" if asked > 1 else None

    server = await serve(respond=respond)
    async with make_pool().lease("p", [server.host], timeout=10) as connection:
        assert codes(await connection.ask(["a@x.test", "b@x.test", "c@x.test"])) == [250, None, None]
        assert codes(await connection.ask(["b@x.test", "c@x.test"])) == [250, 250]
        assert (connection.session.usage.recipients, connection.session.usage.nonmail) == (1, 2)
    assert server.heard[5:] == [
        "RSET",
        "MAIL FROM:<postmaster@probe.test>",
        "RCPT TO:<b@x.test>",
        "RSET",
        "MAIL FROM:<postmaster@probe.test>",
        "RCPT TO:<c@x.test>",
    ]


async def test_who_needs_a_reset_that_is_not_left_is_unanswered_and_nothing_has_ended(make_pool, serve):
    server = await serve()
    pool = make_pool(domains_per_transaction=1, nonmail_budget=1)
    async with pool.lease("p", [server.host], timeout=10) as connection:
        answers = await connection.ask(["a@x.test", "b@y.test", "c@z.test"])
        assert (codes(answers), answers.ended) == ([250, 250, None], None)
        assert connection.room == 0
    async with pool.lease("p", [server.host], timeout=10) as connection:
        await connection.ask(["a@x.test", "b@y.test"])
        assert connection.room > 0, "another one of y.test would have its place"
        answers = await connection.ask(["c@z.test"])
        assert (codes(answers), answers.ended) == ([None], None)
        assert "RSET" in answers.detail
        assert connection.room == 0
    assert pool.snapshot().counters["broken"] == 0


# What goes wrong in mid-dialogue


@pytest.mark.parametrize(
    ("answer", "expected", "ended"),
    [
        (b"421 4.3.2 closing\r\n!", [250, 421, None], Ended.CLOSED),
        (b"!", [250, None, None], Ended.CLOSED),
        (b"250-a\r\n550 b\r\n", [250, None, None], Ended.PROTOCOL),
        (b"250 " + b"x" * 100_000 + b"\r\n", [250, None, None], Ended.PROTOCOL),
        (b"250 fine\r\n250 really\r\n", [None, None, None], Ended.PROTOCOL),
        (b"what\r\n", [250, None, None], Ended.PROTOCOL),
    ],
)
async def test_a_session_that_ends_keeps_what_was_answered(make_pool, serve, answer, expected, ended):
    def respond(command: str) -> bytes | None:
        return answer if last in command else None

    # one reply too many is seen for sure where it comes with the last one
    last = "second" if 250 in expected else "third"
    server = await serve(respond=respond)
    pool = make_pool()
    answers = await ask(pool, server, ["first@x.test", "second@x.test", "third@x.test"])
    assert codes(answers) == expected
    assert answers.ended is ended
    assert answers.detail
    assert pool.snapshot().open == 0


async def test_silence_is_a_timeout(make_pool, serve):
    server = await serve(respond=lambda c: b"" if c.startswith("RCPT") else None)
    answers = await ask(make_pool(command_timeout_s=0.05), server, ["a@x.test"])
    assert (codes(answers), answers.ended) == ([None], Ended.TIMEOUT)


async def test_the_callers_own_deadline_is_a_timeout(make_pool, serve):
    server = await serve(respond=lambda c: b"" if "b@" in c else None)
    pool = make_pool(stall_s=30)
    answers = await ask(pool, server, ["a@x.test", "b@x.test"], timeout=0.05)
    assert (codes(answers), answers.ended) == ([250, None], Ended.TIMEOUT)
    assert answers.detail == "no reply in time"


async def test_a_stall_keeps_what_came_and_asks_less_next_time(make_pool, serve):
    server = await serve(respond=lambda c: b"" if "slow" in c else None)
    pool = make_pool(stall_s=0.05)
    async with pool.lease("p", [server.host], timeout=10) as connection:
        answers = await connection.ask(["a@x.test", "b@x.test", "slow@x.test"])
        assert (codes(answers), answers.ended) == ([250, 250, None], Ended.TIMEOUT)
        assert "stalled" in answers.detail
        assert connection.room == 0
    async with pool.lease("p", [server.host], timeout=10) as connection:
        assert connection.room == 2
        await connection.ask(["a@x.test", "b@x.test"])
        assert connection.room == 4


async def test_a_reply_in_one_byte_pieces(make_pool, serve):
    server = await serve()

    async def respond(command: str) -> bytes | None:
        if not command.startswith("RCPT"):
            return None
        for byte in b"250-2.1.5 one\r\n250 2.1.5 two":
            server.writers[-1].write(bytes([byte]))
            await server.writers[-1].drain()
            await asyncio.sleep(0)
        return b"\n"

    server.respond = respond
    answers = await ask(make_pool(), server, ["a@x.test"])
    assert answers.replies[0].lines == ("2.1.5 one", "2.1.5 two")


async def test_an_idle_session_that_the_server_ends_is_not_given_out_again(make_pool, serve, until):
    server = await serve()
    pool = make_pool()
    await ask(pool, server, ["a@x.test"])
    server.writers[0].write(b"421 4.4.2 too long idle\r\n")
    server.writers[0].close()
    await until(server.writers[0].transport.is_closing)
    await asyncio.sleep(0.02)
    assert codes(await ask(pool, server, ["b@x.test"])) == [250]
    assert server.connections == 2


# Dialling


@pytest.mark.parametrize(
    ("fields", "stage", "code", "failure"),
    [
        ({"banner": b"554 5.7.1 not you\r\n!"}, Stage.BANNER, 554, None),
        ({"banner": b"421 busy\r\n!"}, Stage.BANNER, 421, None),
        ({"banner": b"!"}, Stage.BANNER, None, DialFailure.CLOSED),
        ({"banner": b""}, Stage.BANNER, None, DialFailure.TIMEOUT),
        ({"banner": b"hello\r\n"}, Stage.BANNER, None, DialFailure.PROTOCOL),
        ({"banner": b"999 hello\r\n"}, Stage.BANNER, None, DialFailure.PROTOCOL),
        ({"banner": b"220 " + b"x" * 100_000}, Stage.BANNER, None, DialFailure.PROTOCOL),
        ({"ehlo": b"550 5.7.1 bad HELO\r\n"}, Stage.EHLO, 550, None),
        ({"ehlo": b"!"}, Stage.EHLO, None, DialFailure.CLOSED),
        ({"ehlo": b""}, Stage.EHLO, None, DialFailure.TIMEOUT),
        ({"ehlo": b"250 mx.test\r\n250 again\r\n"}, Stage.EHLO, None, DialFailure.PROTOCOL),
        ({"ehlo": b"250 mx.test\r\n25"}, Stage.EHLO, None, DialFailure.PROTOCOL),
    ],
)
async def test_each_way_a_dial_can_fail(make_pool, serve, fields, stage, code, failure):  # noqa: PLR0917
    server = await serve(**fields)
    pool = make_pool(connect_timeout_s=0.2)
    with pytest.raises(ConnectFailed) as failed:
        await ask(pool, server, ["a@x.test"])
    (attempt,) = failed.value.attempts
    assert (attempt.host, attempt.stage, attempt.failure) == (server.host, stage, failure)
    assert (attempt.reply and attempt.reply.code) == code
    assert "mx.test" in str(failed.value)
    assert pool.snapshot().open == 0


async def test_a_server_that_speaks_before_ehlo_is_not_talked_to(make_pool, serve):
    server = await serve(banner=b"220 mx.test\r\n250 and more\r\n")
    with pytest.raises(ConnectFailed) as failed:
        await ask(make_pool(), server, ["a@x.test"])
    assert failed.value.attempts[0].failure is DialFailure.PROTOCOL


async def test_the_next_host_while_one_is_down(make_pool, serve):
    server = await serve()
    pool = make_pool()
    async with pool.lease("p", [dead_port(), server.host], timeout=10) as connection:
        assert connection.host == server.host
    with pytest.raises(ConnectFailed) as failed:
        async with pool.lease("p", [dead_port(), Host("also.test", "127.0.0.1", 2)], timeout=10):
            pass
    assert [attempt.host.name for attempt in failed.value.attempts] == ["dead.test", "also.test"]
    assert {attempt.failure for attempt in failed.value.attempts} == {DialFailure.CONNECT}


async def test_the_lease_bounds_the_dials(make_pool, serve):
    server = await serve(banner=b"")
    with pytest.raises(ConnectFailed) as failed:
        async with make_pool().lease("p", [server.host, dead_port()], timeout=0.1):
            pass
    (attempt,) = failed.value.attempts
    assert attempt.failure is DialFailure.TIMEOUT


async def test_a_host_that_fails_again_and_again_is_left_alone_and_recovers(make_pool, serve):
    server = await serve(banner=b"421 busy\r\n!")
    pool = make_pool(breaker_failures=2, breaker_base_s=0.1)
    for _ in range(3):
        with pytest.raises(ConnectFailed) as failed:
            await ask(pool, server, ["a@x.test"])
        assert failed.value.attempts[0].reply.code == 421
    assert server.connections == 2
    assert "not dialled again" in str(failed.value)
    view = pool.snapshot()
    assert view.counters["dials_spared"] == 1
    server.banner = b"220 back\r\n"
    await asyncio.sleep(0.12)
    assert codes(await ask(pool, server, ["a@x.test"])) == [250]
    assert pool.snapshot().providers["p"].hosts_left_alone == 0


# TLS

INSISTS = b"530 5.7.0 Must issue a STARTTLS command first\r\n"
TLS_EHLO = b"250-mx.test\r\n250-PIPELINING\r\n250 STARTTLS\r\n"


def insists(server):
    return lambda c: INSISTS if c[:4] in ("MAIL", "RCPT") and "STARTTLS" not in server.heard else None


async def test_tls_where_the_server_insists(make_pool, serve, server_tls):
    server = await serve(ehlo=TLS_EHLO, tls=server_tls)
    server.respond = insists(server)
    pool = make_pool()
    async with pool.lease("p", [server.host], timeout=10) as connection:
        answers = await connection.ask(["a@x.test"])
        assert (codes(answers), answers.mail) == ([250], None)
        assert connection.capabilities.tls
        assert codes(await connection.ask(["b@x.test"])) == [250]
        # remembered: the next session of this host begins with TLS
        async with pool.lease("p", [server.host], timeout=10) as other:
            assert other.capabilities.tls
    assert server.connections == 2


async def test_tls_where_the_server_insists_and_quit_was_said(make_pool, serve, server_tls):
    server = await serve(ehlo=TLS_EHLO, tls=server_tls)
    server.respond = insists(server)
    pool = make_pool()
    async with pool.lease("p", [server.host], timeout=10) as connection:
        answers = await connection.ask(["a@x.test"], parting=True)
        assert (codes(answers), answers.mail, answers.ended, connection.room) == ([None], None, None, 0)
        assert connection.last_room == 0
    async with pool.lease("p", [server.host], timeout=10) as connection:
        assert connection.capabilities.tls
        assert codes(await connection.ask(["a@x.test"], parting=True)) == [250]


async def test_a_place_is_given_away_before_the_last_write(make_pool, serve, until):
    server = await serve()
    pool, loop, left = make_pool(sessions=1), asyncio.get_running_loop(), asyncio.Event()

    async def when_left(command: str) -> bytes:
        await left.wait()
        return b"250 2.1.0 ok\r\n"

    async with pool.lease("p", [server.host], timeout=10) as connection:
        await connection.ask(["a@x.test"])
        server.respond = lambda c: when_left(c) if c[:4] == "MAIL" else None
        answers = await connection.ask(
            ["b@x.test"], fresh=True, leaving=True, on_parted=lambda: loop.call_soon_threadsafe(left.set)
        )
        assert codes(answers) == [250]
        assert connection.leaving
        async with pool.lease("p", [server.host], timeout=10) as other:
            server.respond = lambda c: asyncio.sleep(1.0, b"250 2.1.0 ok\r\n") if c[:4] == "MAIL" else None
            assert codes(await other.ask(["d@x.test"], leaving=True)) == [250]
            assert not other.leaving, "half of them, the only one, does already"
            assert codes(await connection.ask(["c@x.test"], parting=True)) == [250]
            assert connection.last_room_after(1) == 0
        assert server.connections == 2
    await until(lambda: server.heard.count("QUIT") == 1)
    assert pool.snapshot().counters["parted"] == 1


async def test_tls_never(make_pool, serve, server_tls):
    server = await serve(ehlo=TLS_EHLO, tls=server_tls)
    server.respond = insists(server)
    answers = await ask(make_pool(starttls=StartTLS.NEVER), server, ["a@x.test"])
    assert answers.mail.code == 530
    assert "STARTTLS" not in server.heard


async def test_tls_as_offered(make_pool, serve, server_tls):
    server = await serve(ehlo=TLS_EHLO, tls=server_tls)
    async with make_pool(starttls=StartTLS.OFFERED).lease("p", [server.host], timeout=10) as connection:
        assert connection.capabilities.tls
        assert codes(await connection.ask(["a@x.test"])) == [250]


@pytest.mark.parametrize("answer", [b"454 no TLS now\r\n", b"220 go\r\ngarbage instead of TLS\r\n!"])
async def test_a_handshake_that_fails_is_done_without_when_nobody_insists(make_pool, serve, answer):
    server = await serve(ehlo=TLS_EHLO, respond=lambda c: answer if c == "STARTTLS" else None)
    async with make_pool(starttls=StartTLS.OFFERED).lease("p", [server.host], timeout=10) as connection:
        assert not connection.capabilities.tls
        assert codes(await connection.ask(["a@x.test"])) == [250]
    assert server.connections == 2


async def test_a_handshake_that_fails_where_the_server_insists(make_pool, serve):
    server = await serve(ehlo=TLS_EHLO)
    server.respond = lambda c: b"220 go\r\nnot TLS\r\n!" if c == "STARTTLS" else INSISTS if c[:4] == "MAIL" else None
    pool = make_pool()
    answers = await ask(pool, server, ["a@x.test"])
    assert (answers.mail, codes(answers), answers.ended) == (None, [None], Ended.PROTOCOL)
    with pytest.raises(ConnectFailed) as failed:
        await ask(pool, server, ["a@x.test"])
    assert failed.value.attempts[0].stage is Stage.STARTTLS
    assert failed.value.attempts[0].failure is DialFailure.TLS


@pytest.mark.parametrize("at", ["dial", "mail"])
async def test_a_handshake_that_hangs_ends(make_pool, serve, at):
    server = await serve(ehlo=TLS_EHLO)
    server.respond = lambda c: INSISTS if c[:4] == "MAIL" else None
    wish = StartTLS.OFFERED if at == "dial" else StartTLS.INSISTED
    pool = make_pool(starttls=wish, connect_timeout_s=0.1, command_timeout_s=0.1)
    answers = await ask(pool, server, ["a@x.test"])
    assert (answers.mail, answers.ended) == (None, Ended.TIMEOUT)


async def test_tls_in_mid_session_is_bounded_by_the_deadline(make_pool, serve):
    server = await serve(ehlo=TLS_EHLO)
    server.respond = lambda c: INSISTS if c[:4] == "MAIL" else None
    answers = await ask(make_pool(), server, ["a@x.test"], timeout=0.1)
    assert (answers.mail, answers.ended) == (None, Ended.TIMEOUT)


# Limits and waiting


async def test_a_caller_waits_for_a_session_and_gets_it(make_pool, serve, until):
    server = await serve()
    pool = make_pool(sessions=1)
    async with pool.lease("p", [server.host], timeout=10):
        waiter = asyncio.create_task(ask(pool, server, ["b@x.test"]))
        await until(lambda: pool.snapshot().waiters == 1)
    assert codes(await waiter) == [250]
    assert server.connections == 1


async def test_nobody_waits_for_ever(make_pool, serve):
    server = await serve()
    pool = make_pool(sessions=1)
    async with pool.lease("p", [server.host], timeout=10):
        with pytest.raises(PoolTimeout, match="p was free"):
            async with pool.lease("p", [server.host], timeout=0.02):
                pass
    assert pool.snapshot().counters["wait_timeouts"] == 1


async def test_an_idle_session_makes_room_for_another_provider(make_pool, serve):
    server = await serve()
    pool = make_pool(total=1)
    await ask(pool, server, ["a@x.test"])
    async with pool.lease("q", [server.host], timeout=10) as connection:
        assert connection.provider == "q"
        assert pool.snapshot().open == 1


async def test_a_session_ends_with_quit_when_idle_too_long(make_pool, serve, until):
    server = await serve()
    pool = make_pool(idle_expiry_s=0.05)
    await ask(pool, server, ["a@x.test"])
    await until(lambda: "QUIT" in server.heard)
    assert pool.snapshot().open == 0


async def test_a_session_has_its_uses(make_pool, serve):
    server = await serve()
    pool = make_pool(max_uses=2)
    for _ in range(3):
        await ask(pool, server, ["a@x.test"])
    assert server.connections == 2


async def test_events_tell_the_whole_life(make_pool, serve):
    server = await serve()
    events = []
    pool = make_pool(on_event=events.append)
    await ask(pool, server, ["a@x.test"])
    await pool.close()
    lives = [event.after for event in events]
    assert lives == [
        Life.DIALLING,
        Life.GREETING,
        Life.READY,
        Life.BUSY,
        Life.IDLE,
        Life.DRAINING,
        Life.CLOSED,
    ]
    assert events[-1].host == server.host
    assert [event.before for event in events[1:]] == lives[:-1]


async def test_an_observer_that_fails_does_no_harm(make_pool, serve, caplog):
    def broken(event):
        raise RuntimeError("no")

    server = await serve()
    assert codes(await ask(make_pool(on_event=broken), server, ["a@x.test"])) == [250]
    assert "an observer failed" in caplog.text


# The end


async def test_close_ends_idle_sessions_with_quit_and_asks_under_way(make_pool, serve, until):
    server = await serve(respond=lambda c: b"" if "slow" in c else None)
    pool = make_pool()
    await ask(pool, server, ["a@x.test"])
    asking = asyncio.create_task(ask(pool, server, ["slow@x.test"]))
    await until(lambda: "RCPT TO:<slow@x.test>" in server.heard)
    async with pool.lease("p", [server.host], timeout=10):
        pass
    await pool.close()
    assert (await asking).ended is Ended.CLOSED
    await until(lambda: server.gone == 2)
    assert "QUIT" in server.heard
    assert pool.snapshot().open == 0
    with pytest.raises(PoolClosed):
        await ask(pool, server, ["a@x.test"])


async def test_close_sends_waiters_away(make_pool, serve, until):
    server = await serve()
    pool = make_pool(sessions=1)
    async with pool.lease("p", [server.host], timeout=10):
        waiter = asyncio.create_task(ask(pool, server, ["b@x.test"]))
        await until(lambda: pool.snapshot().waiters == 1)
        await pool.close()
        with pytest.raises(PoolClosed, match="waited"):
            await waiter


async def test_drain_waits_for_what_is_in_use(make_pool, serve, until):
    server = await serve()
    pool = make_pool()
    async with pool.lease("p", [server.host], timeout=10) as connection:
        assert not await pool.drain(0.01)
        draining = asyncio.create_task(pool.drain(10))
        await asyncio.sleep(0.01)
        assert codes(await connection.ask(["a@x.test"])) == [250]
    assert await draining
    assert await pool.drain(0)
    await until(lambda: "QUIT" in server.heard)


async def test_a_pool_that_closes_during_a_dial_gives_no_session(make_pool, serve, until):
    go = asyncio.Event()

    async def respond(command: str) -> bytes | None:
        await go.wait()
        return None

    server = await serve(respond=respond)
    pool = make_pool()
    asking = asyncio.create_task(ask(pool, server, ["a@x.test"]))
    await until(lambda: "EHLO probe.test" in server.heard)
    await pool.close()
    go.set()
    with pytest.raises(PoolClosed, match="dialled"):
        await asking
    assert pool.snapshot().open == 0


async def test_many_callers_few_sessions_everybody_is_answered(make_pool, serve):
    server = await serve(respond=refuse("u3@"))
    pool = make_pool(sessions=3)

    async def one(number: int) -> None:
        for _ in range(5):
            answers = await ask(pool, server, [f"u{number}@x.test"])
            assert codes(answers) == [550 if number == 3 else 250]

    await asyncio.gather(*(one(number) for number in range(32)))
    view = pool.snapshot()
    assert view.open <= 3
    assert view.waiters == 0
    assert 0 < view.utilisation < 1
    assert view.counters["leases"] == 160


async def test_lists_without_hosts_are_our_mistake(make_pool):
    with pytest.raises(LocalProtocolError):
        async with make_pool().lease("p", [], timeout=1):
            pass


async def test_a_pool_of_nothing_is_our_mistake(make_pool):
    with pytest.raises(ValueError, match="total"):
        make_pool(total=0)
