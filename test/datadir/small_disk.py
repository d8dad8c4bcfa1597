"""A disk of one megabyte, for tests of what happens when it is full."""

import os
import subprocess

import pytest


@pytest.fixture
def small_disk(tmp_path_factory):
    """A folder on its own 1 MiB tmpfs; skips, with the reason, where mounting is not permitted."""
    folder = tmp_path_factory.mktemp("small disk")
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    answer = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True)
    if answer.returncode != 0:
        pytest.skip(f"a small tmpfs cannot be mounted here: {answer.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)
