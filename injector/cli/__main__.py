"""`evenstream`, `kubectl evenstream` and `python -m injector.cli`."""

from __future__ import annotations

import os
import sys
from typing import Final

EXIT_USAGE: Final = 2
# kubectl's (cobra's) ShellCompDirectiveNoFileComp: the words printed are all there are.
NO_FILES: Final = ":4"


def main() -> None:
    try:
        from injector.cli import app
    except ModuleNotFoundError as error:
        sys.exit(_not_installed(error))
    sys.exit(app.run(sys.argv[1:]))


def complete_for_kubectl() -> None:
    """kubectl calls this with the words so far, the last one being completed, and wants one word a line."""
    try:
        from click.shell_completion import ShellComplete

        from injector.cli import app
    except ModuleNotFoundError as error:
        sys.exit(_not_installed(error))
    words = sys.argv[1:] or [""]
    complete = ShellComplete(app.evenstream, {}, "evenstream", "_EVENSTREAM_COMPLETE")
    found = complete.get_completions(words[:-1], words[-1])
    for item in found:
        print(f"{item.value}\t{item.help}" if item.help else item.value)
    print(NO_FILES)


def _not_installed(error: ModuleNotFoundError) -> int:
    text = f"evenstream: {error.name} is not installed; install the command line with: "
    os.write(2, f"{text}pip install 'evenstream[cli]'\n".encode())
    return EXIT_USAGE


if __name__ == "__main__":
    main()
