"""When asking stops: after a row of replies about us, for a domain or for its whole provider, and for a while."""

from schemas.vocabulary import Stage
from streams.checks.brake import IN_A_ROW, Brake
from streams.checks.evidence import Failure, Probe
from streams.smtp.replies import Reply

BLOCKED = Probe(Stage.RCPT, Reply(554, ("5.7.1 <user@a.test>: host blocked",)), catch_all=True)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def braked(domains: list[str], clock: Clock, size: int = 100) -> Brake:
    brake = Brake(pause_s=30.0, clock=clock, size=size)
    for domain in domains:
        brake.useless("p", domain, BLOCKED)
    return brake


def test_a_domain_is_held_after_a_row_and_its_neighbours_are_not() -> None:
    brake = braked(["a.test"] * (IN_A_ROW - 1), Clock())
    assert brake.held("p", "a.test") is None
    brake.useless("p", "a.test", BLOCKED)
    assert brake.held("p", "a.test") is not None
    assert brake.held("p", "b.test") is None
    assert brake.held("q", "a.test") is None


def test_a_provider_is_held_when_several_domains_met_it() -> None:
    brake = braked([f"{n % 3}.test" for n in range(IN_A_ROW)], Clock())
    assert brake.held("p", "other.test") is not None
    assert brake.held("q", "other.test") is None
    two = braked([f"{n % 2}.test" for n in range(IN_A_ROW)], Clock())
    assert two.held("p", "other.test") is None


def test_who_is_held_hears_the_reply_without_the_address_that_it_named() -> None:
    held = braked(["a.test"] * IN_A_ROW, Clock()).held("p", "a.test")
    assert held is not None
    assert str(held.reply) == "554 5.7.1 <@>: host blocked"
    assert held.cached
    assert held.catch_all is None


def test_a_failure_without_a_reply_holds_too() -> None:
    brake = Brake(clock=Clock())
    for _ in range(IN_A_ROW):
        brake.useless("p", "a.test", Probe(Stage.RCPT, failure=Failure.CLOSED))
    held = brake.held("p", "a.test")
    assert held is not None
    assert held.failure is Failure.CLOSED


def test_a_word_about_a_mailbox_begins_the_row_anew() -> None:
    brake = braked(["a.test"] * (IN_A_ROW - 1), Clock())
    brake.useful("p", "a.test")
    brake.useless("p", "a.test", BLOCKED)
    assert brake.held("p", "a.test") is None
    Brake().useful("p", "a.test")


def test_after_the_pause_one_more_is_enough_to_hold_again() -> None:
    clock = Clock()
    brake = braked(["a.test"] * IN_A_ROW, clock)
    clock.now += 30.0
    assert brake.held("p", "a.test") is None
    brake.useless("p", "a.test", BLOCKED)
    assert brake.held("p", "a.test") is not None


def test_what_is_remembered_is_bounded() -> None:
    brake = braked(["a.test"] * IN_A_ROW + [f"{n}.test" for n in range(10)], Clock(), size=5)
    assert brake.held("p", "a.test") is None
