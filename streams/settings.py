"""Every setting of a worker, with its default, its unit and what it is for. Environment: ``MAILVET_<NAME>``.

``docs/settings.md`` is written from here: ``python -m streams.settings > docs/settings.md``.
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from schemas.signing import DEFAULT_AUDIENCE
from schemas.topics import own_results
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
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        default="PLAINTEXT",
        validation_alias="KAFKA_SECURITY_PROTOCOL",
        description="PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL. Commands that talk to Kafka take all of these too.",
    )
    sasl_mechanism: Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"] = Field(
        default="SCRAM-SHA-512",
        validation_alias="KAFKA_SASL_MECHANISM",
        description="SCRAM-SHA-512, SCRAM-SHA-256 or PLAIN.",
    )
    sasl_username: str = Field(default="", validation_alias="KAFKA_SASL_USERNAME", description="Who we are to Kafka.")
    sasl_password: SecretStr = Field(
        default=SecretStr(""), validation_alias="KAFKA_SASL_PASSWORD", description="The user's password."
    )
    sasl_password_file: str = Field(
        default="", validation_alias="KAFKA_SASL_PASSWORD_FILE", description="A file whose first line is the password."
    )
    ssl_ca_file: str = Field(
        default="",
        validation_alias="KAFKA_SSL_CA_FILE",
        description="PEM file of who may sign the brokers' certificates; the system's when empty.",
    )
    ssl_cert_file: str = Field(
        default="",
        validation_alias="KAFKA_SSL_CERT_FILE",
        description="PEM file of our own certificate, if we show one.",
    )
    ssl_key_file: str = Field(default="", validation_alias="KAFKA_SSL_KEY_FILE", description="PEM file of its key.")
    ssl_key_password: SecretStr = Field(
        default=SecretStr(""),
        validation_alias="KAFKA_SSL_KEY_PASSWORD",
        description="What the key is encrypted with, if it is.",
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
    hang_s: float = Field(
        default=3600.0,
        ge=60.0,
        description="Work in hand of which nothing ends for so long stops the worker with a reason; never less than "
        "all that may be in hand takes.",
    )
    idempotent_producer: bool = Field(default=True, description="Off for brokers without InitProducerId.")
    fetch_wait_ms: PositiveInt = Field(
        default=500, description="How long a fetch waits at the broker; 25 for the embedded one."
    )
    standby_replicas: int = Field(
        default=0,
        ge=0,
        description="Workers that keep the rows of another one's partitions at hand, to take over within seconds.",
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
    tenant_topics: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="TENANT,...: whose answers go to a results topic of their own, never to the shared one.",
    )
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

    # Abuse: what looks like harvesting, docs/abuse.md
    abuse_unknown: int = Field(
        default=500,
        ge=0,
        description="Distinct mailboxes of a domain that a tenant may ask for and that do not exist; 0 watches nobody.",
    )
    abuse_part: float = Field(
        default=0.8, gt=0, le=1, description="The least part of all answers of the domain that these have to be."
    )
    abuse_window: timedelta = Field(default=timedelta(days=7), description="What is counted together.")
    abuse_action: Literal["suspend", "report"] = Field(
        default="suspend", description="`report`: the log and `mailvet_abuse_alarms_total` tell, and nothing is done."
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
    turn_wait_s: PositiveFloat = Field(
        default=120.0,
        description="A task that waits so long for its provider's turn comes again after the shortest retry delay.",
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

    do_not_probe: str = Field(
        default="",
        description="File of domains that are never asked, beside `mailvet optout`; each with all below it.",
    )

    # Operations
    metrics_host: str = Field(default="127.0.0.1", description="Where /metrics and /health are served.")
    metrics_tenants: int = Field(
        default=100, ge=0, description="Tenants that have a label of their own in metrics; the others are `other`."
    )
    metrics_port: int = Field(default=9464, description="0 takes a free port.")
    drain_s: PositiveFloat = Field(default=20.0, description="How long SIGTERM waits for work in flight.")

    @field_validator("retry_delays_s", "resolvers", "allowed_networks", "risky_flags", "tenant_topics", mode="before")
    @classmethod
    def _commas(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("provider_shards", mode="before")
    @classmethod
    def _pairs(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return dict(part.strip().split("=", 1) for part in value.split(",") if part.strip())

    @field_validator("tenant_topics")
    @classmethod
    def _can_name_topics(cls, tenants: tuple[str, ...]) -> tuple[str, ...]:
        for tenant in tenants:
            own_results(tenant)
        return tenants

    @model_validator(mode="after")
    def _say_who_we_are(self) -> Self:
        """Who means to show a password or a certificate never connects without it."""
        password = bool(self.sasl_password.get_secret_value() or self.sasl_password_file)
        if self.security_protocol.startswith("SASL_"):
            if not (self.sasl_username and password):
                raise ValueError(
                    f"KAFKA_SECURITY_PROTOCOL={self.security_protocol} needs KAFKA_SASL_USERNAME, and "
                    "KAFKA_SASL_PASSWORD or KAFKA_SASL_PASSWORD_FILE"
                )
        elif self.sasl_username or password:
            raise ValueError(
                "KAFKA_SASL_USERNAME and a password need KAFKA_SECURITY_PROTOCOL=SASL_SSL (or SASL_PLAINTEXT)"
            )
        if (self.ssl_ca_file or self.ssl_cert_file) and not self.security_protocol.endswith("SSL"):
            raise ValueError("KAFKA_SSL_CA_FILE and KAFKA_SSL_CERT_FILE need KAFKA_SECURITY_PROTOCOL=SASL_SSL or SSL")
        return self


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
