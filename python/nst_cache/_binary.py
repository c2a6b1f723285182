"""Where the program is."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from ._errors import ToolError

NAME = "nst-cache" + (sysconfig.get_config_var("EXE") or "")
VARIABLE = "NST_CACHE_BINARY"


def _installed() -> Iterator[Path]:
    """Where a wheel's scripts go: into the environment, the user's folder, or beside a package
    that was installed with --target."""
    yield Path(sysconfig.get_path("scripts")) / NAME
    user = "osx_framework_user" if sys.platform == "darwin" else f"{os.name}_user"
    if user in sysconfig.get_scheme_names():
        yield Path(sysconfig.get_path("scripts", scheme=user)) / NAME
    yield Path(__file__).resolve().parent.parent / "bin" / NAME


def find_binary() -> str:
    """The path of the program: `NST_CACHE_BINARY` if that is set, else the one that was installed
    with this package, else the first on `PATH`.

    Raises `ToolError` if there is none.
    """
    named = os.environ.get(VARIABLE)
    if named:
        if not os.path.isfile(named):
            raise ToolError(f"{VARIABLE}: expected a file, found none at {named}")
        return named
    for path in _installed():
        if path.is_file():
            return str(path)
    found = shutil.which(NAME)
    if found is None:
        raise ToolError(
            f"{NAME}: found neither beside this package nor on PATH",
            f"pip install nst-cache, or set {VARIABLE} to its path",
        )
    return found
