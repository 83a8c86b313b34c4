"""Apache Kafka's jars through Maven: downloaded once, shared by parallel runs."""

import contextlib
import fcntl
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from ops.brokers.base import BrokerError, BrokerMissing, cache_dir

KAFKA_VERSION = "4.4.0"
_LOG4J_VERSION = "2.25.5"
_DOWNLOAD_TIMEOUT = 600.0
_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>mailvet</groupId><artifactId>test-broker</artifactId><version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{KAFKA_VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId>
      <version>{_LOG4J_VERSION}</version>
    </dependency>
  </dependencies>
</project>
"""


@contextlib.contextmanager
def locked(path: Path, *, timeout: float) -> Iterator[None]:
    """Hold an exclusive lock on a file between processes.

    Raises:
        BrokerError: another process held it longer than `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    with path.open("w") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise BrokerError(f"{path} is locked by another process for over {timeout:.0f} s") from None
                time.sleep(0.2)
        yield


def kafka_jars() -> Path:
    """The folder of Kafka's jars, downloaded when it is not there yet (43 MB).

    Raises:
        BrokerMissing: no ``java``, or no ``mvn`` while the jars are still to be had.
        BrokerError: the download failed.
    """
    if shutil.which("java") is None:
        raise BrokerMissing("Java is not installed (Debian: apt-get install default-jre-headless maven)")
    jars = cache_dir() / f"kafka-{KAFKA_VERSION}"
    if not jars.is_dir():
        with locked(cache_dir() / "download.lock", timeout=_DOWNLOAD_TIMEOUT):
            if not jars.is_dir():
                _download(jars)
    return jars


def _download(jars: Path) -> None:
    """Fill a folder beside the final one and rename it: a torn download never looks like a whole one."""
    maven = shutil.which("mvn")
    if maven is None:
        raise BrokerMissing("Maven is not installed (Debian: apt-get install maven)")
    partial = jars.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    pom = partial / "pom.xml"
    pom.write_text(_POM)
    command = [maven, "-q", "-B", "-f", str(pom), "dependency:copy-dependencies", "-DincludeScope=runtime"]
    try:
        done = subprocess.run(  # noqa: S603  our own command, no shell
            [*command, f"-DoutputDirectory={partial}"],
            capture_output=True, text=True, timeout=_DOWNLOAD_TIMEOUT, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise BrokerError(f"Maven did not finish the download within {_DOWNLOAD_TIMEOUT:.0f} s") from None
    if done.returncode != 0:
        raise BrokerError(f"Maven could not download Kafka {KAFKA_VERSION}: {done.stdout.strip()[-600:]}")
    partial.rename(jars)
