"""Apache Kafka in a container, where a Docker socket answers."""

from typing import Any

from ops.brokers.base import BrokerError, BrokerMissing, free_port
from ops.brokers.daemon import wait_until
from ops.brokers.wire import serves

_VERSION = "4.3.1"
IMAGE = f"apache/kafka:{_VERSION}"
_CONTROLLER_PORT = 9093


def environment(port: int) -> dict[str, str]:
    """The image's settings: the same single KRaft node as from the jars (`kafka.properties`).

    The image writes ``KAFKA_A_B`` as ``a.b``. The inner port is the outer one, so that what it advertises is true.
    """
    return {
        "KAFKA_NODE_ID": "1",
        "KAFKA_PROCESS_ROLES": "broker,controller",
        "KAFKA_CONTROLLER_QUORUM_VOTERS": f"1@127.0.0.1:{_CONTROLLER_PORT}",
        "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "KAFKA_LISTENERS": f"PLAINTEXT://0.0.0.0:{port},CONTROLLER://127.0.0.1:{_CONTROLLER_PORT}",
        "KAFKA_ADVERTISED_LISTENERS": f"PLAINTEXT://127.0.0.1:{port}",
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "KAFKA_INTER_BROKER_LISTENER_NAME": "PLAINTEXT",
        "KAFKA_NUM_PARTITIONS": "4",
        "KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS": "4",
        "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_NUM_PARTITIONS": "4",
        "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
        "KAFKA_SHARE_COORDINATOR_STATE_TOPIC_NUM_PARTITIONS": "1",
        "KAFKA_SHARE_COORDINATOR_STATE_TOPIC_REPLICATION_FACTOR": "1",
        "KAFKA_SHARE_COORDINATOR_STATE_TOPIC_MIN_ISR": "1",
        "KAFKA_BROKER_SESSION_TIMEOUT_MS": "3000",
        "KAFKA_BROKER_HEARTBEAT_INTERVAL_MS": "500",
        "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
        "KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS": "1000",
        "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
    }


def _docker_answers() -> None:
    """Raise `BrokerMissing` unless a Docker socket answers; testcontainers is imported only when it could be used."""
    try:
        import docker  # noqa: PLC0415  a development dependency

        docker.from_env(timeout=5).ping()
    except ImportError:
        raise BrokerMissing("testcontainers is not installed (make setup)") from None
    except Exception:  # noqa: BLE001  the client raises its own, requests' and urllib3's errors for a missing socket
        raise BrokerMissing("no Docker socket answers") from None


class ContainerKafka:
    """Apache Kafka's own image, started on creation.

    Raises:
        BrokerMissing: no Docker socket answers.
        BrokerError: the image could not be had, or did not start.
    """

    name = f"Apache Kafka {_VERSION} (container {IMAGE})"
    killable = True
    durable = True

    def __init__(self) -> None:
        _docker_answers()
        from testcontainers.core.container import DockerContainer  # noqa: PLC0415  a development dependency

        self._port = free_port()
        self.bootstrap = f"127.0.0.1:{self._port}"
        self._container: Any = DockerContainer(IMAGE).with_bind_ports(self._port, self._port)
        for name, value in environment(self._port).items():
            self._container = self._container.with_env(name, value)
        try:
            self._container.start()
            self._wait()
        except BrokerError:
            self.stop()
            raise
        except Exception as error:
            self.stop()
            raise BrokerError(f"Docker could not run {IMAGE}: {error}") from error

    def _wait(self) -> None:
        wait_until(lambda: serves(self._port), timeout=90, what=f"{self.name} did not serve")

    def kill(self) -> None:
        """SIGKILL of the container's first process; its file system stays."""
        self._container.get_wrapped_container().kill("SIGKILL")

    def restart(self) -> None:
        """Start the same container again: same port, same data."""
        wrapped = self._container.get_wrapped_container()
        wrapped.stop(timeout=10)
        wrapped.start()
        self._wait()

    def stop(self) -> None:
        """Remove the container and its data."""
        self._container.stop()
