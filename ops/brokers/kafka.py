"""Apache Kafka from its jars, on loopback: one KRaft node or a few, each broker and controller in one JVM."""

import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
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

_OF_A_CLUSTER = """default.replication.factor={replicas}
min.insync.replicas={isr}
replica.lag.time.max.ms=6000
"""

NODE_BYTES = 700 * 1024 * 1024
"""What a node takes at most: its heap, and the JVM's own."""

SPARE_BYTES = 3 * 1024 * 1024 * 1024
"""What is left for those that use a cluster."""


@dataclass(frozen=True, slots=True)
class Node:
    """One member of a cluster, by its ports on loopback.

    With a ``front`` there is a second listener, at ``behind``, which tells its clients to come to ``front``: whoever
    listens there stands between them and the broker.
    """

    number: int
    port: int
    controller: int
    behind: int = 0
    front: int = 0


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
    """``server.properties`` of a single node."""
    node = Node(1, port, controller)
    return node_properties(node, (node,), data, secured)


def node_properties(node: Node, nodes: Sequence[Node], data: Path, secured: Secured | None = None) -> str:
    """``server.properties`` of one of these nodes. Rebalances at once; topics only when asked for.

    Everything is kept by all nodes, up to three, and one of three may be away. The controller lets a killed broker
    back in only after the session of the one before has run out: 3 s, not 9.
    """
    voters = ",".join(f"{each.number}@127.0.0.1:{each.controller}" for each in nodes)
    fronted = f",FRONT://127.0.0.1:{node.behind}" if node.front else ""
    advertised = f",FRONT://127.0.0.1:{node.front}" if node.front else ""
    protocols = ",FRONT:PLAINTEXT" if node.front else ""
    if secured:
        fronted = advertised = f",CLIENTS://127.0.0.1:{secured.port}"
        protocols = ",CLIENTS:SASL_SSL"
    replicas = min(3, len(nodes))
    return f"""process.roles=broker,controller
node.id={node.number}
controller.quorum.voters={voters}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:{node.port},CONTROLLER://127.0.0.1:{node.controller}{fronted}
advertised.listeners=PLAINTEXT://127.0.0.1:{node.port}{advertised}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT{protocols}
inter.broker.listener.name=PLAINTEXT
log.dirs={data}
num.partitions=4
offsets.topic.num.partitions=4
offsets.topic.replication.factor={replicas}
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor={replicas}
transaction.state.log.min.isr={max(1, replicas - 1)}
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor={replicas}
share.coordinator.state.topic.min.isr={max(1, replicas - 1)}
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
auto.create.topics.enable=false
log.segment.bytes=67108864
log.cleaner.dedupe.buffer.size=4194304
{_OF_A_CLUSTER.format(replicas=replicas, isr=replicas - 1) if len(nodes) > 1 else ""}\
{secured.properties() if secured else ""}"""


