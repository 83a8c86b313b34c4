"""Kafka's protocol as far as aiokafka lacks it: SCRAM users, and many ACLs in one request.

https://kafka.apache.org/protocol: DescribeUserScramCredentials, AlterUserScramCredentials (API keys 50 and 51, version
0, KIP-554). A broker is told no password, but what RFC 5802 makes of it.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiokafka.protocol.admin import CreateAclsRequest_v1, DeleteAclsRequest_v1
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import CompactArray, CompactBytes, CompactString, Int8, Int16, Int32, Schema, TaggedFields

SCRAM_SHA_512: Final = 2

ITERATIONS: Final = 8192
"""Kafka takes 4,096 to 16,384; our passwords are random, so it matters little."""

_TEXT = CompactString("utf-8")
_TAGS = ("tags", TaggedFields)


@dataclass(frozen=True, slots=True)
class Credential:
    """What a broker keeps of a password."""

    salt: bytes
    salted: bytes
    iterations: int = ITERATIONS

    @classmethod
    def of(cls, password: str) -> "Credential":
        """With a fresh salt. ``Hi()`` of RFC 5802 is PBKDF2 with HMAC; passwords of ASCII need no normalizing."""
        salt = os.urandom(32)
        return cls(salt, hashlib.pbkdf2_hmac("sha512", password.encode(), salt, ITERATIONS))


AclParts = tuple[int, str, int, str, str, int, int]
"""Kind, name and pattern of the resource, principal, host, operation, permission."""


class CreateAcls(Request[CreateAclsRequest_v1]):  # type: ignore[misc]
    """Create all of these."""

    API_KEY = 30

    def __init__(self, acls: Sequence[AclParts]) -> None:
        self._acls = acls

    def build(self, request_struct_class: type[CreateAclsRequest_v1]) -> CreateAclsRequest_v1:
        """One request."""
        return request_struct_class(self._acls)


class DeleteAcls(Request[DeleteAclsRequest_v1]):  # type: ignore[misc]
    """Delete exactly these."""

    API_KEY = 31

    def __init__(self, acls: Sequence[AclParts]) -> None:
        self._acls = acls

    def build(self, request_struct_class: type[DeleteAclsRequest_v1]) -> DeleteAclsRequest_v1:
        """One request."""
        return request_struct_class(self._acls)


class _DescribeResponse(Response):  # type: ignore[misc]
    API_KEY = 50
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("error_message", _TEXT),
        (
            "results",
            CompactArray(
                ("user", _TEXT),
                ("error_code", Int16),
                ("error_message", _TEXT),
                ("credentials", CompactArray(("mechanism", Int8), ("iterations", Int32), _TAGS)),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class _DescribeRequest(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION = True
    API_KEY = 50
    API_VERSION = 0
    RESPONSE_TYPE = _DescribeResponse
    SCHEMA = Schema(("users", CompactArray(("name", _TEXT), _TAGS)), _TAGS)


class DescribeUsers(Request[_DescribeRequest]):  # type: ignore[misc]
    """All users that have a SCRAM password."""

    API_KEY = 50

    def build(self, request_struct_class: type[_DescribeRequest]) -> _DescribeRequest:
        """The request; None stands for everybody."""
        return request_struct_class(None, {})


class _AlterResponse(Response):  # type: ignore[misc]
    API_KEY = 51
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("results", CompactArray(("user", _TEXT), ("error_code", Int16), ("error_message", _TEXT), _TAGS)),
        _TAGS,
    )


class _AlterRequest(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION = True
    API_KEY = 51
    API_VERSION = 0
    RESPONSE_TYPE = _AlterResponse
    SCHEMA = Schema(
        ("deletions", CompactArray(("name", _TEXT), ("mechanism", Int8), _TAGS)),
        (
            "upsertions",
            CompactArray(
                ("name", _TEXT),
                ("mechanism", Int8),
                ("iterations", Int32),
                ("salt", CompactBytes),
                ("salted_password", CompactBytes),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class AlterUser(Request[_AlterRequest]):  # type: ignore[misc]
    """Give a user this credential for SCRAM-SHA-512, or none any more."""

    API_KEY = 51

    def __init__(self, user: str, credential: Credential | None) -> None:
        self._user = user
        self._credential = credential

    def build(self, request_struct_class: type[_AlterRequest]) -> _AlterRequest:
        """The request of one change."""
        if self._credential is None:
            return request_struct_class([(self._user, SCRAM_SHA_512, {})], [], {})
        known = self._credential
        row: Any = (self._user, SCRAM_SHA_512, known.iterations, known.salt, known.salted, {})
        return request_struct_class([], [row], {})
