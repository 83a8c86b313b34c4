"""`docker-compose.yml` as Docker Compose's own parser reads it, and as its services need one another."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
COMPOSE = ROOT / "docker-compose.yml"
ROLES = {"gate", "route", "probe", "retry", "completion"}


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text())["services"]
    return found


@pytest.fixture(scope="module")
def composecheck(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """compose-go behind a small command; needs Go, and its modules from the proxy once."""
    if shutil.which("go") is None:
        pytest.skip("Go is not installed, so compose-go can't be built")
    source = ROOT / "ops" / "tools" / "composecheck"
    fetched = subprocess.run(
        ["go", "mod", "download"], cwd=source, capture_output=True, text=True, timeout=120, check=False
    )
    if fetched.returncode != 0:
        pytest.skip(f"compose-go can't be downloaded: {fetched.stderr[-200:]}")
    binary = tmp_path_factory.mktemp("composecheck") / "composecheck"
    subprocess.run(["go", "build", "-o", binary, "."], cwd=source, check=True, timeout=240)
    return binary


def load(composecheck: Path, file: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([composecheck, file], capture_output=True, text=True, timeout=60, check=False)


def test_the_compose_parser_takes_it(composecheck: Path) -> None:
    loaded = load(composecheck, COMPOSE)
    assert loaded.returncode == 0, loaded.stderr
    assert set(loaded.stdout.split()) >= ROLES | {"kafka", "topics", "prometheus", "grafana", "world"}


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("stop_grace_period", "stop_grace_perod"), ("service:world", "service:wrold"), ('"1"', "[1]")],
    ids=["misspelt key", "undefined service", "wrong type"],
)
def test_the_parser_would_tell(composecheck: Path, tmp_path: Path, right: str, wrong: str) -> None:
    broken = tmp_path / "docker-compose.yml"
    broken.write_text(COMPOSE.read_text().replace(right, wrong))
    assert load(composecheck, broken).returncode == 1


def test_every_role_is_a_service_that_waits_for_its_topics(services: dict[str, dict[str, Any]]) -> None:
    for role in ROLES:
        service = services[role]
        assert service["command"] == ["worker", "--role", role]
        assert service["depends_on"]["topics"] == {"condition": "service_completed_successfully"}
        assert "/health/ready" in service["healthcheck"]["test"][-1]


def test_what_runs_for_long_has_a_health_check(services: dict[str, dict[str, Any]]) -> None:
    jobs = {name for name, service in services.items() if service.get("healthcheck", {}).get("disable")}
    assert jobs == {"topics", "world-topics"}
    assert all("test" in service["healthcheck"] for name, service in services.items() if name not in jobs)


def test_nothing_listens_beyond_this_machine(services: dict[str, dict[str, Any]]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_no_secret_is_written_down(services: dict[str, dict[str, Any]]) -> None:
    for service in services.values():
        for name, value in service.get("environment", {}).items():
            if any(word in name for word in ("KEY", "PASSWORD", "SECRET", "TOKEN")):
                assert value.startswith("${"), name
