"""A real Apache Kafka and a real schema registry, for tests; run as a program, for people (`make kafka`).

Both are Java programs that Maven fetches once into ``.cache/kafka``, as ``deploy/kafka/pom.xml`` pins them. They die
with the process that started them, also when that one is killed.
"""

from __future__ import annotations

import argparse
import base64
import fcntl
import hashlib
import logging
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from confluent_kafka.admin import AdminClient, NewTopic

ROOT = Path(__file__).parents[1]
POM = ROOT / "deploy" / "kafka" / "pom.xml"
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 20
_QUICK = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
_SILENT = logging.Logger("asked too early", logging.CRITICAL + 1)
# The kernel ends a child when the *thread* that started it ends. This one lives as long as the process.
_STARTER = ThreadPoolExecutor(1, "starts-java")


def fetched(what: str) -> Path:
    """The folder with the jars of ``kafka`` or ``registry``; Maven makes it where it is missing."""
    folder = ROOT / ".cache" / "kafka" / f"{what}-{hashlib.sha256(POM.read_bytes()).hexdigest()[:12]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            if not (shutil.which("java") and shutil.which("mvn")):
                raise RuntimeError("Java 17 and Maven are needed (Debian: apt install openjdk-17-jre-headless maven)")
            goal = {"kafka": "copy-dependencies", "registry": "unpack"}[what]
            with tempfile.TemporaryDirectory(dir=folder.parent) as part:
                command = ["mvn", "-B", "-q", "-C", "-f", str(POM), f"dependency:{goal}@{what}", f"-Dto={part}/all"]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    raise RuntimeError(f"Maven could not fetch {what}:\n{(done.stdout + done.stderr)[-3000:]}")
                Path(part, "all").rename(folder)  # whole, or not there
    return folder


def settings_of(nodes: int) -> dict[str, str]:
    """What holds for every node of a cluster, and in deploy/compose/kafka.yaml."""
    copies, needed = str(nodes), str(nodes // 2 + 1)
    return {
        "auto.create.topics.enable": "false",
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "1000",
        "group.consumer.min.session.timeout.ms": "1000",
        "group.consumer.min.heartbeat.interval.ms": "500",
        "offsets.topic.num.partitions": "3",
        "transaction.state.log.num.partitions": "3",
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
        "default.replication.factor": copies,
        "offsets.topic.replication.factor": copies,
        "transaction.state.log.replication.factor": copies,
        "share.coordinator.state.topic.replication.factor": copies,
        "min.insync.replicas": needed,
        "transaction.state.log.min.isr": needed,
        "share.coordinator.state.topic.min.isr": needed,
        "broker.heartbeat.interval.ms": "500",
        "broker.session.timeout.ms": "3000",  # how long a killed node still counts as there
    }


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, below those that the kernel lends: a restarted node finds its own free."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(20_000, 32_000)
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        if port not in found:
            found.append(port)
    return found


class Java:
    """One Java program with its log."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, *command: str) -> None:
        tied = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        with self._log.open("ab") as log:
            options = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            self._process = _STARTER.submit(subprocess.Popen, [*tied, "java", *_QUICK, *command], **options).result()

    def wait(self, answers: Callable[[], bool]) -> None:
        """Until it answers. Raises with the end of its log when it ended, or does not answer in time."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while not answers():
            if not self.runs or time.monotonic() > deadline:
                raise RuntimeError(f"it does not answer; {self._log} ends:\n{self._log.read_text()[-3000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        if self._process and self.runs:
            self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()


class Cluster:
    """One node or three, numbered from 1, each broker and controller. Their data outlive ``stop``, not ``close``.

    No topic is made by itself. With three nodes, a topic has three replicas and writes need two of them.
    """

    def __init__(self, nodes: int = 1, port: int | None = None) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="trueup-kafka-"))
        ports = free_ports(2 * nodes)
        self._ports = dict(enumerate([port] if port else ports[:nodes], 1))
        self._voters = dict(enumerate(ports[nodes:], 1))
        self._nodes = {node: Java(self._folder / f"{node}.log") for node in self._ports}
        self._id = base64.urlsafe_b64encode(b"t" + os.urandom(14) + b"0").decode().rstrip("=")

    @property
    def bootstrap(self) -> str:
        return ",".join(f"127.0.0.1:{port}" for port in self._ports.values())

    def start(self) -> None:
        """Starts every node that does not run, and waits until each knows of all."""
        self._start([node for node, java in self._nodes.items() if not java.runs])

    def restart(self, node: int) -> None:
        """Starts a node anew, with the data that it has; one that runs is stopped first."""
        self._nodes[node].stop()
        self._start([node])

    def kill(self, node: int) -> None:
        """As by ``kill -9``."""
        self._nodes[node].kill()

    def stop(self) -> None:
        """Asks every node to end and waits for it."""
        with ThreadPoolExecutor(len(self._nodes)) as all_at_once:
            list(all_at_once.map(Java.stop, self._nodes.values()))

    def close(self) -> None:
        """Ends it at once, and forgets its data."""
        for java in self._nodes.values():
            java.kill()
        shutil.rmtree(self._folder)

    def topic(self, name: str, partitions: int = 1, replicas: int | None = None, **config: str) -> str:
        """Makes a topic that every running node knows when this returns. In ``config``, ``_`` stands for a dot."""
        settings = {setting.replace("_", "."): value for setting, value in config.items()}
        new = NewTopic(name, partitions, replicas or len(self._nodes), config=settings)
        admin = self._admin()  # one that is not held ends before it is answered
        admin.create_topics([new])[name].result(START_TIMEOUT_S)
        for node, java in self._nodes.items():
            if java.runs:
                java.wait(lambda node=node: self._knows(node, name, partitions))
        return name

    def remove(self, name: str) -> None:
        """Removes a topic with all that it holds."""
        admin = self._admin()
        admin.delete_topics([name])[name].result(START_TIMEOUT_S)
        deadline = time.monotonic() + START_TIMEOUT_S
        while name in self._admin().list_topics(timeout=START_TIMEOUT_S).topics:
            assert time.monotonic() < deadline, "it is still there"
            time.sleep(0.05)

    def leader(self, topic: str, partition: int = 0) -> int:
        """The node that leads the partition now."""
        return int(self._admin().list_topics(topic, timeout=START_TIMEOUT_S).topics[topic].partitions[partition].leader)

    def _start(self, nodes: list[int]) -> None:
        jars = f"{fetched('kafka')}/*"
        for node in nodes:
            settings = self._folder / f"{node}.properties"
            if not settings.exists():
                settings.write_text("\n".join(f"{name}={value}" for name, value in self._settings(node).items()))
                tool = ["kafka.tools.StorageTool", "format", "-t", self._id, "-c", str(settings)]
                subprocess.run(["java", *_QUICK, "-cp", jars, *tool], check=True, capture_output=True)
            self._nodes[node].start("-Xmx400m", "-cp", jars, "kafka.Kafka", str(settings))
        for node in nodes:
            self._nodes[node].wait(lambda node=node: self._answers(node))

    def _settings(self, node: int) -> dict[str, str]:
        own = f"BROKER://127.0.0.1:{self._ports[node]}"
        return settings_of(len(self._nodes)) | {
            "process.roles": "broker,controller",
            "node.id": str(node),
            "listeners": f"{own},CONTROLLER://127.0.0.1:{self._voters[node]}",
            "advertised.listeners": own,
            "listener.security.protocol.map": "BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "BROKER",
            "controller.listener.names": "CONTROLLER",
            "controller.quorum.voters": ",".join(f"{n}@127.0.0.1:{port}" for n, port in self._voters.items()),
            "log.dirs": str(self._folder / f"data-{node}"),
        }

    def _admin(self, node: int | None = None) -> AdminClient:
        servers = f"127.0.0.1:{self._ports[node]}" if node else self.bootstrap
        return AdminClient({"bootstrap.servers": servers}, logger=_SILENT)

    def _answers(self, node: int) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self._ports[node]), 1).close()
            known = set(self._admin(node).list_topics(timeout=1).brokers)
        except Exception:  # of the socket, or Kafka's
            return False
        return known >= {other for other, java in self._nodes.items() if java.runs}

    def _knows(self, node: int, topic: str, partitions: int) -> bool:
        found = self._admin(node).list_topics(topic, timeout=START_TIMEOUT_S).topics[topic]
        return len(found.partitions) == partitions and all(p.leader >= 0 for p in found.partitions.values())


