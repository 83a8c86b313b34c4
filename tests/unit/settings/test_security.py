"""Who we are to Kafka: every client's options from the same settings, mistakes in one sentence, secrets in none."""

import ast
import ssl
from pathlib import Path
from typing import Any

import faust
import pytest
from cryptography.hazmat.primitives import serialization
from pydantic import ValidationError

from ops.cli import demo
from ops.cli.config import load_settings
from ops.cli.errors import UserError
from ops.cli.kafka import reach
from ops.world.tls import self_signed
from streams.engine import engine
from streams.kafka import StartupError, client_options, faust_options
from streams.settings import Settings

ROOT = Path(__file__).parents[3]
SASL = {"security_protocol": "SASL_PLAINTEXT", "sasl_username": "mailvet.gate", "sasl_password": "sesame"}
CLIENTS = {"AIOKafkaConsumer", "AIOKafkaProducer", "AIOKafkaAdminClient", "AIOKafkaClient"}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A certificate, its key, and the key encrypted."""
    key, certificate = self_signed("kafka.test")
    (tmp_path / "cert.pem").write_bytes(certificate)
    (tmp_path / "key.pem").write_bytes(key)
    locked = serialization.load_pem_private_key(key, None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"open"),
    )
    (tmp_path / "locked.pem").write_bytes(locked)
    return tmp_path


def settings(**fields: Any) -> Settings:
    return Settings.model_validate(fields)


def test_without_settings_nobody_is_asked_for_anything() -> None:
    assert client_options(settings(bootstrap_servers="a:1,b:2"), "me") == {
        "bootstrap_servers": "a:1,b:2",
        "client_id": "me",
        "security_protocol": "PLAINTEXT",
    }
    assert faust_options(settings(bootstrap_servers="a:1, b:2")) == {
        "broker": "kafka://a:1;b:2",
        "broker_credentials": None,
    }


def test_a_password_goes_to_every_kind_of_client() -> None:
    options = client_options(settings(**SASL), "me")
    assert options["security_protocol"] == "SASL_PLAINTEXT"
    assert options["sasl_mechanism"] == "SCRAM-SHA-512"
    assert (options["sasl_plain_username"], options["sasl_plain_password"]) == ("mailvet.gate", "sesame")
    credentials = faust_options(settings(**SASL))["broker_credentials"]
    assert (credentials.username, credentials.password) == ("mailvet.gate", "sesame")
    assert credentials.mechanism.value == "SCRAM-SHA-512"
    assert credentials.protocol.value == "SASL_PLAINTEXT"


def test_faust_connects_as_the_same_user() -> None:
    conf = engine("gate", settings(**SASL)).conf
    assert conf.broker_credentials.username == "mailvet.gate"
    assert "sesame" not in repr(conf.broker_credentials)


def test_tls_knows_the_broker_by_its_name_and_shows_our_certificate(files: Path) -> None:
    given = settings(
        security_protocol="SSL",
        ssl_ca_file=str(files / "cert.pem"),
        ssl_cert_file=str(files / "cert.pem"),
        ssl_key_file=str(files / "locked.pem"),
        ssl_key_password="open",
    )
    context = client_options(given, "me")["ssl_context"]
    assert (context.check_hostname, context.verify_mode) == (True, ssl.CERT_REQUIRED)
    assert context.cert_store_stats()["x509"] == 1
    assert isinstance(faust_options(given)["broker_credentials"], faust.SSLCredentials)
    both = settings(**SASL | {"security_protocol": "SASL_SSL"})
    assert isinstance(client_options(both, "me")["ssl_context"], ssl.SSLContext)
    assert faust_options(both)["broker_credentials"].protocol.value == "SASL_SSL"


def test_the_password_may_lie_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("from the file\nand no more\n")
    fields = SASL | {"sasl_password": "", "sasl_password_file": str(path)}
    assert client_options(settings(**fields), "me")["sasl_plain_password"] == "from the file"
    path.write_text("\n")
    with pytest.raises(StartupError, match=r"KAFKA_SASL_PASSWORD_FILE: .*password holds no password"):
        client_options(settings(**fields), "me")
    path.unlink()
    with pytest.raises(StartupError, match=r"KAFKA_SASL_PASSWORD_FILE: .*password can't be read"):
        faust_options(settings(**fields))


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ({"ssl_ca_file": "nowhere.pem"}, r"KAFKA_SSL_CA_FILE: .*nowhere.pem can't be read"),
        ({"ssl_ca_file": "empty.pem"}, "must be PEM files"),
        ({"ssl_cert_file": "cert.pem", "ssl_key_file": "locked.pem"}, "KAFKA_SSL_KEY_PASSWORD must open it"),
        ({"ssl_cert_file": "cert.pem", "ssl_key_file": "other.pem"}, "the key must fit the certificate"),
    ],
)
def test_a_file_that_can_not_be_used_is_named(files: Path, names: dict[str, str], sentence: str) -> None:
    (files / "empty.pem").write_text("")
    (files / "other.pem").write_bytes(self_signed("other.test")[0])
    given = settings(security_protocol="SSL", **{name: str(files / file) for name, file in names.items()})
    with pytest.raises(StartupError, match=sentence):
        client_options(given, "me")


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"security_protocol": "SASL_SSL"}, "needs KAFKA_SASL_USERNAME"),
        ({"security_protocol": "SASL_SSL", "sasl_username": "me"}, "KAFKA_SASL_PASSWORD or KAFKA_SASL_PASSWORD_FILE"),
        ({"sasl_username": "me", "sasl_password": "sesame"}, "need KAFKA_SECURITY_PROTOCOL=SASL_SSL"),
        ({"security_protocol": "SSL", "sasl_password": "sesame"}, "need KAFKA_SECURITY_PROTOCOL=SASL_SSL"),
        ({"ssl_ca_file": "ca.pem"}, "need KAFKA_SECURITY_PROTOCOL=SASL_SSL or SSL"),
        (SASL | {"ssl_cert_file": "cert.pem"}, "need KAFKA_SECURITY_PROTOCOL=SASL_SSL or SSL"),
        ({"security_protocol": "TLS"}, "Input should be 'PLAINTEXT', 'SSL', 'SASL_PLAINTEXT' or 'SASL_SSL'"),
        ({"sasl_mechanism": "GSSAPI"}, "Input should be 'SCRAM-SHA-512', 'SCRAM-SHA-256' or 'PLAIN'"),
    ],
)
def test_who_means_to_be_somebody_never_connects_as_nobody(fields: dict[str, str], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        settings(**fields)
    with pytest.raises(UserError, match=sentence) as refused:
        load_settings(**fields)
    assert "sesame" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_wrong_setting_is_named_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="or KAFKA_SECURITY_PROTOCOL"):
        load_settings(security_protocol="TLS")
    monkeypatch.setenv("KAFKA_SASL_MECHANISM", "GSSAPI")
    with pytest.raises(UserError, match="or KAFKA_SASL_MECHANISM"):
        load_settings()


def test_a_command_says_the_same_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SASL.items():
        monkeypatch.setenv(f"KAFKA_{name.upper()}", value)
    assert reach("a:1")["sasl_plain_username"] == "mailvet.gate"
    monkeypatch.setenv("KAFKA_SASL_PASSWORD_FILE", "/nowhere")
    with pytest.raises(UserError, match="KAFKA_SASL_PASSWORD_FILE: /nowhere can't be read"):
        reach("a:1")
    demo._forget_who_we_are()
    assert reach("a:1")["security_protocol"] == "PLAINTEXT"


def test_no_secret_is_shown() -> None:
    given = settings(**SASL | {"ssl_key_password": "open-sesame"})
    assert "sesame" not in repr(given)
    assert "sesame" not in str(given)


def _clients_made() -> list[tuple[str, int, ast.Call]]:
    """Every place in the software where a client of Kafka is made."""
    found = []
    for path in sorted((*(ROOT / "streams").rglob("*.py"), *(ROOT / "ops").rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CLIENTS:
                found.append((str(path.relative_to(ROOT)), node.lineno, node))
    return found


def test_no_client_is_made_without_saying_who_we_are() -> None:
    clients = _clients_made()
    assert len(clients) >= 8
    for path, line, call in clients:
        unpacked = [ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg is None]
        known = [each for each in unpacked if "client_options(" in each or "reach(" in each or each.endswith("options")]
        assert known, f"{path}:{line}: use streams.kafka.client_options() or ops.cli.kafka.reach()"
        assert not any(keyword.arg == "bootstrap_servers" for keyword in call.keywords), f"{path}:{line}"
