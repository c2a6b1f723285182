"""Runs a command of the program and returns what it reports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

from ._binary import find_binary
from ._errors import ToolError

_Value = str | int | float | os.PathLike[str]


def _text(name: str, value: object) -> str:
    if isinstance(value, (str, int, float, os.PathLike)) and not isinstance(value, bool):
        return str(value)
    raise TypeError(f"{name}: expected text, a number or a path, found {value!r}")


def flags(options: dict[str, Any]) -> list[str]:
    """Keyword arguments as flags: `split="test"` is `--split=test`, `dry_run=True` is `--dry-run`,
    `tap=["a", "b"]` is `--tap=a --tap=b`, `for_="resnet18"` is `--for=resnet18`; None and False
    are left out."""
    found = []
    for name, value in options.items():
        flag = "--" + name.rstrip("_").replace("_", "-")
        if value is None or value is False:
            continue
        if value is True:
            found.append(flag)
        elif isinstance(value, (list, tuple)):
            found.extend(f"{flag}={_text(name, item)}" for item in value)
        else:
            found.append(f"{flag}={_text(name, value)}")
    return found


def _failure(end: list[str], status: int, result: Any) -> ToolError:
    """The error that a command ended with: `error: …` on up to six lines, then `hint: …`."""
    hint = None
    if end and end[-1].startswith("hint:"):
        hint = end.pop().removeprefix("hint:").strip()
    message = "\n".join(end).removeprefix("error:").strip()
    if not message:
        how = f"was ended by signal {-status}" if status < 0 else "failed without a message"
        message = f"nst-cache {how}"
    return ToolError(message, hint, status, result)


def _wait(process: subprocess.Popen[str]) -> None:
    """Waits for a process that was told to stop; whoever interrupts again stops it at once."""
    while True:
        try:
            process.wait()
            return
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)


def run(*command: _Value, progress: Callable[[str], None] | None = None, **options: Any) -> Any:
    """Runs `nst-cache COMMAND… --FLAG=VALUE… --json` and returns its JSON document.

    Keyword arguments are the command's flags: underscores become dashes, `True` a flag alone, a
    list a repeated flag; a name that Python reserves takes an underscore at its end (`for_`). Each
    line of progress, notes and warnings goes to `progress`, by default to `sys.stderr`.

    Raises `ToolError` with the program's message, hint and exit status if it fails. When it is
    interrupted (`KeyboardInterrupt`), the program is asked to stop, which keeps finished work, and
    waited for; a second interrupt stops it at once.
    """
    show = progress or (lambda line: print(line, file=sys.stderr, flush=True))
    words = [_text("command", word) for word in command]
    arguments = [find_binary(), *words, *flags(options), "--json", "--stop-with-stdin"]
    # in a session of its own, so that one interrupt reaches it once; it stops too when its standard
    # input ends, should this process be killed
    try:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise ToolError(f"{arguments[0]}: cannot be run: {error}") from error
    assert process.stdin and process.stdout and process.stderr
    output: list[str] = []
    reader = threading.Thread(target=lambda out: output.append(out.read()), args=(process.stdout,))
    reader.start()
    # from `error:` on: what it ended with
    end: list[str] = []
    try:
        for line in process.stderr:
            line = line.rstrip("\n")
            if end or line.startswith("error:"):
                end.append(line)
            else:
                show(line)
        process.wait()
    except BaseException:
        process.send_signal(signal.SIGINT)
        rest = threading.Thread(target=process.stderr.read)
        rest.start()
        _wait(process)
        rest.join()
        raise
    finally:
        reader.join()
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()
    try:
        result = json.loads(output[0]) if output[0].strip() else None
    except ValueError as error:
        if process.returncode == 0:
            raise ToolError(f"its output is not JSON: {error}", status=0) from error
        result = None
    if process.returncode:
        raise _failure(end, process.returncode, result)
    return result
