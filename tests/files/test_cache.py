"""What is made once lies in the cache whole, and is made anew where it no longer is."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from scripts import ROOT

from files.cache import DIGESTS, cache_folder, cached, changes, is_intact

BYTES = {"weights.bin": b"w" * 1000, "config.json": b"{}"}


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("ERRATA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def fill(folder):
    for name, content in BYTES.items():
        (folder / name).write_bytes(content)


def no_fill(folder):
    raise AssertionError("it was there already")


def test_a_folder_is_filled_once(cache):
    folder = cached("model", fill)
    assert folder == cache / "model"
    assert {name: (folder / name).read_bytes() for name in BYTES} == BYTES
    assert cached("model", no_fill) == folder


def cut(folder):
    (folder / "weights.bin").write_bytes(b"w" * 10)
    return "weights.bin"


def changed(folder):
    (folder / "config.json").write_bytes(b"[]")
    return "config.json"


def removed(folder):
    (folder / "config.json").unlink()
    return "config.json"


def unmarked(folder):
    (folder / DIGESTS).unlink()
    return DIGESTS


@pytest.mark.parametrize("spoil", [cut, changed, removed, unmarked])
def test_one_that_is_no_longer_whole_is_named_and_filled_anew(spoil, caplog):
    folder = cached("model", fill)
    file = spoil(folder)
    assert changes(folder) == [file]
    with caplog.at_level(logging.WARNING):
        assert cached("model", fill) == folder
    (line,) = caplog.messages
    assert str(folder) in line and f"({file})" in line
    assert is_intact(folder)
    assert {path.name for path in folder.iterdir()} == {*BYTES, DIGESTS}


def test_a_failure_in_the_middle_leaves_nothing(cache):
    def fail(folder):
        fill(folder)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        cached("model", fail)
    assert [path.name for path in cache.iterdir()] in (["model.lock"], [])
    assert is_intact(cached("model", fill))


def test_what_a_killed_process_left_is_no_part_of_it(cache):
    (cache / "model.part").mkdir(parents=True)
    (cache / "model.part" / "stale.bin").write_bytes(b"stale")
    folder = cached("model", fill)
    assert {path.name for path in folder.iterdir()} == {*BYTES, DIGESTS}
    assert not (cache / "model.part").exists()


def test_of_processes_that_want_it_at_once_one_fills_it(tmp_path):
    script = [sys.executable, str(Path(__file__).with_name("fills_the_cache.py"))]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    log = tmp_path / "log"
    running = [subprocess.Popen([*script, str(log)], env=environment) for _ in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert len(log.read_text().split()) == 1


def test_the_home_folder_has_the_cache_where_no_other_is_named(monkeypatch):
    monkeypatch.delenv("ERRATA_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "errata"
