"""Servers that take one domain a transaction say so once; after that each domain has its own."""

from streams.smtp.exchange import Exchange, several_domains
from streams.smtp.policy import Learned, ProviderPolicy, chunk_size
from streams.smtp.replies import Reply
from streams.smtp.session import Session


def ask(session: Session, learned: Learned, *recipients: str) -> Exchange:
    policy = ProviderPolicy()
    room = chunk_size(policy, session.usage, learned)
    return Exchange(session, "", recipients, policy=policy, learned=learned, room=room, pipelining=True)


def test_the_second_domain_of_a_transaction_is_asked_again_in_one_of_its_own() -> None:
    session, learned = Session(), Learned()
    first = ask(session, learned, "x@a.test", "y@b.test")
    first.data_to_send()
    first.receive(
        b"250 Ok\r\n250 Ok\r\n451-4.3.0 Multiple destination domains per transaction is\r\n451 4.3.0 unsupported\r\n"
    )
    assert [str(reply) for reply in first.answers().replies] == ["250 Ok", "None"]
    second = ask(session, learned, "y@b.test")
    assert second.data_to_send() == b"RSET\r\nMAIL FROM:<>\r\nRCPT TO:<y@b.test>\r\n"


def test_a_refusal_that_merely_names_a_domain_is_an_answer() -> None:
    assert not several_domains(Reply(451, ("4.3.0 The domain is not available",)))
    assert not several_domains(Reply(250, ("one domain a transaction, ok",)))
    assert not several_domains(Reply(450, ("4.2.0 <one-domain.per-transaction@x.test>: Greylisted",)))
