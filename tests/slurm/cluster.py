"""A real SLURM of virtual nodes on one machine: a private munged, slurmctld, and a slurmd for each node.

A node has its own name, network and /dev/shm (namespaces of the kernel) and more CPUs than there are, so that jobs need
not wait; its GPUs are device files without a driver. Everything lies in one directory, and each daemon is stopped by
its pid.

By hand, as root: ``PYTHONPATH=tests python -m slurm.cluster up``, then ``. /tmp/mpipar-slurm/env.sh`` gives sbatch,
srun and squeue a cluster; ``… down`` stops it.
"""

from __future__ import annotations

import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from slurm.processes import alive, command_of, kill, tail, wait_until
from slurm.tables import CGROUP, ENVIRONMENT, NODE, START_NODE, TABLE

SBIN = "/usr/sbin:/sbin"  # not on everybody's PATH
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "munge", "ip", "nsenter", "unshare")


def missing() -> str:
    """Why no cluster can be had here, in one line; empty where one can."""
    if os.geteuid() != 0:
        return "the SLURM of the tests needs root: it makes network namespaces"
    if not Path("/etc/debian_version").exists():
        return (
            f"the SLURM of the tests needs Debian's packages, and this is {platform.system()} of another kind"
        )
    absent = [name for name in PROGRAMS if which(name) is None]
    if absent:
        return f"no {', '.join(absent)} here: run tests/slurm/install"
    if not list(Path("/usr/lib").glob("*-linux-gnu/pmix2/lib/libpmix.so")):
        return "no libpmix.so, which SLURM opens for Open MPI: run tests/slurm/install"
    return ""


