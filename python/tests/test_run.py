"""The program from Python: its result, its failures, its interruption."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import ROOT, ROWS, TEACHER, Make

import nst_cache
from nst_cache._run import flags

PACKAGE = Path(nst_cache.__file__).resolve().parents[1]
# what this process imports, wherever it comes from
PATHS = os.pathsep.join([str(PACKAGE), *(os.path.abspath(path) for path in sys.path if path)])


def test_keyword_arguments_are_flags() -> None:
    assert flags(
        {
            "split": "test",
            "dry_run": True,
            "refresh": False,
            "seed": None,
            "tap": ["a", "b"],
            "for_": "resnet18",
            "limit": 0,
            "output": Path("x y"),
            "mixup": 0.2,
            "mean": "-1,2",
        }
    ) == [
        "--split=test",
        "--dry-run",
        "--tap=a",
        "--tap=b",
        "--for=resnet18",
        "--limit=0",
        "--output=x y",
        "--mixup=0.2",
        "--mean=-1,2",
    ]
    for wrong in ({"a": object()}, {"a": [True]}, {"a": {"b": 1}}, {"a": b"c"}):
        with pytest.raises(TypeError):
            flags(wrong)


def test_a_command_returns_its_document_and_shows_its_progress(tmp_path: Path) -> None:
    lines: list[str] = []
    report = nst_cache.run(
        "extract",
        TEACHER,
        progress=lines.append,
        data="fashion-mnist",
        limit=64,
        tap=["layer3", "layer2"],
        output=tmp_path / "a b",
    )
    assert report["rows"] == 64 and report["computed"] == 64
    assert "extract: 64 rows" in lines
    assert list(nst_cache.open(tmp_path / "a b").taps) == ["layer3", "layer2"]
    assert isinstance(nst_cache.run("criteria", progress=lines.append), list)


def test_progress_goes_to_stderr(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    result = nst_cache.run("cache", "verify", make("plain"))
    assert result["findings"] == []
    captured = capsys.readouterr()
    assert "verify: " in captured.err and not captured.out


def test_a_failure_has_message_hint_and_status(tmp_path: Path) -> None:
    lines: list[str] = []
    with pytest.raises(nst_cache.ToolError) as caught:
        nst_cache.run("cache", "info", tmp_path, progress=lines.append)
    error = caught.value
    assert error.status == 2 and lines == []
    assert error.message == f"{tmp_path}: no cache there (expected a folder with manifest.json)"
    assert error.hint == "`nst-cache extract` makes one"
    with pytest.raises(nst_cache.ToolError, match="unexpected argument '--limits'") as caught:
        nst_cache.run("extract", TEACHER, limits=3)
    assert caught.value.status == 2


def test_a_check_that_fails_returns_what_it_found(copy: Make) -> None:
    path = copy("plain")
    file = path / "logits" / "c" / "0" / "0" / "0"
    data = bytearray(file.read_bytes())
    data[0] ^= 1
    file.write_bytes(data)
    with pytest.raises(nst_cache.ToolError) as caught:
        nst_cache.run("cache", "verify", path, quiet=True)
    assert caught.value.status == 1
    assert len(caught.value.result["findings"]) == 1


def test_the_program_is_found_by_variable_package_and_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = os.environ["NST_CACHE_BINARY"]
    assert nst_cache.find_binary() == named
    monkeypatch.setenv("NST_CACHE_BINARY", str(tmp_path / "nothing"))
    with pytest.raises(nst_cache.ToolError, match="found none at"):
        nst_cache.find_binary()
    monkeypatch.delenv("NST_CACHE_BINARY")
    monkeypatch.setattr("nst_cache._binary._installed", lambda: iter([tmp_path / "nst-cache"]))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(nst_cache.ToolError, match="neither beside this package nor on PATH"):
        nst_cache.find_binary()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nst-cache").symlink_to(Path(named).resolve())
    assert nst_cache.find_binary() == str(tmp_path / "bin" / "nst-cache")
    (tmp_path / "nst-cache").symlink_to(Path(named).resolve())
    assert nst_cache.find_binary() == str(tmp_path / "nst-cache")


def test_a_program_that_is_none_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\necho not json\n")
    monkeypatch.setenv("NST_CACHE_BINARY", str(script))
    with pytest.raises(nst_cache.ToolError, match="cannot be run"):
        nst_cache.run("criteria")
    script.chmod(0o755)
    with pytest.raises(nst_cache.ToolError, match="not JSON"):
        nst_cache.run("criteria")
    script.write_text("#!/bin/sh\nkill -9 $$\n")
    with pytest.raises(nst_cache.ToolError, match="signal 9") as caught:
        nst_cache.run("criteria")
    assert caught.value.status == -9


def test_an_interrupt_stops_the_program_which_keeps_what_is_done(tmp_path: Path) -> None:
    output = tmp_path / "cache"
    seen: list[str] = []

    def interrupt() -> None:
        while not any((output / "logits" / "c").glob("0/*/0")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    options = {"data": "fashion-mnist", "output": output, "threads": 1, "progress": seen.append}
    # a shell ignores it for what runs in the background
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=interrupt, daemon=True).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            nst_cache.run("extract", TEACHER, **options)
    finally:
        signal.signal(signal.SIGINT, before)
    # it has ended: its lock is free, and the rest is not there
    with pytest.raises(nst_cache.CacheError, match="incomplete"):
        nst_cache.open(output)
    assert "extract: 12000 rows" in seen
    # what was done is kept
    resumed = nst_cache.run("cache", "info", output)
    assert resumed["segments"] >= 1 and not resumed["complete"]


def test_the_module_is_the_program() -> None:
    environment = dict(os.environ, PYTHONPATH=PATHS)
    command = [sys.executable, "-m", "nst_cache"]
    found = subprocess.run(
        [*command, "--version"], env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.startswith("nst-cache ")
    failed = subprocess.run([*command, "bogus"], env=environment, capture_output=True, text=True)
    assert failed.returncode == 2 and "error: " in failed.stderr
    environment["NST_CACHE_BINARY"] = "/nothing"
    missing = subprocess.run([*command], env=environment, capture_output=True, text=True)
    assert missing.returncode == 2 and "NST_CACHE_BINARY" in missing.stderr


def test_the_package_needs_numpy_alone() -> None:
    code = (
        "import sys, nst_cache;"
        "print([m for m in ('torch', 'zarr', 'zstandard', 'google_crc32c') if m in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        env=dict(os.environ, PYTHONPATH=PATHS),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "torch" not in found.stdout and "zarr" not in found.stdout
