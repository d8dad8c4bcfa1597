"""What a training shows on the screen and what it keeps in its log."""

import logging
import subprocess
import sys
from pathlib import Path

import espnet_ext
from espnet_ext.train.console import epoch_line, for_screen

RESULTS = (
    "[train] iter_time=0.266, forward_time=3.580, loss=1.992, accuracy=0.879, train_time=8.017, time=2 minutes and "
    "8.34 seconds, total_count=48, [valid] eer=18.300, mindcf=0.849, n_trials=4.000e+03, total_count=3"
)


def test_the_end_of_an_epoch_is_one_short_line():
    expected = "epoch 3: train loss=1.992, accuracy=0.879; valid eer=18.300, mindcf=0.849"
    assert epoch_line("3", RESULTS) == expected


def test_whose_lines_are_on_the_screen():
    """Ours by the place of the package, even where ESPnet is installed below a checkout of that name."""
    package = Path(espnet_ext.__path__[0])
    for path, shown in ((package / "train/progress.py", True), (package.parent / ".venv/lib/espnet2/train.py", False)):
        assert for_screen(logging.LogRecord("root", logging.INFO, str(path), 1, "a line", (), None)) is shown


def test_the_log_has_everything_and_the_screen_a_persons_share(tmp_path):
    script = (
        "import logging, sys\nfrom espnet_ext.train.console import start\n"
        "start(sys.argv[1])\nlogging.info('a thousand lines of ESPnet')\nlogging.warning('careful')\n"
        f"logging.info('3epoch results: {RESULTS}')\n"
    )
    answer = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    log = (tmp_path / "train.log").read_text()
    assert "a thousand lines" in log and "train_time=8.017" in log and "careful" in log
    assert "a thousand lines" not in answer.stderr and "train_time" not in answer.stderr
    assert "careful" in answer.stderr and "epoch 3: train loss=1.992" in answer.stderr
