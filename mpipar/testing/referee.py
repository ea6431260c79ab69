"""The referee of a parallel test run: a process of its own beside rank 0, started by path, standard library only.

Every rank tells it over a socket where it stands. When a test does not end, a rank dies or holds the GIL, the
referee still runs: it asks where everybody stands, prints the report that pytest can no longer print, with one
closing line, and ends the job. It lives in its own session, so that a launcher which kills the ranks spares it.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ANSWER = 2.0  # seconds in which a rank that does not hold the GIL says where it stands
DUMP = 0.5  # seconds for the C-level dump of one that does
WIDTH = 80
HARNESS = ("/_pytest/", "/pluggy/", "/pytest/__main__.py", "/bin/pytest", "<frozen runpy>")
ORDER = ("failed", "passed", "skipped", "deselected", "xfailed", "xpassed", "warnings", "error")


@dataclass
class Rank:
    """What is known of one rank."""

    number: int
    pid: int
    host: str
    dump: str  # the file into which it writes its stack on DUMP_SIGNAL
    place: str = ""  # the test, or another part of the session; empty: none that could hang
    phase: str = ""
    since: float = 0.0
    failure: str = ""
    failed_at: float = 0.0  # 0: it has not failed, or the others know
    stack: str = ""
    waits: bool = False  # for the others, at the end of a phase
    leaving: bool = False  # it has come to the end of the session
    said_bye: bool = False
    gone: bool = False


@dataclass
class Verdict:
    """Why the run ends, and where."""

    place: str
    reason: str


@dataclass
class Referee:
    """Listens to `size` ranks until all have said goodbye, or ends the run."""

    listener: socket.socket
    token: str
    size: int
    timeout: float
    grace: float
    dump_signal: int
    began: float = field(default_factory=time.monotonic)
    ranks: dict[int, Rank] = field(default_factory=dict)
    links: dict[socket.socket, tuple[bytearray, list[Rank]]] = field(default_factory=dict)
    lost: list[Rank] = field(default_factory=list)  # ranks that went without goodbye, the first first
    stories: list[dict[str, str]] = field(default_factory=list)  # headline, text and summary of failed tests
    counts: dict[str, int] = field(default_factory=dict)
    unrun: int = 0  # tests that have not begun

    def run(self) -> int:
        """Returns 0 when the session has ended by itself, 1 when it was ended here."""
        with selectors.DefaultSelector() as self.selector:
            self.selector.register(self.listener, selectors.EVENT_READ)
            while not self._all_left():
                self._hear(0.1)
                verdict = self._judge(time.monotonic())
                if verdict is not None:
                    self._end(verdict)
                    return 1
        return 0

    def _all_left(self) -> bool:
        everybody_came = len(self.ranks) == self.size
        return everybody_came and all(rank.said_bye for rank in self.ranks.values())

    # ---- hearing ----------------------------------------------------------------------------------------

    def _hear(self, seconds: float) -> None:
        # epoll tells sockets in the order in which they became ready: of ranks that die, the first comes first
        for key, _ in self.selector.select(seconds):
            if key.fileobj is self.listener:
                link, _ = self.listener.accept()
                self.links[link] = (bytearray(), [])
                self.selector.register(link, selectors.EVENT_READ)
            else:
                assert isinstance(key.fileobj, socket.socket)
                self._read(key.fileobj)

    def _read(self, link: socket.socket) -> None:
        buffer, owner = self.links[link]
        try:
            data = link.recv(1 << 16)
        except OSError:
            data = b""
        if not data:
            self._close(link)
            return
        buffer += data
        *lines, rest = buffer.split(b"\n")
        buffer[:] = rest
        for line in lines:
            if link in self.links:
                self._take(link, owner, json.loads(line))

    def _close(self, link: socket.socket) -> None:
        _, owner = self.links.pop(link)
        self.selector.unregister(link)
        link.close()
        for rank in owner:
            rank.gone = True
            if not rank.said_bye:
                self.lost.append(rank)

    def _take(self, link: socket.socket, owner: list[Rank], message: dict[str, Any]) -> None:
        if not owner:
            if message.get("token") != self.token:
                self._close(link)
                return
            owner.append(Rank(message["rank"], message["pid"], message["host"], message["dump"]))
            self.ranks[owner[0].number] = owner[0]
            tell(link, "welcome")
            return
        rank, now = owner[0], time.monotonic()
        match message["kind"]:
            case "enter":
                rank.place, rank.phase, rank.since = message["place"], "", now
            case "phase":
                rank.phase = message["phase"]
            case "failed":
                rank.failure, rank.failed_at = message["text"], now
            case "settled":
                rank.failure, rank.failed_at = "", 0.0
            case "leaving":
                rank.leaving, rank.since = True, now
            case "stack":
                rank.stack, rank.waits = message["text"], message["waits"]
            case "bye":
                rank.said_bye, rank.place = True, ""
            case "story":
                self.stories.append(message)
            case "counts":
                self.counts, self.unrun = message["counts"], message["unrun"]

    # ---- judging ----------------------------------------------------------------------------------------

    def _judge(self, now: float) -> Verdict | None:
        for rank in self.lost:
            return Verdict(rank.place, f"rank {rank.number} (process {rank.pid} on {rank.host}) died")
        ranks = list(self.ranks.values())
        if not all(rank.leaving for rank in ranks):
            for rank in ranks:
                if rank.failed_at and now > rank.failed_at + self.grace:
                    what = f"rank {rank.number} failed, and the others did not finish within {self.grace:g} s"
                    return Verdict(rank.place, what)
        for rank in ranks:
            if rank.place and now > rank.since + self.timeout:
                return Verdict(rank.place, f"not finished within {self.timeout:g} s")
        return None

    # ---- ending -----------------------------------------------------------------------------------------

    def _end(self, verdict: Verdict) -> None:
        self._ask_all()
        say(self._report(verdict))
        for link, (_, owner) in list(self.links.items()):
            if owner and owner[0].stack:  # any rank that answers can end the job
                tell(link, "abort")
                break
        self._wait(ANSWER, lambda: not self.links)
        for rank in self._here():
            signal_process(rank.pid, signal.SIGKILL)
        for rank in self.ranks.values():
            Path(rank.dump).unlink(missing_ok=True)  # they could not tidy up; nothing on another machine

    def _ask_all(self) -> None:
        """Learns where the ranks stand; those that hold the GIL are asked through a signal."""
        for link in self.links:
            tell(link, "stack")
        self._wait(ANSWER, lambda: all(rank.stack or rank.gone for rank in self.ranks.values()))
        silent = [rank for rank in self._here() if not rank.stack]
        for rank in silent:
            signal_process(rank.pid, self.dump_signal)
        self._wait(DUMP if silent else 0.0, lambda: False)

    def _here(self) -> list[Rank]:
        """The living ranks on this machine."""
        host = socket.gethostname()
        return [rank for rank in self.ranks.values() if not rank.gone and rank.host == host]

    def _wait(self, seconds: float, enough: Callable[[], bool]) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not enough():
            self._hear(0.02)

    # ---- reporting --------------------------------------------------------------------------------------

    def _report(self, verdict: Verdict) -> str:
        place = verdict.place or "between two tests"
        lines = ["", ruled(" FAILURES ", "=")]
        for story in self.stories:
            lines += [ruled(f" {story['headline']} ", "_"), story["text"]]
        lines += [ruled(f" {place} ", "_"), f"The run ended here: {verdict.reason}.", ""]
        lines += self._standing(verdict)
        lines += [ruled(" short test summary info ", "=")]
        lines += [*(story["summary"] for story in self.stories), f"FAILED {place} - {verdict.reason}"]
        return "\n".join([*lines, self._closing_line(), ""])

    def _standing(self, verdict: Verdict) -> Iterable[str]:
        """Where each rank stands; ranks with the same to say are named together."""
        told: dict[str, list[int]] = {}
        for number in range(self.size):
            told.setdefault(self._stands(number, verdict), []).append(number)
        for text, numbers in told.items():
            yield f"-- {ranks_text(numbers)}: {text}"

    def _stands(self, number: int, verdict: Verdict) -> str:
        rank = self.ranks.get(number)
        if rank is None:
            return "never came to the session"
        where = f" in {rank.phase}" if rank.phase else ""
        if rank.place != verdict.place:
            where += f" of {rank.place}" if rank.place else " between two tests"
        if rank in self.lost:  # the launcher ends the others when one dies: only the first is news
            first = rank is self.lost[0]
            return f"died{where}: killed, crashed or left by os._exit" if first else "ended by the launcher"
        if rank.failure:
            return f"failed{where} and waits for the others\n{rank.failure}"
        if rank.waits:
            return f"finished{where} and waits for the others"
        if rank.stack:
            return f"stuck{where} at\n{rank.stack}"
        return f"no answer{where}: it holds the GIL, or is stopped{read_dump(rank.dump)}"

    def _closing_line(self) -> str:
        counts = dict(self.counts)
        counts["failed"] = counts.get("failed", 0) + 1
        parts = [f"{counts[name]} {plural(name, counts[name])}" for name in ORDER if counts.get(name)]
        unrun = f", {self.unrun} not run" if self.unrun else ""
        seconds = time.monotonic() - self.began
        return ruled(f" {', '.join(parts)}{unrun} in {seconds:.2f}s ", "=")


def ruled(text: str, line: str) -> str:
    """The text in the middle of a line, as pytest heads its sections."""
    return f"{line}{text}{line}".center(WIDTH, line)


def plural(name: str, count: int) -> str:
    return "errors" if name == "error" and count > 1 else name


def ranks_text(numbers: list[int]) -> str:
    return f"rank{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


def read_dump(path: str) -> str:
    """The stack that the C-level handler wrote, innermost call first; empty where there is none."""
    try:
        text = Path(path).read_text(errors="replace")
    except OSError:
        return ""
    frames = [line for line in text.splitlines() if line.startswith("  File ")]
    inside = [line for line in frames if not any(part in line for part in HARNESS)]
    return ", at\n" + "\n".join(inside) if inside else ""


def signal_process(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def tell(link: socket.socket, kind: str) -> None:
    with suppress(OSError):
        link.sendall(json.dumps({"kind": kind}).encode() + b"\n")


def say(text: str) -> None:
    """Writes to the stdout of rank 0, which is ours too, in one piece."""
    data = memoryview(text.encode(errors="replace"))
    with suppress(OSError):
        while data:
            data = data[os.write(1, data) :]


def main() -> int:
    settings = json.loads(sys.stdin.readline())
    listener = socket.socket(fileno=settings.pop("listener"))
    return Referee(listener, **settings).run()


if __name__ == "__main__":
    sys.exit(main())
