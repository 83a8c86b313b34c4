"""Apache Kafka from its jars: one KRaft node, broker and controller in one JVM, on loopback."""

import secrets
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from ops.brokers.base import BrokerError, free_port, log_file
from ops.brokers.daemon import Daemon
from ops.brokers.jars import KAFKA_VERSION, kafka_jars
from ops.brokers.wire import serves
from ops.world.tls import self_signed

_CLUSTER_ID = "MkU3OEVBNTcwNTJENDM2Qk"
# A small heap and the quick compiler: it lives for minutes, beside tests, on two cores.
_JVM = ("-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")
_LOGGING = """rootLogger.level=WARN
rootLogger.appenderRef.out.ref=OUT
appender.out.type=Console
appender.out.name=OUT
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d %p %c{1} %m%n
"""


@dataclass(frozen=True, slots=True)
class Secured:
    """A broker that asks who is there: SASL_SSL with SCRAM-SHA-512, ACLs, and nothing allowed without one.

    ``admin`` is its super user. ``keystore`` is a PEM file of the broker's key and certificates.
    """

    port: int
    keystore: Path
    admin: str = "admin"
    password: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)

    def properties(self) -> str:
        """What is added to the server's properties. The plain listener stays, on loopback, for the broker itself."""
        # Whoever comes by the plain listener is the broker's own controller, or asks whether it serves.
        return f"""listener.name.clients.scram-sha-512.sasl.jaas.config=\\
  org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.clients.sasl.enabled.mechanisms=SCRAM-SHA-512
ssl.keystore.type=PEM
ssl.keystore.location={self.keystore}
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:{self.admin};User:ANONYMOUS
allow.everyone.if.no.acl.found=false
"""


def properties(port: int, controller: int, data: Path, secured: Secured | None = None) -> str:
    """``server.properties`` of the one node. Replication of one; rebalances at once; topics only when asked for.

    The controller lets a killed broker back in only after the session of the one before has run out: 3 s, not 9.
    """
    clients = f",CLIENTS://127.0.0.1:{secured.port}" if secured else ""
    protocols = ",CLIENTS:SASL_SSL" if secured else ""
    return f"""process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}{clients}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}{clients}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT{protocols}
inter.broker.listener.name=PLAINTEXT
log.dirs={data}
num.partitions=4
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
auto.create.topics.enable=false
log.segment.bytes=67108864
log.cleaner.dedupe.buffer.size=4194304
{secured.properties() if secured else ""}"""


class JarKafka:
    """Apache Kafka, started on creation.

    Raises:
        BrokerMissing: no Java, or no Maven to get the jars.
        BrokerError: it did not start.
    """

    name = f"Apache Kafka {KAFKA_VERSION} (Maven Central jars)"
    killable = True
    durable = True

    def __init__(self) -> None:
        jars = kafka_jars()
        self._home = Path(tempfile.mkdtemp(prefix="mailvet-kafka-"))
        port, controller = free_port(), free_port()
        self.bootstrap = f"127.0.0.1:{port}"
        self._secured = self._secure()
        config = self._home / "server.properties"
        config.write_text(properties(port, controller, self._home / "data", self._secured))
        logging = self._home / "log4j2.properties"
        logging.write_text(_LOGGING)
        java = shutil.which("java") or "java"
        self._java = [java, *_JVM, f"-Dlog4j2.configurationFile={logging}", "-cp", f"{jars}/*"]
        log = log_file(f"kafka-{port}")
        self._daemon = Daemon([*self._java, "kafka.Kafka", str(config)], log=log, ready=lambda: serves(port))
        try:
            self._format(config)
            self._daemon.start()
        except BaseException:
            self.stop()
            raise

    def _secure(self) -> Secured | None:
        """Anybody may do anything here."""
        return None

    def _format(self, config: Path) -> None:
        tool = ["kafka.tools.StorageTool", "format", "-t", _CLUSTER_ID, "-c", str(config)]
        if self._secured:
            credential = f"SCRAM-SHA-512=[name={self._secured.admin},password={self._secured.password}]"
            tool += ["--add-scram", credential]
        done = subprocess.run(  # noqa: S603  our own command, no shell
            [*self._java, *tool], capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode != 0:
            raise BrokerError(f"Kafka could not format its storage: {(done.stderr or done.stdout).strip()[-600:]}")

    def kill(self) -> None:
        """SIGKILL: the crash of a machine."""
        self._daemon.kill()

    def restart(self) -> None:
        """Start it again on the same port and data; one that runs is stopped first."""
        self._daemon.stop()
        self._daemon.start()

    def stop(self) -> None:
        """End it and remove its data; the log stays. No clean shutdown: nobody reads that data again."""
        self._daemon.kill()
        shutil.rmtree(self._home, ignore_errors=True)


class SecuredKafka(JarKafka):
    """The same with TLS, passwords and ACLs. ``bootstrap`` is for its health alone: clients come by ``clients``.

    Raises:
        BrokerMissing, BrokerError: as :class:`JarKafka`.
    """

    name = f"Apache Kafka {KAFKA_VERSION} with SASL_SSL and the StandardAuthorizer (Maven Central jars)"

    def _secure(self) -> Secured:
        keystore = self._home / "broker.pem"
        self.ca_file = self._home / "ca.pem"
        key, certificate = self_signed("127.0.0.1")
        keystore.write_bytes(key + certificate)
        keystore.chmod(0o600)
        self.ca_file.write_bytes(certificate)
        made = Secured(free_port(), keystore)
        self.clients = f"127.0.0.1:{made.port}"
        self.admin, self.password = made.admin, made.password
        return made
