"""What commands say while they work: the format of the lines, and who decides it."""

import re
import subprocess
import sys

CODE = """import logging
{before}
from espnet_ext.logs import log_to_screen
log_to_screen()
logging.getLogger("espnet_ext.room").info("epoch %d", 3)
logging.debug("details")
"""


def said(before=""):
    answer = subprocess.run([sys.executable, "-c", CODE.format(before=before)], capture_output=True, text=True)
    assert answer.returncode == 0 and not answer.stdout, answer
    return answer.stderr


def test_lines_have_the_time_of_day():
    assert re.fullmatch(r"\d\d:\d\d:\d\d epoch 3\n", said())


def test_who_calls_a_command_from_python_decides():
    assert said('logging.basicConfig(level="INFO", format="mine: %(message)s")') == "mine: epoch 3\n"
    assert said('logging.basicConfig(level="WARNING")') == ""
