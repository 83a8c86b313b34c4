"""Keys as records: what an operator commands, what became of it, and how a key and its tenant stand.

A :class:`Command` is written to ``key-commands.v1``, and what became of it, a :class:`KeyEvent`, to ``key-events.v1``;
both are keyed by tenant and kept for good: together they are the audit trail. Nothing here holds a secret: a
credential is known by its public key or by the SHA-256 of a bearer key.
"""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PlainSerializer, StringConstraints, TypeAdapter, model_validator

from schemas.base import Inbound, Instant, KeyName, Part, Record, printable
from schemas.request import MAX_ADDRESSES, Options
from schemas.vocabulary import Depth, Lane

MAX_COUNT = 10**12
"""No limit in addresses is higher; one that is shall be left out."""

MAX_GRACE_S = 366 * 86_400

CommandId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
"""128 random bits in lower-case hexadecimal: the same command sent again keeps it."""

Said = Annotated[str, StringConstraints(min_length=1, max_length=256), AfterValidator(printable)]
"""What a person says for others to read: 1 to 256 printable characters."""

Count = Annotated[int, Field(ge=1, le=MAX_COUNT)]
OptionName = Literal["catch_all_probe", "retry"]
OPTIONS = frozenset[OptionName](Options.model_fields)  # type: ignore[arg-type]

# Sets have no order of their own, and the same record gives the same bytes.
_IN_ORDER = PlainSerializer(sorted, return_type=list[str])


class Kind(StrEnum):
    """How a credential proves that a request is its holder's."""

    SIGNATURE = "signature"
    BEARER = "bearer"


class Status(StrEnum):
    """Where a key is in its life; expiry is a matter of the clock and no state."""

    ACTIVE = "active"
    DISABLED = "disabled"
    REVOKED = "revoked"


class Outcome(StrEnum):
    """What became of a command."""

    APPLIED = "applied"
    UNCHANGED = "unchanged"
    REFUSED = "refused"


class Refused(StrEnum):
    """Why a command was refused."""

    UNKNOWN_KEY = "unknown_key"
    KEY_EXISTS = "key_exists"
    KEY_REVOKED = "key_revoked"
    CREDENTIAL_USED = "credential_used"
    TOO_MANY_VERSIONS = "too_many_versions"
    NOTHING_TO_ROLL_BACK = "nothing_to_roll_back"
    UNKNOWN_POLICY = "unknown_policy"
    BAD_TIMES = "bad_times"
    TOO_MANY_DOMAINS = "too_many_domains"
    TOO_MANY_POLICIES = "too_many_policies"
    STALE = "stale"


class Policy(Part):
    """Limits of a key, or of all keys of a tenant together. Null is without that limit."""

    rate_per_s: Annotated[float, Field(gt=0, le=1e6)] | None = Field(
        default=None, description="Requests a second over time."
    )
    burst: Annotated[int, Field(ge=1, le=10**6)] = Field(default=1, description="Requests at once.")
    daily: Count | None = Field(default=None, description="Addresses in a UTC day.")
    monthly: Count | None = Field(default=None, description="Addresses in a UTC month.")
    in_flight: Count | None = Field(default=None, description="Addresses admitted and not yet settled.")
    max_addresses: Annotated[int, Field(ge=1, le=MAX_ADDRESSES)] = Field(
        default=MAX_ADDRESSES, description="Addresses in one request."
    )


STANDARD = Policy(rate_per_s=50, burst=100, in_flight=100_000)
"""The policy of a key for which none was chosen: no quota, but a stranger to nobody's patience."""


class Scopes(Part):
    """What a key may ask for."""

    depths: Annotated[frozenset[Depth], _IN_ORDER] = frozenset(Depth)
    lanes: Annotated[frozenset[Lane], _IN_ORDER] = frozenset(Lane)
    options: Annotated[frozenset[OptionName], _IN_ORDER] = Field(
        default=OPTIONS, description="Options that a request may turn on."
    )


class Credential(Part):
    """What proves a key: the public key (32 bytes) or the SHA-256 of the bearer key, in lower-case hexadecimal."""

    kind: Kind
    proof: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Version(Part):
    """One credential of a key. It is good from ``starts_at`` on, until ``ends_at`` where that is set."""

    number: int
    credential: Credential
    created_at: Instant
    starts_at: Instant
    ends_at: Instant | None = None


class KeyRecord(Record):
    """One key (a row of the gate's table ``keys``). Exactly one of its versions has no end."""

    tenant: KeyName
    key: KeyName
    status: Status
    revision: int = Field(description="How often it was changed.")
    policy: str | Policy = Field(description="A policy by its name among the tenant's, or the limits themselves.")
    scopes: Scopes = Scopes()
    not_before: Instant | None = None
    expires_at: Instant | None = None
    versions: tuple[Version, ...]
    minted: int = Field(description="How many versions there have been: numbers are never used twice.")
    created_at: Instant
    rotated_at: Instant | None = None
    changed_at: Instant


MAX_ALLOWED = 1000
"""Domains that one tenant may be allowed."""