class Registry:
    """A schema registry with the API of Confluent's, which forgets everything when it stops."""

    def __init__(self, port: int | None = None) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="trueup-registry-"))
        self._port = port or free_ports(1)[0]
        self._java = Java(self._folder / "log")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/apis/ccompat/v7"

    def start(self) -> None:
        (jar,) = fetched("registry").glob("*-runner.jar")
        server = [f"-Dquarkus.http.port={self._port}", "-Dquarkus.http.host=127.0.0.1"]
        self._java.start("-Xmx300m", *server, "-jar", str(jar))
        self._java.wait(self._answers)

    def stop(self) -> None:
        self._java.stop()

    def close(self) -> None:
        """Ends it at once, and removes its log."""
        self._java.kill()
        shutil.rmtree(self._folder)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/subjects", timeout=5) as answer:
                return int(answer.status) == 200
        except OSError:
            return False


def main() -> None:
    """Runs until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Apache Kafka of one node, for trying things out.")
    parser.add_argument("--port", type=int, default=9092, help="of the broker")
    parser.add_argument("--registry-port", type=int, help="of a schema registry; without it there is none")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    cluster = Cluster(port=options.port)
    registry = Registry(options.registry_port) if options.registry_port else None
    try:
        print("starting; the first time, Maven fetches the programs", flush=True)
        cluster.start()
        print(f"Kafka listens on {cluster.bootstrap}", flush=True)
        if registry:
            registry.start()
            print(f"the schema registry listens on {registry.url}", flush=True)
        print("Ctrl-C stops it; topics and schemas are then gone", flush=True)
        signal.pause()
    except KeyboardInterrupt:
        print("\nstopping", flush=True)
    finally:
        cluster.stop()
        cluster.close()
        if registry:
            registry.close()


if __name__ == "__main__":
    main()
