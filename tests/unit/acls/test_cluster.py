"""What the broker says of access, and what is made of it: a client that answers from a list."""

import hashlib
from typing import Any

import pytest

from ops.access.acls import Access, Grant
from ops.access.cluster import BATCH, Cluster
from ops.access.wire import AlterUser, CreateAcls, Credential, DescribeUsers
from ops.cli.errors import UserError


class Client:
    """Answers with what it was given; remembers what it was asked."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        self._answers = list(answers)
        self.asked: list[Any] = []

    def get_random_node(self) -> int:
        return 1

    async def send(self, _node: int, request: Any) -> Any:
        self.asked.append(request)
        answer = self._answers.pop(0) if self._answers else {"creation_responses": [], "results": []}
        return type("Answer", (), {"to_object": lambda _: answer})()


def cluster(*answers: dict[str, Any]) -> tuple[Cluster, Client]:
    client = Client(*answers)
    return Cluster(client, "mailvet.operator"), client


def acls(code: int = 0, *resources: dict[str, Any]) -> dict[str, Any]:
    return {"error_code": code, "error_message": None, "resources": list(resources)}


def users(*names: str, mechanism: int = 2) -> dict[str, Any]:
    results = [{"user": name, "credentials": [{"mechanism": mechanism, "iterations": 8192}]} for name in names]
    return {"error_code": 0, "error_message": None, "results": results}


async def test_users_and_acls_are_read_in_kafkas_words_and_numbers_of_newer_brokers_as_they_stand() -> None:
    acl = {"principal": "User:mailvet.gate", "host": "*", "operation": 3, "permission_type": 3}
    newer = {"principal": "Group:x", "host": "10.0.0.1", "operation": 99, "permission_type": 2}
    resource = {"resource_type": 2, "resource_name": "t", "resource_pattern_type": 3, "acls": [acl, newer]}
    asked, _ = cluster(acls(0, resource), users("mailvet.gate"))
    assert await asked.access() == Access(
        frozenset({"mailvet.gate"}),
        frozenset(
            {
                Grant("mailvet.gate", "TOPIC", "t", "READ"),
                Grant("Group:x", "TOPIC", "t", "99", permission="DENY", host="10.0.0.1"),
            }
        ),
    )
    sha_256, _ = cluster(acls(), users("mailvet.gate", mechanism=1))
    assert (await sha_256.access()).users == frozenset()


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (31, "mailvet.operator may not see or change who may do what"),
        (54, "the broker has no authorizer"),
        (42, "the broker refused: "),
    ],
)
async def test_a_refusal_is_one_sentence(code: int, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        await cluster(acls(code))[0].access()
    with pytest.raises(UserError, match=sentence):
        await cluster({"results": [{"error_code": code, "error_message": None}]})[0].remove_user("mailvet.gate")


async def test_many_acls_go_in_a_few_requests() -> None:
    made, client = cluster()
    await made.allow(Grant("u", "TOPIC", f"t{number}", "READ") for number in range(BATCH + 1))
    assert [len(request._acls) for request in client.asked] == [BATCH, 1]
    assert client.asked[1]._acls == [(2, f"t{BATCH - 1}", 3, "User:u", "*", 3, 3)]
    await made.allow([])
    assert len(client.asked) == 2


async def test_an_acl_of_a_newer_broker_is_taken_away_as_it_was_read() -> None:
    made, client = cluster({"filter_responses": [{"error_code": 0, "error_message": None}]})
    await made.revoke([Grant("u", "TOPIC", "t", "99", "PREFIXED", "DENY")])
    assert client.asked[0]._acls == [(2, "t", 4, "User:u", "*", 99, 2)]


async def test_a_change_that_is_not_seen_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ops.access.cluster.SETTLE_S", 0.1)
    monkeypatch.setattr("ops.access.cluster._PAUSE_S", 0.05)
    wanted = Access(frozenset({"u"}), frozenset())
    seen, _ = cluster(acls(), users(), acls(), users("u"))
    await seen.wait_for(wanted)
    never, _ = cluster(acls(), users(), acls(), users())
    with pytest.raises(UserError, match="confirmed the changes and doesn't show them"):
        await never.wait_for(wanted)


def test_a_salted_password_is_what_rfc_5802_says() -> None:
    made = Credential.of("pencil")
    assert made.salted == hashlib.pbkdf2_hmac("sha512", b"pencil", made.salt, made.iterations)
    assert Credential.of("pencil").salt != made.salt


def test_requests_are_written_as_the_protocol_says() -> None:
    describe = DescribeUsers().prepare({50: (0, 0)})
    assert describe.encode() == b"\x00\x00"  # nobody by name: a null array; no tagged fields
    known = Credential(b"ss", b"pp", 4096)
    upsert = AlterUser("u", known).prepare({51: (0, 0)})
    assert upsert.encode() == b"\x01\x02\x02u\x02\x00\x00\x10\x00\x03ss\x03pp\x00\x00"
    delete = AlterUser("u", None).prepare({51: (0, 0)})
    assert delete.encode() == b"\x02\x02u\x02\x00\x01\x00"
    assert CreateAcls([(2, "t", 3, "User:u", "*", 3, 3)]).prepare({30: (1, 3)}).API_VERSION == 1