class _NodeProcess:
    """One node: formatted once, started as often as asked."""

    def __init__(
        self, node: Node, nodes: Sequence[Node], home: Path, jars: Path, secured: Secured | None = None
    ) -> None:
        self._secured = secured
        home.mkdir(parents=True, exist_ok=True)
        self._config = home / "server.properties"
        self._config.write_text(node_properties(node, nodes, home / "data", secured))
        logging = home / "log4j2.properties"
        logging.write_text(_LOGGING)
        java = shutil.which("java") or "java"
        self._java = [java, *_JVM, f"-Dlog4j2.configurationFile={logging}", "-cp", f"{jars}/*"]
        self.daemon = Daemon(
            [*self._java, "kafka.Kafka", str(self._config)],
            log=log_file(f"kafka-{node.port}"),
            ready=lambda: serves(node.port),
            name="the broker" if len(nodes) == 1 else f"broker {node.number}",
        )

    def format(self) -> None:
        tool = ["kafka.tools.StorageTool", "format", "-t", _CLUSTER_ID, "-c", str(self._config)]
        if self._secured:
            credential = f"SCRAM-SHA-512=[name={self._secured.admin},password={self._secured.password}]"
            tool += ["--add-scram", credential]
        done = subprocess.run(  # noqa: S603  our own command, no shell
            [*self._java, *tool], capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode != 0:
            raise BrokerError(f"Kafka could not format its storage: {(done.stderr or done.stdout).strip()[-600:]}")

    def start(self) -> None:
        self.format()
        self.daemon.start()


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
        node = Node(1, free_port(), free_port())
        self.bootstrap = f"127.0.0.1:{node.port}"
        try:
            self._node = _NodeProcess(node, (node,), self._home, jars, self._secure())
            self._node.start()
        except BaseException:
            self.stop()
            raise

    def _secure(self) -> Secured | None:
        """Anybody may do anything here."""
        return None

    def kill(self) -> None:
        """SIGKILL: the crash of a machine."""
        self._node.daemon.kill()

    def restart(self) -> None:
        """Start it again on the same port and data; one that runs is stopped first."""
        self._node.daemon.stop()
        self._node.daemon.start()

    def stop(self) -> None:
        """End it and remove its data; the log stays. No clean shutdown: nobody reads that data again."""
        if hasattr(self, "_node"):
            self._node.daemon.kill()
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


class KafkaCluster:
    """Apache Kafka on several nodes, started on creation. Nodes are named by their number, from 1.

    Clients of ``bootstrap`` talk to the nodes; those of ``front_bootstrap`` to whoever listens at the nodes' fronts,
    which is nobody until somebody does.

    Raises:
        BrokerMissing: no Java, or no Maven to get the jars.
        BrokerError: a node did not start.
    """

    def __init__(self, count: int = 3) -> None:
        jars = kafka_jars()
        self.name = f"Apache Kafka {KAFKA_VERSION} ({count} node{'s' if count > 1 else ''} of Maven Central jars)"
        self._home = Path(tempfile.mkdtemp(prefix="mailvet-kafka-"))
        self.nodes = _nodes(count)
        self.bootstrap = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        self.front_bootstrap = ",".join(f"127.0.0.1:{node.front}" for node in self.nodes)
        self._processes: dict[int, _NodeProcess] = {}
        try:
            for node in self.nodes:
                home = self._home / str(node.number)
                self._processes[node.number] = _NodeProcess(node, self.nodes, home, jars)
            _side_by_side(process.start for process in self._processes.values())
        except BaseException:
            self.stop()
            raise

    def kill(self, number: int) -> None:
        """SIGKILL: the crash of a machine."""
        self._processes[number].daemon.kill()

    def terminate(self, number: int) -> None:
        """SIGTERM: it hands its partitions over and leaves."""
        self._processes[number].daemon.stop(timeout=30.0)

    def start(self, number: int) -> None:
        """Start a node that is down, on the same ports and data."""
        self._processes[number].daemon.start()

    def stop(self) -> None:
        """End it and remove its data; the logs stay."""
        _side_by_side(process.daemon.kill for process in self._processes.values())
        shutil.rmtree(self._home, ignore_errors=True)


def affordable_nodes(meminfo: Path = Path("/proc/meminfo"), wanted: int = 3) -> int:
    """As many nodes as are wanted where this machine has the memory for them, else one."""
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:  # not Linux
        return wanted
    available = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), 0)
    return wanted if available >= SPARE_BYTES + wanted * NODE_BYTES else 1


def _nodes(count: int) -> tuple[Node, ...]:
    ports: set[int] = set()
    while len(ports) < 4 * count:
        ports.add(free_port())
    drawn = iter(ports)
    return tuple(Node(number, *(next(drawn) for _ in range(4))) for number in range(1, count + 1))


def _side_by_side(calls: Iterable[Callable[[], None]]) -> None:
    """A cluster answers only when most of its nodes are there."""
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(call) for call in calls]:
            done.result()
