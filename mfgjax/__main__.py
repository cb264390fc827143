"""`mfgjax`, and `python -m mfgjax`: how the program begins, before anything is imported.

What is imported here takes a moment, in which Ctrl-C may come; and a stream that the shell closed
(`>&-`) is None, which the first to write to it would trip over.
"""

import os
import sys


def main() -> None:
    """Run the command line; ends with an exit code of `mfgjax.cli.failures`."""
    try:
        _reopen_closed_streams()
        from mfgjax.cli.failures import quiet_libraries
        from mfgjax.cli.main import app

        with quiet_libraries():
            app(prog_name="mfgjax")
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