def which(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:{SBIN}")


@dataclass(frozen=True)
class Cluster:
    """Where it lies and what it is. `port` is slurmctld's, and in the names of network devices: choose another, and
    another `subnet`, for a second cluster on the machine.
    """

    folder: Path  # a short path: a socket's name has 107 letters
    nodes: int = 2
    cpus: int = 8  # a node, by SLURM's belief
    gpus: int = 2  # a node
    port: int = 16817
    subnet: str = "10.77.0"  # of which it takes .1, .10, .11 …
    expire: int = 5  # seconds of munge's credentials
    task: str = "none"  # or "affinity", which binds; then `cpus` must be real

    @property
    def names(self) -> list[str]:
        return [f"n{number}" for number in range(1, self.nodes + 1)]

    @property
    def environment(self) -> dict[str, str]:
        """What a user of this cluster needs, over an environment of a shell."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf"), **ENVIRONMENT}

    def up(self) -> None:
        """Starts it and waits until all nodes are idle. Raises RuntimeError, and stops what has come up."""
        if (self.folder / "pids").exists():
            raise RuntimeError(f"{self.folder} has a cluster: stop it first")
        try:
            self._write()
            self._start_munge()
            self._make_network()
            self._daemon("slurmctld", "-c")  # nothing of an earlier cluster
            for name in self.names:
                self._start_node(name)
            wait_until(self._is_idle, 30, "idle nodes", self.logs)
        except BaseException:
            self.down()
            raise

    def down(self) -> None:
        """Ends all jobs, then the daemons, what is left on the nodes, and the network."""
        if (self.folder / "pids" / "slurmctld").exists():
            self._end_jobs()
        for name in self.names:
            self._stop(f"slurmd.{name}")
        self._stop("slurmctld")
        self._stop("munged")
        for name in self.names:
            self._end_rest(name)
            self._run("ip", "netns", "del", self._network(name), check=False)
            self._run("ip", "link", "del", self._cable(name), check=False)
        self._run("ip", "link", "del", self._bridge, check=False)
        shutil.rmtree(self.folder / "pids", ignore_errors=True)

    def logs(self) -> str:
        """The last lines of each daemon."""
        files = sorted((self.folder / "log").iterdir())
        return "\n".join(f"== {file}\n{tail(file)}" for file in files)

    # ---- the parts ------------------------------------------------------------------------------------------

    def _write(self) -> None:
        folder = self.folder
        for part in (
            "munge",
            "pids",
            "state",
            "log",
            "dev",
            *(f"{n}/{d}" for n in self.names for d in ("spool", "tmp")),
        ):
            (folder / part).mkdir(parents=True, exist_ok=True)
        for name in self.names:
            (folder / name / "boot_id").write_text(f"{uuid4()}\n")
        host = socket.gethostname().partition(".")[0]
        fields = {
            "host": host, "subnet": self.subnet, "port": self.port, "folder": folder, "expire": self.expire,
            "task": self.task, "names": ",".join(self.names),
        }  # fmt: skip
        nodes = "".join(
            NODE.format(
                name=name, address=self._address(name), port=self.port + 1, cpus=self.cpus, gpus=self.gpus
            )
            for name in self.names
        )
        table = TABLE.format(**fields)
        partitions = table.index("PartitionName")
        (folder / "slurm.conf").write_text(table[:partitions] + nodes + table[partitions:])
        (folder / "cgroup.conf").write_text(CGROUP)
        (folder / "gres.conf").write_text("AutoDetect=off\n" + "".join(map(self._make_gpu, range(self.gpus))))
        known = [
            f"{self.subnet}.1 {host}-slurmctld",
            *(f"{self._address(name)} {name}" for name in self.names),
        ]
        (folder / "hosts").write_text(Path("/etc/hosts").read_text() + "\n".join(known) + "\n")
        words = "".join(f"export {name}={value}\n" for name, value in self.environment.items())
        (folder / "env.sh").write_text(words)

    def _make_gpu(self, number: int) -> str:
        """A device like /dev/null, whose name ends in its number; its line in gres.conf."""
        file = self.folder / "dev" / f"nvidia{number}"
        if not file.exists():
            os.mknod(file, 0o666 | 0o020000, os.makedev(1, 3))
        return f"NodeName={','.join(self.names)} Name=gpu File={file}\n"

    def _start_munge(self) -> None:
        folder = self.folder / "munge"
        self.folder.chmod(0o755)  # the socket is for all; the key is not
        folder.chmod(0o755)
        key = folder / "key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        self._daemon(
            "munged", f"--key-file={key}", f"--socket={folder}/socket", f"--pid-file={self.folder}/pids/munged",
            f"--log-file={self.folder}/log/munged", f"--seed-file={folder}/seed", "--num-threads=4",
        )  # fmt: skip

    def _make_network(self) -> None:
        """A bridge, and for each node a namespace with a cable to it."""
        self._run("ip", "link", "add", self._bridge, "type", "bridge")
        self._run("ip", "address", "add", f"{self.subnet}.1/24", "dev", self._bridge)
        self._run("ip", "link", "set", self._bridge, "up")
        for name in self.names:
            network, cable = self._network(name), self._cable(name)
            self._run("ip", "netns", "add", network)
            self._run("ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", network)
            self._run("ip", "link", "set", cable, "master", self._bridge, "up")
            self._run("ip", "-n", network, "address", "add", f"{self._address(name)}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                self._run("ip", "-n", network, "link", "set", device, "up")

    def _start_node(self, name: str) -> None:
        inside = ("nsenter", f"--net=/run/netns/{self._network(name)}")
        apart = ("unshare", "--uts", "--ipc", "--mount", "--propagation", "private")
        self._daemon(*inside, *apart, "sh", "-ec", START_NODE, "sh", name, str(self.folder))

    def _is_idle(self) -> bool:
        told = self._run("sinfo", "-h", "-N", "-p", "cpu", "-o", "%T", check=False)
        return told.split() == ["idle"] * self.nodes

    def _end_jobs(self) -> None:
        """Waiting ones first, or they start as room is made."""
        for words in (["--state=PENDING"], ["--full", "--signal=KILL"], []):
            self._run("scancel", *words, "--user=root", check=False)
        with suppress(TimeoutError):
            wait_until(lambda: not self._run("squeue", "-h", check=False), 10, "the end of all jobs")

    def _stop(self, name: str) -> None:
        """Ends one daemon by its pid: TERM, after 10 s KILL."""
        file = self.folder / "pids" / name
        if not file.exists():
            return
        pid = int(file.read_text())
        if command_of(pid) == name.partition(".")[0]:
            kill(pid, signal.SIGTERM)
            try:
                wait_until(lambda: not alive(pid), 10, f"the end of {name}")
            except TimeoutError:
                kill(pid, signal.SIGKILL)
        file.unlink(missing_ok=True)

    def _end_rest(self, name: str) -> None:
        """A process whose parent died is lost to SLURM here; it is still in the node's namespace."""
        mark = self.folder / name / "uts"
        space = mark.read_text().strip() if mark.exists() else ""
        if not space or space == os.readlink("/proc/self/ns/uts"):
            return
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if os.readlink(process / "ns" / "uts") == space:
                    kill(int(process.name), signal.SIGKILL)

    def _run(self, *command: str, check: bool = True) -> str:
        """What a command prints."""
        done = subprocess.run(
            self._words(command), env=self._shell, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            check=False, timeout=30,
        )  # fmt: skip
        if check and done.returncode:
            raise RuntimeError(
                f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done.stdout

    def _daemon(self, *command: str) -> None:
        """Starts what puts itself into the background. It keeps its output open, which therefore is a file."""
        log = self.folder / "log" / f"start.{command[0]}"
        with log.open("ab") as file:
            words = self._words(command)
            done = subprocess.run(
                words, env=self._shell, stdin=subprocess.DEVNULL, stdout=file, stderr=file, check=False
            )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}\n{tail(log)}")

    def _words(self, command: tuple[str, ...]) -> list[str]:
        return [which(command[0]) or command[0], *command[1:]]

    @property
    def _shell(self) -> dict[str, str]:
        return {**os.environ, **self.environment, "PATH": f"{os.environ['PATH']}:{SBIN}"}

    def _address(self, name: str) -> str:
        return f"{self.subnet}.{10 + self.names.index(name)}"

    # An interface's name has at most 15 letters.

    @property
    def _bridge(self) -> str:
        return f"mpipar{self.port}"

    def _cable(self, name: str) -> str:
        return f"mpipar{self.port}{name}"

    def _network(self, name: str) -> str:
        return f"mpipar{self.port}{name}"


def main(words: list[str]) -> int:
    cluster = Cluster(Path(os.environ.get("MPIPAR_SLURM_FOLDER", "/tmp/mpipar-slurm")), **chosen())
    reason = missing()
    if words not in (["up"], ["down"]) or reason:
        print(reason or "usage: python -m slurm.cluster up | down", file=sys.stderr)
        return 2
    cluster.up() if words == ["up"] else cluster.down()
    return 0


def chosen() -> dict[str, Any]:
    """Port and subnet, for a machine on which the usual ones are taken: MPIPAR_SLURM_PORT, MPIPAR_SLURM_SUBNET."""
    environment = os.environ
    return {
        "port": int(environment.get("MPIPAR_SLURM_PORT", Cluster.port)),
        "subnet": environment.get("MPIPAR_SLURM_SUBNET", Cluster.subnet),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
