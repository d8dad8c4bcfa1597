"""README.md, followed word by word in a copy of the checkout: the demo, then every command that uses what it made."""

import json
import re
import subprocess
import sys

import pytest
from corpora import ROOT, checkout, run

README = (ROOT / "README.md").read_text(encoding="utf-8")
SHELL = re.findall(r"^```bash\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
PYTHON = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
# The recipe must beat chance (50 %) by this margin on speakers it has never heard; README.md has what is measured.
HIGHEST_EER = 0.25


def block(words: str, blocks: list[str]) -> str:
    """The one block that holds ``words``."""
    found = [text for text in blocks if words in text]
    assert len(found) == 1, (words, len(found))
    return found[0]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A copy of the checkout, in a folder with a blank and an accent, in which `make demo` has run its recipe."""
    folder = checkout(tmp_path_factory.mktemp("demo") / "dé mo", "mini_espeak")
    (folder / ".venv").symlink_to(sys.prefix)
    told = run("egs2/mini_espeak/spk1/run.sh", folder)
    return folder, told


@pytest.mark.timeout(1200)
def test_the_demo_beats_chance_and_shows_it(demo):
    folder, told = demo
    exp = folder / "egs2/mini_espeak/spk1/exp/spk_train_ecapa"
    rows = json.loads((exp / "results.json").read_text())["results"]
    eers = {row["where"]["system"]: row["value"] for row in rows if row["metric"] == "eer"}
    assert eers["raw"] < HIGHEST_EER, eers
    assert eers["raw"] < eers["MFCC statistics"], eers
    cllr = {row["where"]["system"]: row["value"] for row in rows if row["metric"] == "cllr"}
    assert cllr["calibrated"] < 0.7 * cllr["raw"], cllr
    assert (exp / "det.png").stat().st_size > 5000 and "chance" in (exp / "RESULTS.md").read_text()
    # On the screen: the table of errors, and the wall time of every stage.
    assert "EER" in told and "minDCF" in told and "wall time per stage" in told
    assert all(f" {name} " in told for name in ("data", "format", "trials", "train", "infer", "score", "pack"))


@pytest.mark.timeout(1200)
def test_commands_of_the_recipe_chapter(demo):
    folder, _ = demo
    commands = block("--stage train --stop_stage score", SHELL).replace("./run.sh   ", "./run.sh --stage score   ", 1)
    told = run("set -e\n" + commands, folder)
    assert "usage: spk.sh" in told and "2 epochs, 32 steps" in told and "exp/spk_short.zip" in told


@pytest.mark.timeout(600)
def test_commands_that_use_the_model(demo):
    folder, _ = demo
    told = run("set -e\n" + block("espnet_ext verify", SHELL), folder)
    assert re.search(r"same speaker +(yes|no)", told) and "ann" in told and "usage: espnet_ext" in told


@pytest.mark.timeout(600)
def test_commands_that_need_no_labels(demo):
    folder, _ = demo
    told = run("set -e\n" + block("espnet_ext cluster", SHELL), folder)
    assert "20 clusters of 300 utterances" in told and "standardised" in told
    assert "RankMe-t by layer" in told and re.search(r"^\| log-mel energies", told, re.MULTILINE)


@pytest.mark.timeout(600)
def test_python_that_uses_the_model(demo):
    folder, _ = demo
    clips = sorted((folder / "egs2/mini_espeak/spk1/data/audio/test").glob("test0000/*.flac"))
    make = "import soundfile\n" + "".join(
        f"soundfile.write({name!r}, *soundfile.read({str(clip)!r}))\n"
        for name, clip in zip(("speech.wav", "a.wav", "b.flac"), clips, strict=False)
    )
    check = "\nassert vector.shape == (64,) and vector.dtype == 'float32' and vectors.shape == (2, 64)\n"
    (folder / "use.py").write_text(make + block("SpeakerEmbedder", PYTHON) + check)
    answer = subprocess.run([sys.executable, "use.py"], cwd=folder, capture_output=True, text=True)
    assert answer.returncode == 0 and "same_speaker" in answer.stdout, answer.stderr


def test_the_ten_lines_of_the_readme_are_those_that_are_tested():
    from test_registry import TEN_LINES

    assert TEN_LINES.strip() in block("LineTask", PYTHON)
    assert "espnet_ext.bin.train line_task:LineTask --config" in block("line_task", SHELL)


def test_make_targets_of_the_readme():
    for target in re.findall(r"(?:`|^)make ([\w-]+)", README, re.MULTILINE):
        answer = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
        assert answer.returncode == 0, (target, answer.stderr)


def test_files_that_the_readme_names_exist():
    for path in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / path).exists(), path
