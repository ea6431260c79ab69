"""Where results go is checked without a trace, then made. A failure shows what was made, or the message."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

import pytest

from mpipar.errors import UsageError
from mpipar.log import check_out, make_out, write_config

pytestmark = pytest.mark.alone

NOW = datetime(2026, 11, 24, 19, 30, 12)
TEXT = "steps = 3\n"
PREFIX = "cannot be written: "


def test_a_new_directory_and_its_parents_are_made(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    assert make_out(str(out), NOW) == out
    write_config(out, "before")
    write_config(out, TEXT)
    assert [path.name for path in out.iterdir()] == ["config.toml"]
    assert (out / "config.toml").read_text() == TEXT


def test_a_directory_may_exist_and_hold_other_things(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert make_out(str(tmp_path), NOW) == tmp_path
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_without_out_a_directory_named_by_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = [make_out("", NOW) for _ in range(3)]
    assert list(map(str, made)) == [f"runs/2026-11-24-193012{suffix}" for suffix in ("", "-2", "-3")]
    assert all(path.is_dir() for path in made)


def test_the_home_directory_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert make_out("~/run", NOW) == tmp_path / "run"


def test_a_check_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_out("")
    check_out("a/b/c")
    check_out(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def refused(out: str, fragment: str) -> None:
    with pytest.raises(UsageError) as raised:
        check_out(out)
    assert fragment in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["metrics.jsonl", "config.toml", "checkpoints"])
def test_what_another_run_wrote_is_in_the_way_but_for_its_going_on(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    check_out(str(tmp_path), again=True)
    refused(str(tmp_path), f"--out {tmp_path} holds the {name} of another run: choose another directory")


def test_a_config_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written: No such file"):
        write_config(tmp_path / "nowhere", TEXT)


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    refused(str(file), f"--out {file} {PREFIX}{file} is not a directory")
    refused(str(file / "below"), f"--out {file / 'below'} {PREFIX}{file} is not a directory")


def test_a_dangling_link_is_no_directory(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    refused(str(link), f"{link} is not a directory")
    refused(str(link / "below"), f"{link} is not a directory")


def test_the_default_may_be_in_the_way_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs").touch()
    refused(
        "", f"the default --out runs {PREFIX}runs is not a directory; write --out with a directory that can"
    )


def test_a_directory_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    refused(str(tmp_path / "run"), f"{PREFIX}{tmp_path} is not writable")


def test_a_read_only_mount_is_refused_to_root_too() -> None:
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    read_only = [each for each in mounts if os.path.isdir(each) and os.statvfs(each).f_flag & os.ST_RDONLY]
    if not read_only:
        pytest.skip("nothing is mounted read-only here")
    refused(f"{read_only[0]}/run", f"{PREFIX}{read_only[0]} is not writable")


def test_what_only_the_making_finds_out(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot be written: File name too long"):
        make_out(str(tmp_path / ("x" * 300)), NOW)
    assert list(tmp_path.iterdir()) == []
