"""Every setting of a worker, with its default, its unit and what it is for. Environment: ``MAILVET_<NAME>``."""

from datetime import timedelta
from typing import Annotated

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

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
    session_timeout_s: float = 10.0
    heartbeat_s: float = 2.0
    commit_interval_s: float = 1.0
    broker_wait_s: float = Field(default=15.0, description="How long start-up waits for the broker.")
    delivery_timeout_s: float = Field(
        default=120.0, description="A record that the broker has not confirmed by then stops the worker."
    )
    rebalance_grace_s: float = Field(
        default=3.0, description="How long a rebalance waits for work in flight before it is done again elsewhere."
    )
    idempotent_producer: bool = Field(default=True, description="Off for brokers without InitProducerId.")
    fetch_wait_ms: int = Field(
        default=500, description="How long a fetch waits at the broker; 25 for the embedded one."
    )
    data_dir: str = Field(default="", description="Where Faust keeps table files; a temporary folder when empty.")

    # Gate
    dev_key: SecretStr = Field(default=SecretStr(""), description="A bearer key that is admitted as it stands.")
    dev_daily_quota: int = 1_000_000
    dev_rate_per_s: float = 200.0
    dev_rate_burst: int = 2000
    dev_in_flight: int = Field(default=500_000, description="Addresses admitted and not yet settled.")
    interactive_up_to: int = Field(default=10, description="Requests of so many addresses are interactive by default.")
    verdict_by_default: timedelta = timedelta(hours=3)
    decisions_kept: timedelta = timedelta(days=4)

    # Retries: topic names are fixed, delays are the operator's (the demo waits milliseconds)
    retry_delays_s: Annotated[tuple[float, float, float], NoDecode] = (300.0, 900.0, 3600.0)

    # DNS and SMTP
    resolvers: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="HOST[:PORT],...; the system's when empty."
    )
    dns_timeout_s: float = 5.0
    smtp_port: int = 25
    allowed_networks: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="CIDRs that may be dialled though they are not global."
    )
    helo: str = Field(default="", description="The name said in EHLO; the machine's own when empty.")
    mail_from: str = Field(default="", description="The envelope sender; empty is the null sender <>.")
    provider_shards: Annotated[dict[str, int], NoDecode] = Field(
        default={},
        description="PROVIDER=N,...: too large for one worker, so split by domain; each shard has 1/N of the limits.",
    )
    sessions_per_provider: int = 4
    sessions_total: int = 1000
    connect_timeout_s: float = 10.0
    command_timeout_s: float = 30.0
    dialogue_deadline_s: float = Field(
        default=60.0, description="After this a task's unanswered addresses are retried."
    )
    in_flight_addresses: int = Field(
        default=10_000, description="Addresses of one lane in dialogue at a time, per worker."
    )

    # Verdicts
    risky_flags: Annotated[tuple[Reason, ...], NoDecode] = (
        Reason.CATCH_ALL,
        Reason.ROLE_ACCOUNT,
        Reason.DISPOSABLE,
    )
    allow_list: str = Field(default="", description="File of domains never flagged as disposable, free or typo.")
    deny_list: str = Field(default="", description="File of domains always flagged as disposable.")

    # Operations
    metrics_host: str = "127.0.0.1"
    metrics_port: int = Field(default=9464, description="0 takes a free port.")
    drain_s: float = Field(default=20.0, description="How long SIGTERM waits for work in flight.")

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
