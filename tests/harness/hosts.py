"""Several hosts of one Ray cluster on this machine: each with its own network, disks and processes, joined by a bridge.

A host is a set of namespaces (network, mounts, processes, name). It has its own ``/tmp``, ``/dev/shm`` and
``/mnt/local_storage``; ``/mnt/cluster_storage`` is one directory for all. An S3 server listens on this side of the
bridge. Nothing leads beyond it. A host ends with the process that started it, however that ends: only a bridge and a
directory in ``/tmp`` are left of a crashed session, both named ``anylab`` and its process id.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ray_anystorage.testing.s3_server import S3Server, running_s3
from tests.harness.host_driver import Driver, children
from tests.harness.mounts import cannot
from tests.harness.ray_cluster import _STARTED, clean_environment

CLUSTER, LOCAL = "/mnt/cluster_storage", "/mnt/local_storage"
_BRIDGE_ADDRESS = "02:00:00:00:b7:1d"  # locally administered
_ROOT = Path(__file__).parents[2]
_PORT = 6379
_COVER_FULL = f"mount -t overlay -o lowerdir={CLUSTER},upperdir=/tmp/full/upper,workdir=/tmp/full/work anylab {CLUSTER}"
_NOWHERE = "02:00:00:00:00:01"  # a link address that nobody on the bridge has
_RAY = {
    "RAY_enable_worker_prestart": "false",  # a run's workers have an environment of their own and start anew anyway
    "RAY_prestart_worker_first_driver": "false",
    "RAY_health_check_period_ms": "1000",  # a host that lost its power is noticed in 3 s, not in 15
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    # A run that may grow and shrink asks for a host that is gone for up to 20 s more, and then waits for it so long.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # one process less per run, on a machine that has few cores
}
_UNTIL_GONE = """
import sys, time, ray
ray.init(sys.argv[1], log_to_driver=False)
while any(node["Alive"] and node["NodeManagerAddress"] == sys.argv[2] for node in ray.nodes()):
    time.sleep(0.1)
"""
# The first process of a host. It reaps what is orphaned, and ends with its standard input: with whoever started it.
# What this Python is made of is seen at its own place, also where a folder of the host's own covers that.
_BOOT = """
set -e
name=$1 lab=$2 size=$3; shift 3
kept=()
for path; do exec {fd}<"$path"; kept+=("$fd"); done
hostname "$name"
mount -t tmpfs -o size=1m anylab /mnt
mkdir /mnt/cluster_storage /mnt/local_storage
mount --bind "$lab/cluster" /mnt/cluster_storage
mount -t tmpfs -o "size=$size" anylab /mnt/local_storage
mount -t tmpfs -o size=512m anylab /dev/shm
mount --bind "$lab/$name" /tmp
for fd in "${kept[@]}"; do
  mkdir -p "$1"; mount --rbind "/proc/self/fd/$fd" "$1"
  exec {fd}<&-; shift
