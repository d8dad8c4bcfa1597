"""What a command says while it works."""

import logging
import sys


def log_to_screen() -> None:
    """Show what is logged from INFO on, each line after the time of day, on standard error.

    Nothing happens where logging is set up already: by who calls a command from Python, or by a test.
    """
    logging.basicConfig(level="INFO", format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
