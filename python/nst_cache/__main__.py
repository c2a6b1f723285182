"""`python -m nst_cache …` is `nst-cache …`."""

import os
import subprocess
import sys

from ._binary import find_binary
from ._errors import ToolError


def main() -> int:
    """Becomes the program (POSIX), or runs it and returns its exit status."""
    try:
        binary = find_binary()
    except ToolError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if os.name == "posix":
        os.execv(binary, [binary, *sys.argv[1:]])
    return subprocess.call([binary, *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