done
echo up
while read -r _; do :; done
"""


@dataclass(slots=True)
class Host:
    """One host that is up.

    Attributes
    ----------
    number
        From 1 on; the first has the head of the Ray cluster. Ray's label ``host`` has it, too. Its resources are 4
        ``CPU`` and 2 ``seat``: of the first, Ray holds some back for a run that was killed, for minutes.
    address
        On the bridge.
    files
        Its ``/tmp``, as this side sees it.
    """

    number: int
    address: str
    files: Path
    ray_address: str
    _link: str
    _outer: subprocess.Popen[str] = field(repr=False)
    _init: int = field(repr=False)
    _drivers: list[Driver] = field(default_factory=list, repr=False)

    def command(self, *command: str) -> list[str]:
        """What to start on this side to have a command run in the host, in its ``/tmp``."""
        return ["nsenter", f"--target={self._init}", "-m", "-u", "-n", "-p", "--", "env", "-C", "/tmp", *command]

    def shell(self, script: str, *arguments: str) -> str:
        """Run a script of bash's in the host, and return what it printed; where it fails, so does this."""
        command = self.command("bash", "-ec", script, "bash", *arguments)
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=60).stdout

    def driver(self, script: Path, *arguments: str, env: Mapping[str, str] | None = None) -> Driver:
        """Start a Python driver of the Ray cluster in the host, with ``env`` added to a clean environment."""
        log = self.files / f"driver-{time.monotonic_ns()}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                self.command(sys.executable, str(script), *arguments),
                env=clean_environment({**_RAY, "RAY_ADDRESS": self.ray_address, "HOME": "/tmp", **(env or {})}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self._drivers.append(Driver(process, log))
        return self._drivers[-1]

    def end_drivers(self) -> None:
        """Kill the drivers that a test which failed left."""
        for driver in self._drivers:
            if driver.process.poll() is None:
                driver.kill()
        self._drivers.clear()

    def start_ray(self) -> subprocess.Popen[str]:
        """Begin to start the host's Ray node; :func:`_wait_for_ray` waits for it."""
        to = ["--head", f"--port={_PORT}"] if self.number == 1 else [f"--address={self.ray_address}"]
        command = [str(Path(sys.executable).parent / "ray"), "start", *to, "--block", "--num-cpus=4",
                   f"--node-ip-address={self.address}", f"--labels=host={self.number}", '--resources={"seat": 2}',
                   f"--object-store-memory={80 << 20}", "--disable-usage-stats"]  # fmt: skip
        command += ["--include-dashboard=false"] if self.number == 1 else []
        with (self.files / "start.log").open("w") as log:
            return subprocess.Popen(
                self.command(*command),
                env=clean_environment({**_RAY, "HOME": "/tmp"}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                text=True,
            )

    def cut(self) -> None:
        """Unplug the host."""
        _run("ip", "link", "set", self._link, "down")

    def heal(self) -> None:
        """Plug it in again."""
        _run("ip", "link", "set", self._link, "up")

    def shape(self, rate: int) -> None:
        """Let so many bytes a second through the host's link, in each direction; it buffers those of 0.2 s."""
        bucket = ["root", "tbf", "rate", f"{rate * 8}bit", "burst", "256kb", "latency", "200ms"]
        _run("tc", "qdisc", "add", "dev", self._link, *bucket)
        self.shell('tc qdisc add dev eth0 "$@"', *bucket)

    def power_off(self) -> None:
        """End everything in the host at once; the others hear nothing of it, not even that connections closed."""
        _run("ip", "link", "del", self._link)
        os.kill(self._init, signal.SIGKILL)
        self._outer.communicate()

    @contextlib.contextmanager
    def unreachable(self, address: str) -> Iterator[None]:
        """Have what the host sends to an address come to nothing, as with a firewall that drops it."""
        self.shell(f"ip neigh replace {address} lladdr {_NOWHERE} dev eth0 nud permanent")
        try:
            yield
        finally:
            self._undo(f"ip neigh del {address} dev eth0")

    @contextlib.contextmanager
    def covered(self, path: str, by: str) -> Iterator[None]:
        """Have the host alone see another of its directories under a path."""
        self.shell('mount --bind "$2" "$1"', path, by)
        try:
            yield
        finally:
            self._undo('umount -l "$1"', path)

    @contextlib.contextmanager
    def unmounted(self) -> Iterator[None]:
        """Have nothing at the path of cluster storage in the host."""
        self.shell(f"mkdir -p /tmp/aside; mount --bind {CLUSTER} /tmp/aside; umount -l {CLUSTER}; rmdir {CLUSTER}")
        try:
            yield
        finally:
            self._undo(f"mkdir -p {CLUSTER}; mount --bind /tmp/aside {CLUSTER}; umount -l /tmp/aside")

    @contextlib.contextmanager
    def read_only(self) -> Iterator[None]:
        """Have the host's mount of cluster storage take no writes."""
        self.shell(f"mount -o remount,bind,ro {CLUSTER}")
        try:
            yield
        finally:
            self._undo(f"mount -o remount,bind,rw {CLUSTER}")

    @contextlib.contextmanager
    def full(self) -> Iterator[Callable[[], None]]:
        """Have the host see cluster storage as it is, and find no room there for a byte of its own.

        It sees no change to a file that it has read there; what this yields makes it look anew.
        """
        self.shell(
            "mkdir -p /tmp/full; mount -t tmpfs -o size=64k anylab /tmp/full; mkdir /tmp/full/upper /tmp/full/work; "
            f"{_COVER_FULL}; dd if=/dev/zero of=/tmp/full/rest bs=4k 2>/dev/null || true"
        )
        try:
            yield lambda: self._undo(
                f"umount -l {CLUSTER}; rm /tmp/full/rest; {_COVER_FULL}; "
                "dd if=/dev/zero of=/tmp/full/rest bs=4k 2>/dev/null || true"
            )
        finally:
            self._undo(f"umount -l {CLUSTER}; umount -l /tmp/full")

    def _undo(self, script: str, *arguments: str) -> None:
        if self._outer.poll() is None:
            self.shell(script, *arguments)


@dataclass(slots=True)
class Lab:
    """The hosts, by number, and what they have in common.

    Attributes
    ----------
    cluster
        The directory that is ``/mnt/cluster_storage`` in every host.
    server
        The S3 server on the bridge.
    """

    bridge: str
    network: ipaddress.IPv4Network
    directory: Path
    server: S3Server
    hosts: dict[int, Host] = field(default_factory=dict)

    @property
    def cluster(self) -> Path:
        """See the class."""
        return self.directory / "cluster"

    @property
    def gateway(self) -> str:
        """This side's address on the bridge, and the S3 server's."""
        return _gateway(self.network)

    def start(self, *numbers: int, disk: str = "256m") -> None:
        """Start hosts, with a local disk of so many bytes, and have them join the Ray cluster."""
        for number in numbers:
            self.hosts[number] = self._boot(number, disk)
        starting = []
        for number in sorted(numbers):
            starting.append((self.hosts[number], self.hosts[number].start_ray()))
            if number == 1:
                _wait_for_ray(*starting[-1])
        for host, process in starting:
            _wait_for_ray(host, process)

    def ensure(self, count: int) -> None:
        """Start those of the first hosts that are not up."""
        self.start(*({*range(1, count + 1)} - self.hosts.keys()))

    def power_off(self, number: int) -> None:
        """See :meth:`Host.power_off`; a later :meth:`start` of this number has a new, empty host."""
        host = self.hosts.pop(number)
        host.power_off()
        shutil.rmtree(host.files, ignore_errors=True)

    def until_gone(self, number: int) -> None:
        """Wait until Ray takes a host that is powered off for dead; until then it plans with that one's resources."""
        self.hosts[1].shell(
            '"$1" -c "$2" "$3" "$4"', sys.executable, _UNTIL_GONE, self.hosts[1].ray_address, str(self.network[number])
        )

    def stop(self) -> None:
        """Power off all hosts."""
        for number in list(self.hosts):
            self.power_off(number)

    def _boot(self, number: int, disk: str) -> Host:
        name, link = f"{self.bridge}-{number}", f"{self.bridge}.{number}"
        files = self.directory / name
        files.mkdir()
        files.chmod(0o1777)
        kept = dict.fromkeys(str(path) for path in (_ROOT, Path(sys.prefix), Path(sys.base_prefix)))
        outer = subprocess.Popen(
            ["unshare", "-n", "-m", "-u", "-p", "-f", "--kill-child=KILL", "--mount-proc", "--propagation=private",
             "bash", "-c", _BOOT, "bash", name, str(self.directory), disk, *kept],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        assert outer.stdout is not None
        assert outer.stderr is not None
        if outer.stdout.readline() != "up\n":
            cannot(f"this machine does not let root make a host: {outer.stderr.read().strip()}")
        (init,) = children(outer.pid)
        address = str(self.network[number])
        _run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(init))
        _run("ip", "link", "set", link, "master", self.bridge, "up")
        host = Host(number, address, files, f"{self.network[1]}:{_PORT}", link, outer, init)
        host.shell(f"ip link set lo up; ip link set eth0 up; ip addr add {address}/{self.network.prefixlen} dev eth0")
        host.shell("ip route add 8.8.8.8 dev eth0")  # Ray asks which address leads there; no packet goes there
        return host


@contextlib.contextmanager
def lab(count: int) -> Iterator[Lab]:
    """So many hosts for the length of a ``with`` block; skips the test where this machine cannot have any."""
    if os.geteuid() != 0:
        cannot("hosts of their own need root")
    for program in ("ip", "nsenter", "unshare"):
        if shutil.which(program) is None:
            cannot(f"there is no {program}: install iproute2 and util-linux")
    bridge = f"anylab{os.getpid()}"
    with contextlib.ExitStack() as stack:
        network = _bridged(bridge, stack)
        directory = Path(tempfile.mkdtemp(prefix=f"{bridge}-", dir="/tmp"))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        directory.chmod(0o755)
        (directory / "cluster").mkdir()
        server = stack.enter_context(running_s3(directory / "s3", host=_gateway(network)))
        made = Lab(bridge, network, directory, server)
        stack.callback(made.stop)
        made.start(*range(1, count + 1))
        yield made


def _bridged(bridge: str, stack: contextlib.ExitStack) -> ipaddress.IPv4Network:
    """Make a bridge with an address in a private network that this machine has no route into."""
    routes = [word for word in _run("ip", "-4", "route", "show", "table", "all").split() if "/" in word]
    taken = [ipaddress.IPv4Network(route, strict=False) for route in routes]
    numbers = range(os.getpid() % 9000, 16000)  # another session takes another one
    candidates = (ipaddress.IPv4Network((f"10.{64 + n // 256}.{n % 256}.0", 24)) for n in numbers)
    network = next(candidate for candidate in candidates if not any(candidate.overlaps(other) for other in taken))
    try:
        # With an address of its own: else it has that of its lowest port, and where a host comes or goes the others
        # send to one that is gone until their tables are stale.
        _run("ip", "link", "add", bridge, "address", _BRIDGE_ADDRESS, "type", "bridge")
    except subprocess.CalledProcessError as error:
        cannot(f"this machine does not let root make a bridge: {error.stderr.strip()}")
    stack.callback(_run, "ip", "link", "del", bridge)
    _run("ip", "addr", "add", f"{_gateway(network)}/{network.prefixlen}", "dev", bridge)
    _run("ip", "link", "set", bridge, "up")
    return network


def _gateway(network: ipaddress.IPv4Network) -> str:
    return str(network[254])


def _wait_for_ray(host: Host, process: subprocess.Popen[str], timeout: float = 60.0) -> None:
    deadline, log = time.monotonic() + timeout, host.files / "start.log"
    while _STARTED not in log.read_text():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"ray start did not come up on host {host.number}: {log.read_text()[-3000:]}")
        time.sleep(0.05)


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