MAX_POLICIES = 1000
"""Policies of one tenant by name: every event of its keys repeats them, and no record may outgrow its topic."""

AllowedDomain = Annotated[str, StringConstraints(pattern=r"^(\*|[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63})+)$", max_length=253)]
"""A domain in ASCII and lower case, which stands for all below it too, or ``*`` for every domain."""


class TenantRecord(Record):
    """What a tenant's keys share (a row of the gate's table ``keys``)."""

    tenant: KeyName
    revision: int = 0
    limits: Policy = Policy()
    policies: dict[str, Policy] = Field(default_factory=dict)
    suspended: str | None = Field(default=None, description="Why nothing of the tenant is admitted.")
    commanded_at: Instant | None = Field(default=None, description="When the newest command was written.")
    allowed: tuple[AllowedDomain, ...] = Field(
        default=(), description="Domains of which it may ask for names that do not exist, however many."
    )


class _Command(Inbound):
    command_id: CommandId
    tenant: KeyName
    issued_at: Instant
    actor: Said = Field(description="Who commands it.")
    why: Said | None = None


class _KeyCommand(_Command):
    key: KeyName


class Create(_KeyCommand):
    """A new key. A name is used once: not even a revoked key makes room for another of its name."""

    verb: Literal["create"] = "create"
    credential: Credential
    policy: KeyName | Policy = STANDARD
    scopes: Scopes = Scopes()
    not_before: Instant | None = None
    expires_at: Instant | None = None


class Rotate(_KeyCommand):
    """A new credential from ``starts_at`` on, or at once; the one of now ends ``grace_s`` seconds later."""

    verb: Literal["rotate"] = "rotate"
    credential: Credential
    grace_s: Annotated[int, Field(ge=0, le=MAX_GRACE_S)]
    starts_at: Instant | None = None


class Rollback(_KeyCommand):
    """Back to the credential before the last rotation, while its grace lasts; the new one ends at once."""

    verb: Literal["rollback"] = "rollback"


class Revoke(_KeyCommand):
    """The end of a key, for good."""

    verb: Literal["revoke"] = "revoke"


class Disable(_KeyCommand):
    """No request of the key is admitted until it is enabled again."""

    verb: Literal["disable"] = "disable"


class Enable(_KeyCommand):
    """Ends what disabling began."""

    verb: Literal["enable"] = "enable"


class Change(_KeyCommand):
    """Another policy, other scopes, other times; what is left out stays as it is."""

    verb: Literal["change"] = "change"
    policy: KeyName | Policy | None = None
    scopes: Scopes | None = None
    not_before: Instant | Literal["now"] | None = None
    expires_at: Instant | Literal["never"] | None = None

    @model_validator(mode="after")
    def _something(self) -> "Change":
        if all(part is None for part in (self.policy, self.scopes, self.not_before, self.expires_at)):
            raise ValueError("a change changes something")
        return self


class Limit(_Command):
    """Limits of all keys of a tenant together."""

    verb: Literal["limit"] = "limit"
    limits: Policy


class Define(_Command):
    """A policy of the tenant by name, new or in place of what it was: every key that goes by it follows."""

    verb: Literal["define"] = "define"
    name: KeyName
    policy: Policy


class Suspend(_Command):
    """Nothing of the tenant is admitted until it is reinstated."""

    verb: Literal["suspend"] = "suspend"
    why: Said


class Reinstate(_Command):
    """Ends what a suspension began."""

    verb: Literal["reinstate"] = "reinstate"


class Allow(_Command):
    """The tenant may ask for any names of a domain: it cleans the lists of its own company, say."""

    verb: Literal["allow"] = "allow"
    domain: AllowedDomain


class Disallow(_Command):
    """Ends what ``allow`` began."""

    verb: Literal["disallow"] = "disallow"
    domain: AllowedDomain


KeyCommand = Create | Rotate | Rollback | Revoke | Disable | Enable | Change
TenantCommand = Limit | Define | Suspend | Reinstate | Allow | Disallow
Command = Annotated[KeyCommand | TenantCommand, Field(discriminator="verb")]
"""Whatever may stand on ``key-commands.v1``."""

_COMMAND: TypeAdapter[KeyCommand | TenantCommand] = TypeAdapter(Command)


def read_command(value: bytes) -> KeyCommand | TenantCommand:
    """A command as it was written: what is misspelt, in its parts too, is refused and never ignored.

    Raises:
        pydantic.ValidationError: it is none.
    """
    return _COMMAND.validate_json(value, strict=True, extra="forbid")


class KeyEvent(Record):
    """What became of a command (``key-events.v1``): who, what, when, why, and how key and tenant stand now."""

    command_id: CommandId
    verb: str
    tenant: KeyName
    key: KeyName | None = None
    actor: str
    why: str | None = None
    issued_at: Instant
    at: Instant
    outcome: Outcome
    refused: Refused | None = None
    message: str = ""
    key_record: KeyRecord | None = None
    tenant_record: TenantRecord
