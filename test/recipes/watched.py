"""A recipe's run.sh as a user meets it: started, ended well, ended by a mistake, killed at a chosen moment."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from corpora import checkout, write

from espnet_ext.datadir import DataDir
from espnet_ext.spk.embeddings import EmbeddingTable

RUN = """#!/usr/bin/env bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
"""
DATA = '#!/usr/bin/env bash\nset -euo pipefail\nexec cp -r "${2}/." data\n'


def write_set(folder, name, speakers, num_utts, wav_of, utt_of, **more):
    """Write ``folder/data/<name>`` with ``wav_of(speaker, number)`` (samples, rate_hz) below ``folder/wavs``.

    utt_of: the id of (speaker, number). more: other tables, as functions of (speaker, number, wav).
    """
    tables = {"wav.scp": {}, "utt2spk": {}, **{table: {} for table in more}}
    for speaker in speakers:
        for number in range(num_utts):
            utt, path = utt_of(speaker, number), folder / "wavs" / f"{speaker:02d}" / f"{number}.wav"
            wav, rate_hz = wav_of(speaker, number)
            write(path, wav, rate_hz)
            tables["wav.scp"][utt], tables["utt2spk"][utt] = path, utt_of(speaker, None)
            for table, value_of in more.items():
                tables[table][utt] = value_of(speaker, number, wav)
    DataDir.write(folder / "data" / name, tables)


def odd_name(speaker, number):
    """Ids with what shells and tables may trip over: of a speaker (number None) and of an utterance."""
    return f"ş{speaker:02d}" if number is None else f"ş{speaker:02d}-(#{number})"


def new_recipe(folder, name, template, corpus):
    """A copy of recipe ``name`` whose run.sh is ``template`` and whose stage data, which has run, copies ``corpus``."""
    recipe = checkout(folder, name) / "egs2" / name
    (recipe / "run.sh").write_text(RUN + f'../../TEMPLATE/{template} "$@"\n')
    (recipe / "local/data.sh").write_text(DATA)
    run(recipe, "--stop_stage", "data", "--corpus", corpus)
    return recipe


def recipe_fixtures(name, template):
    """Two fixtures over one called ``corpus``: a recipe that ran undisturbed, and one of which only stage data has run.

    Tests leave the first as it is; blanks, accents and quotes are in its path.
    """

    @pytest.fixture(scope="module")
    def finished(corpus, tmp_path_factory):
        recipe = new_recipe(tmp_path_factory.mktemp("my récipe 100% 'done'"), name, template, corpus)
        run(recipe, "--stage", "format")
        return recipe

    @pytest.fixture
    def fresh(corpus, tmp_path):
        return new_recipe(tmp_path, name, template, corpus)

    return finished, fresh


@contextlib.contextmanager
def inside(recipe):
    """The recipe's folder as the current one: the paths in its tables start there."""
    back = os.getcwd()
    os.chdir(recipe)
    try:
        yield
    finally:
        os.chdir(back)


def read_vectors(recipe, folder):
    """Embeddings by utterance."""
    with inside(recipe):
        table = EmbeddingTable.read(f"{folder}/embedding.scp")
    return dict(zip(table.utterances, table.vectors, strict=True))


def contents(recipe, pattern):
    """The bytes of the files that a pattern finds below a recipe, by their path there; at least one has to be there."""
    found = {path.relative_to(recipe): path.read_bytes() for path in recipe.glob(pattern) if path.is_file()}
    assert found, f"{recipe}: nothing is {pattern}"
    return found


def start(recipe, *options):
    """Start run.sh; its output goes to the file ``said``."""
    env = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    with open(recipe / "said", "w") as said:
        command = ["./run.sh", *map(str, options)]
        return subprocess.Popen(command, cwd=recipe, env=env, stdout=said, stderr=subprocess.STDOUT)


def run(recipe, *options):
    """Run run.sh to its end, which has to be a good one."""
    code, said = start(recipe, *options).wait(), (recipe / "said").read_text()
    assert code == 0, said[-5000:]
    return said


def error_of(recipe, *options):
    """Run run.sh, which has to end with code 2, one line of explanation and no traceback; that line."""
    code, said = start(recipe, *options).wait(), (recipe / "said").read_text()
    assert code == 2 and "Traceback" not in said, said[-5000:]
    errors = [line.strip() for line in said.splitlines() if ": error: " in line]
    assert errors and len(set(errors)) == 1, said[-5000:]
    return errors[0]


def processes_below(pid):
    """The descendants of a process, whatever session they are in: ``{pid: command line}``."""
    children, command = {}, {}
    for folder in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{folder}/stat") as stat, open(f"/proc/{folder}/cmdline") as line:
                children.setdefault(int(stat.read().rpartition(")")[2].split()[1]), []).append(int(folder))
                command[int(folder)] = line.read().replace("\0", " ")
        except OSError:
            continue
    found, waiting = {}, [pid]
    while waiting:
        for child in children.get(waiting.pop(), []):
            found[child] = command[child]
            waiting.append(child)
    return found


def has_content(path):
    """Whether the file is there and not empty; a temporary one may go between the listing and the look."""
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False


def kill_in(recipe, stage, reached, whole_tree, *options):
    """Run one stage and kill -9 it, or only its command, as soon as the file pattern ``reached`` is there."""
    process = start(recipe, "--stage", stage, "--stop_stage", stage, *options)
    end = time.monotonic() + 600
    while not any(has_content(path) for path in recipe.glob(reached)):
        assert process.poll() is None and time.monotonic() < end, (recipe / "said").read_text()[-3000:]
        time.sleep(0.001)
    below = processes_below(process.pid)
    victims = (
        [process.pid, *below]
        if whole_tree
        else [p for p, line in below.items() if re.match(r"\S+ -m espnet_ext", line)]
    )
    assert victims
    for pid in victims:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    code = process.wait()
    assert code != 0
    return (recipe / "said").read_text()
