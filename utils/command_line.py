"""The outer end of a command: its text, or one line that says what is wrong, and an exit code."""

import sys
from collections.abc import Callable

LOG_FORMAT = "%(levelname)s - %(name)s - %(message)s"  # that of sacred
FAILED, INTERRUPTED = 1, 130  # exit codes


def run_command(name: str, work: Callable[[], str], interrupted: str | None = None) -> int:
    """0 after `work`, whose text is written; 1 after what a user can mend (OSError, ValueError).

    `interrupted`: what to say after Ctrl-C, which then ends the command with exit code 130; None:
    it is raised again.
    """
    try:
        text = work()
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{name}: {error}\n")
        return FAILED
    except KeyboardInterrupt:
        if interrupted is None:
            raise
        sys.stderr.write(f"{name}: {interrupted}\n")
        return INTERRUPTED
    sys.stdout.write(text)
    return 0
