"""Each shard of a provider has its share of the provider's sessions, whichever worker talks for it."""

from streams.core import _policies
from streams.settings import Settings


def test_shards_share_the_sessions_of_their_provider() -> None:
    book = _policies(Settings.model_validate({"provider_shards": {"google": 2, "yahoo": 8}}))
    assert [book.policy(name).sessions for name in ("google", "google#0", "google#1", "yahoo#7", "x.test")] == [
        4,
        2,
        2,
        1,
        4,
    ]
    assert book.policy("google#1").domains_per_transaction == book.policy("google").domains_per_transaction == 1
