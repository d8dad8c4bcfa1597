"""Start-up: --help of the commands that a recipe calls, against ESPnet 202511's of the same purpose.

ESPnet's import everything first and try to download NLTK data; here the attempt fails at once, as on a machine without
network, so that no download is timed.
"""

import os
import subprocess
import sys

from common import Row, best_time

PAIRS = [
    ("embed", ["espnet_ext.bin.embed"], "espnet2.bin.spk_embed_extract"),
    ("train spk", ["espnet_ext.bin.train", "spk"], "espnet2.bin.spk_train"),
]


def help_time(words: list[str], repeats: int) -> float:
    """Return the least wall time of ``python -m … --help`` in seconds."""
    closed = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}
    command = [sys.executable, "-m", *words, "--help"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return best_time(lambda: subprocess.run(command, check=True, env={**os.environ, **closed}, **quiet), repeats)


def main() -> list[Row]:
    """Return one row per command."""
    return [Row(f"{name} --help", help_time(ours, 3), help_time([peer], 2)) for name, ours, peer in PAIRS]
