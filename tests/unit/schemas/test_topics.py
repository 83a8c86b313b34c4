"""Names of topics: a tenant's own is its own, whatever the tenant is called."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.topics import RESULTS, TENANT, TOPICS, own_results
from streams.installed import topics_of
from streams.settings import Settings

TENANTS = st.from_regex(TENANT, fullmatch=True)


@given(TENANTS, TENANTS)
def test_two_tenants_have_two_topics_that_kafka_does_not_take_for_one(one: str, other: str) -> None:
    # Kafka refuses a topic whose name differs from another's in "." and "_" alone.
    names = {topic.name.replace(".", "_") for topic in TOPICS}
    mine, theirs = (own_results(tenant).name for tenant in (one, other))
    assert mine.replace(".", "_") not in names
    assert (mine == theirs) is (one == other)
    assert ("_" in mine) is False


@pytest.mark.parametrize("name", ["", "a_b", ".", "-a", "a/b", "a b", "a\n", "ä", "*", "a" * 65, "acme,globex"])
def test_a_name_that_could_mean_something_else_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="a tenant's name has 1 to 64"):
        own_results(name)


def test_a_tenants_topic_is_like_the_shared_one_but_for_its_name() -> None:
    own = own_results("acme")
    assert own.name == "mailvet.results.acme.v1"
    assert (own.key, own.config, own.partitions) == (RESULTS.key, RESULTS.config, RESULTS.partitions)


def test_tenants_with_topics_are_listed_with_commas_and_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAILVET_TENANT_TOPICS", "acme, globex,acme")
    monkeypatch.setenv("MAILVET_NAMESPACE", "eu")
    names = [topic.name for topic in topics_of(Settings())]
    assert [name for name in names if ".results." in name] == [
        "eu.mailvet.results.v1",
        "eu.mailvet.results.acme.v1",
        "eu.mailvet.results.globex.v1",
    ]
    monkeypatch.setenv("MAILVET_TENANT_TOPICS", "acme,*")
    with pytest.raises(ValidationError, match="a tenant's name has 1 to 64"):
        Settings()
