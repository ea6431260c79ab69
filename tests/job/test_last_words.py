"""The last words of a rank reach the launcher: a rank aborts the job only when its pipe has been read."""

from __future__ import annotations

import os
import threading
import time

from mpipar.job import ending


def test_a_rank_waits_until_its_message_is_read() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"why the job ends\n")
    heard = threading.Timer(0.1, os.read, (reader, 100))
    heard.start()
    begin = time.monotonic()
    ending._wait_for_reader(writer)
    waited = time.monotonic() - begin
    heard.join()
    os.close(reader), os.close(writer)
    assert 0.09 < waited < ending.READ_LIMIT


def test_a_reader_that_never_reads_does_not_hold_the_job(monkeypatch) -> None:
    monkeypatch.setattr(ending, "READ_LIMIT", 0.05)
    reader, writer = os.pipe()
    os.write(writer, b"why the job ends\n")
    begin = time.monotonic()
    ending._wait_for_reader(writer)
    os.close(reader), os.close(writer)
    assert 0.04 < time.monotonic() - begin < 1


def test_a_file_is_not_waited_for(tmp_path) -> None:
    with (tmp_path / "log").open("w") as log:
        log.write("why the job ends\n")
        begin = time.monotonic()
        ending._wait_for_reader(log.fileno())
    assert time.monotonic() - begin < 0.5
