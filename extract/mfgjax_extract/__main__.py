"""`mfgjax-extract`, and `python -m mfgjax_extract`: how the program begins, before any import.

As in mfgjax, which need not be installed beside it: Ctrl-C may come while it imports, and a stream
that the shell closed (`>&-`) is None.
"""

import os
import sys


def main() -> None:
    """Run the command line; ends with an exit code of `mfgjax_extract.console`."""
    try:
        _reopen_closed_streams()
        from mfgjax_extract.cli import app

        app(prog_name="mfgjax-extract")
    except KeyboardInterrupt:
        print("stopped by Ctrl-C.", file=sys.stderr)
        sys.exit(130)
    except OSError as error:  # what --help prints goes to a full disk
        print(f"error: {error}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)


def _reopen_closed_streams() -> None:
    """Let nothing that is opened later take the number of a stream that the shell closed."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    if sys.stdout is None:
        print(
            "error: standard output is closed. To do without the result: > /dev/null",
            file=sys.stderr,
        )
        sys.exit(2)


if __name__ == "__main__":
    main()
