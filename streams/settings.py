"""Every setting of a worker, with its default, its unit and what it is for. Environment: ``MAILVET_<NAME>``.

``docs/settings.md`` is written from here: ``python -m streams.settings > docs/settings.md``.
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from schemas.signing import DEFAULT_AUDIENCE
from schemas.vocabulary import Reason


class Settings(BaseSettings):
    """Read from the environment; a wrong value is refused at start-up with its name."""

    model_config = SettingsConfigDict(env_prefix="MAILVET_", frozen=True, populate_by_name=True)

    # Kafka
    bootstrap_servers: str = Field(
        default="127.0.0.1:9092",
        validation_alias="KAFKA_BOOTSTRAP_SERVERS",
        description="HOST:PORT[,HOST:PORT]",
    )
    namespace: str = Field(
        default="",
        pattern=r"^[A-Za-z0-9-]*$",
        description="Goes before the names of topics and groups where several installations share a broker.",
    )
    session_timeout_s: PositiveFloat = Field(
        default=10.0, description="How long the group waits for a worker that is silent."
    )
    heartbeat_s: PositiveFloat = Field(
        default=2.0, description="How often a worker says that it lives; a third of the session at most."
    )
    commit_interval_s: PositiveFloat = Field(default=1.0, description="How often acknowledged offsets are committed.")
    broker_wait_s: PositiveFloat = Field(default=15.0, description="How long start-up waits for the broker.")
    delivery_timeout_s: PositiveFloat = Field(
        default=120.0, description="A record that the broker has not confirmed by then stops the worker."
    )
    rebalance_grace_s: PositiveFloat = Field(
        default=3.0, description="How long a rebalance waits for work in flight before it is done again elsewhere."
    )
    stall_s: float = Field(
        default=60.0,
        ge=5.0,
        description="A worker that reads nothing for so long though the broker has records for it stops with a reason.",
    )
    idempotent_producer: bool = Field(default=True, description="Off for brokers without InitProducerId.")
    fetch_wait_ms: PositiveInt = Field(
        default=500, description="How long a fetch waits at the broker; 25 for the embedded one."
    )
    data_dir: str = Field(default="", description="Where Faust keeps table files; a temporary folder when empty.")

    dead_letter_limit: float = Field(
        default=0.05, gt=0.0, le=1.0, description="A larger share of dead letters in five minutes raises an alert."
    )

    # Gate
    audience: str = Field(
        default=DEFAULT_AUDIENCE,
        pattern=r"^[ -~]{1,128}$",
        description="This installation's name in signatures: what was signed for another one is refused here.",
    )
    replay_window_s: PositiveFloat = Field(
        default=300.0,
        description="How far the time in a signature and the arrival of its request may lie apart, in seconds.",
    )
    bearer_keys: bool = Field(default=True, description="Off: requests with a bearer key are dead letters.")
    dev_key: SecretStr = Field(default=SecretStr(""), description="A bearer key that is admitted as it stands.")
    dev_daily_quota: PositiveInt = Field(default=1_000_000, description="Addresses that key may ask for in a UTC day.")
    dev_rate_per_s: PositiveFloat = Field(default=200.0, description="Requests a second of that key, over time.")
    dev_rate_burst: PositiveInt = Field(default=2000, description="Requests of that key at once.")
    dev_in_flight: PositiveInt = Field(default=500_000, description="Addresses admitted and not yet settled.")
    interactive_up_to: PositiveInt = Field(
        default=10, description="Requests of so many addresses are interactive by default."
    )
    verdict_by_default: timedelta = Field(
        default=timedelta(hours=3), description="When a request that names no time must be answered."
    )
    decisions_kept: timedelta = Field(
        default=timedelta(days=4), description="How long a repeat is known as one; longer than any record is kept."
    )

    # Retries: topic names are fixed, delays are the operator's (the demo waits milliseconds)
    retry_delays_s: Annotated[tuple[PositiveFloat, PositiveFloat, PositiveFloat], NoDecode] = Field(
        default=(300.0, 900.0, 3600.0), description="Seconds of the three tiers: S,S,S."
    )

    # DNS and SMTP
    resolvers: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="HOST[:PORT],...; the system's when empty."
    )
    dns_timeout_s: PositiveFloat = Field(
        default=5.0, description="For one question, all name servers and repeats together."
    )
    smtp_port: PositiveInt = Field(default=25, description="Where mail servers listen; another one is for tests.")
    allowed_networks: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="CIDRs that may be dialled though they are not global."
    )
    helo: str = Field(default="", description="The name said in EHLO; the machine's own when empty.")
    mail_from: str = Field(default="", description="The envelope sender; empty is the null sender <>.")
    provider_shards: Annotated[dict[str, PositiveInt], NoDecode] = Field(
        default={},
        description="PROVIDER=N,...: too large for one worker, so split by domain; each shard has 1/N of the limits.",
    )
    smtp_config: str = Field(
        default="", description="TOML file of what differs from provider to provider, and of several ways out."
    )
    sessions_per_provider: PositiveInt = Field(default=4, description="SMTP sessions open at a time with one provider.")
    sessions_per_provider_max: int = Field(
        default=16, ge=0, description="How far that grows while a provider serves well; large ones keep to the above."
    )
    sessions_total: PositiveInt = Field(default=1000, description="SMTP sessions open at a time, of all providers.")
    connect_timeout_s: PositiveFloat = Field(
        default=10.0, description="For the TCP handshake, for the banner, and for each reply before the first MAIL."
    )
    command_timeout_s: PositiveFloat = Field(default=30.0, description="The longest silence while a reply is due.")
    dialogue_deadline_s: PositiveFloat = Field(
        default=60.0, description="After this a task's unanswered addresses are retried."
    )
    in_flight_addresses: PositiveInt = Field(
        default=10_000, description="Addresses of one lane in dialogue at a time, per worker."
    )

    # Verdicts
    risky_flags: Annotated[tuple[Reason, ...], NoDecode] = Field(
        default=(Reason.CATCH_ALL, Reason.ROLE_ACCOUNT, Reason.DISPOSABLE),
        description="Flags that make an accepted address risky.",
    )
    allow_list: str = Field(default="", description="File of domains never flagged as disposable, free or typo.")
    deny_list: str = Field(default="", description="File of domains always flagged as disposable.")

    # Operations
    metrics_host: str = Field(default="127.0.0.1", description="Where /metrics and /health are served.")
    metrics_port: int = Field(default=9464, description="0 takes a free port.")
    drain_s: PositiveFloat = Field(default=20.0, description="How long SIGTERM waits for work in flight.")

    @field_validator("retry_delays_s", "resolvers", "allowed_networks", "risky_flags", mode="before")
    @classmethod
    def _commas(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("provider_shards", mode="before")
    @classmethod
    def _pairs(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return dict(part.strip().split("=", 1) for part in value.split(",") if part.strip())


def document() -> str:
    """A Markdown page that lists every setting."""
    heading = (
        "# Settings",
        "",
        "Of workers, read from the environment. Written by `python -m streams.settings`; a test compares.",
        "",
        "| variable | default | what it is for |",
        "|---|---|---|",
    )
    return "\n".join([*heading, *_rows(), ""])


def _rows() -> Iterator[str]:
    for name, field in Settings.model_fields.items():
        variable = field.validation_alias or f"MAILVET_{name.upper()}"
        yield f"| `{variable}` | {_shown(field.default)} | {field.description} |"


def _shown(default: object) -> str:
    """A default as the environment would say it; a secret has none."""
    if isinstance(default, timedelta):
        return f"`PT{default.total_seconds():.0f}S`"
    if isinstance(default, tuple):
        default = ",".join(str(part) for part in default)
    return f"`{default}`" if default not in ("", {}) and not isinstance(default, SecretStr) else "-"


if __name__ == "__main__":
    print(document(), end="")
