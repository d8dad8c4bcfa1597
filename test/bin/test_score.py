"""The score command on made-up embeddings: what it writes, what it learns from, what it says to wrong input."""

import json
import os
import signal
import subprocess
import sys
import time

import kaldiio
import numpy as np
import pytest
from small_disk import small_disk  # noqa: F401

from espnet_ext.bin.score import main
from espnet_ext.metrics.calibration import Calibration
from espnet_ext.metrics.detection import bayes_threshold, cllr, eer

DIM = 24


def make_set(folder, name, seed, num_speakers=12, num_utterances=5, noise=1.2):
    """Embeddings around a centre per speaker; returns (embedding.scp, trials)."""
    rng = np.random.default_rng(seed)
    data, embeddings = folder / "dump" / name, folder / "embeddings" / name
    for path in (data, embeddings):
        path.mkdir(parents=True)
    utt2spk = {f"{name}{s:02d}-{u}": f"{name}{s:02d}" for s in range(num_speakers) for u in range(num_utterances)}
    centres = {spk: rng.normal(size=DIM) for spk in sorted(set(utt2spk.values()))}
    vectors = {
        utt: (centres[spk] + noise * rng.normal(size=DIM) + 1).astype(np.float32) for utt, spk in utt2spk.items()
    }
    kaldiio.save_ark(str(embeddings / "embedding.ark"), vectors, scp=str(embeddings / "embedding.scp"))
    (data / "utt2spk").write_text("".join(f"{utt} {spk}\n" for utt, spk in utt2spk.items()))
    (data / "utt2num_samples").write_text("".join(f"{utt} {rng.integers(8000, 90000)}\n" for utt in utt2spk))
    utts = list(utt2spk)
    pairs = [(a, b) for i, a in enumerate(utts) for b in utts[i + 1 :]]
    lines = [f"{a} {b} {'target' if utt2spk[a] == utt2spk[b] else 'nontarget'}\n" for a, b in pairs]
    (data / "trials").write_text("".join(lines))
    (data / "trials.cross_session").write_text("".join(lines[::2]))
    return embeddings / "embedding.scp", data / "trials"


@pytest.fixture
def sets(tmp_path):
    folder = tmp_path / "räume mit Leerzeichen"
    return folder, {name: make_set(folder, name, seed) for seed, name in enumerate(("test", "dev", "train"))}


def arguments(folder, sets, *more):
    scp, trials = sets["test"]
    words = ["--out", folder / "exp", "--test", "test", scp, trials, f"{trials}.cross_session"]
    words += ["--dev", *sets["dev"], "--cohort", sets["train"][0], sets["train"][1].parent / "utt2spk"]
    return [str(word) for word in [*words, "--num_bootstrap", 20, *more]]


def read_scores(path):
    return np.array([float(line.split()[2]) for line in path.read_text().splitlines()])


def test_everything_is_written_and_the_numbers_agree(sets, capsys):
    folder, sets = sets
    assert main(arguments(folder, sets, "--floor", "a floor", sets["test"][0], "--info", "corpus=made up")) == 0
    out, shown = folder / "exp", capsys.readouterr().out
    for word in ("raw", "AS-norm", "calibrated", "QMF fusion", "a floor", "chance", "12 speakers", "cross_session"):
        assert word in shown
    lines = sets["test"][1].read_text().splitlines()
    labels = np.array([line.endswith(" target") for line in lines])
    written = json.loads((out / "results.json").read_text())
    assert {"commit", "seed", "hardware", "scoring_time_s", "command", "config"} <= written["run"].keys()
    assert written["run"]["corpus"] == "made up"
    value = {
        (one["where"]["system"], one["where"]["condition"], one["metric"]): one["value"] for one in written["results"]
    }
    for system in ("raw", "asnorm", "calibrated", "qmf"):
        path = out / "scores" / "test" / system
        assert [line.split()[:2] for line in path.read_text().splitlines()] == [line.split()[:2] for line in lines]
        assert value[system, "all", "eer"] == pytest.approx(eer(read_scores(path), labels), abs=1e-3)
        half = read_scores(out / "scores" / "test" / f"{system}.cross_session")
        np.testing.assert_array_equal(half, read_scores(path)[::2])
    assert value["raw", "all", "eer"] < 0.3
    assert value["calibrated", "all", "cllr"] < value["raw", "all", "cllr"]
    assert value["calibrated", "all", "act_dcf"] < value["raw", "all", "act_dcf"]
    intervals = [one["ci"] for one in written["results"] if one["metric"] == "eer"]
    assert all(low <= high for low, high in intervals)
    report = (out / "RESULTS.md").read_text()
    assert "![DET curves](det.png)" in report and "corpus: made up" in report
    assert (out / "det.png").read_bytes().startswith(b"\x89PNG")
    assert not [path for path in out.rglob(".*")], "temporary files are left"


def test_what_is_saved_for_packing_gives_the_raw_llr_back(sets):
    folder, sets = sets
    assert main(arguments(folder, sets, "--p_target", "0.1")) == 0
    out = folder / "exp"
    saved = json.loads((out / "calibration.json").read_text())
    assert saved["threshold"] == pytest.approx(bayes_threshold(0.1))
    mean, cohort = np.load(out / saved["embedding_mean"]), np.load(out / saved["cohort"])
    assert mean.shape == (DIM,) and cohort.shape == (12, DIM)
    table = kaldiio.load_scp(str(sets["test"][0]))
    first = (out / "scores" / "test" / "raw").read_text().splitlines()[3].split()
    a, b = (table[utt] - mean for utt in first[:2])
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert cosine == pytest.approx(float(first[2]), abs=2e-6)
    llrs = Calibration.from_dict(saved).llr(read_scores(out / "scores" / "test" / "raw"))
    labels = [line.endswith(" target") for line in sets["test"][1].read_text().splitlines()]
    assert cllr(llrs, labels) < 0.9
    assert set(saved["systems"]) == {"raw", "asnorm", "qmf"}


def test_nothing_is_learned_from_the_test_trials(sets):
    folder, sets = sets
    assert main(arguments(folder, sets)) == 0
    before = [(folder / "exp" / name).read_bytes() for name in ("calibration.json", "cohort.npy", "embedding_mean.npy")]
    scores = (folder / "exp" / "scores" / "test" / "qmf").read_text().splitlines()
    trials = sets["test"][1]
    kept = trials.read_text().splitlines()[::3]
    trials.write_text("\n".join(kept) + "\n")
    assert main(arguments(folder, sets)) == 0
    after = [(folder / "exp" / name).read_bytes() for name in ("calibration.json", "cohort.npy", "embedding_mean.npy")]
    assert before == after
    assert (folder / "exp" / "scores" / "test" / "qmf").read_text().splitlines() == scores[::3]


def test_without_dev_and_cohort_there_is_only_the_raw_score(sets, capsys):
    folder, sets = sets
    assert main(arguments(folder, sets)) == 0
    scp, trials = sets["test"]
    (trials.parent / "utt2spk").unlink()  # speakers are then found from the target trials
    capsys.readouterr()
    assert main(["--out", str(folder / "exp"), "--test", "t", str(scp), str(trials), "--num_bootstrap", "20"]) == 0
    shown = capsys.readouterr().out
    assert "12 speakers (12 with target trials)" in shown and "AS-norm" not in shown
    left = {path.name for path in (folder / "exp").iterdir()}
    assert not left & {"calibration.json", "cohort.npy", "embedding_mean.npy"}, "of an earlier run"


def test_fusion_uses_durations_only_where_all_sets_have_them(sets, capsys):
    folder, sets = sets
    assert main(arguments(folder, sets)) == 0
    assert "duration_ratio" in (folder / "exp" / "RESULTS.md").read_text()
    (sets["test"][1].parent / "utt2num_samples").unlink()
    assert main(arguments(folder, sets)) == 0
    report = (folder / "exp" / "RESULTS.md").read_text()
    assert "duration_ratio" not in report and "log_magnitude_min" in report
    assert "QMF fusion" in capsys.readouterr().out


def test_crops_and_espnets_distance(sets, capsys):
    folder, sets = sets
    for scp, _ in sets.values():
        rng = np.random.default_rng(0)
        table = {utt: vector + 0.1 * rng.normal(size=(3, DIM)) for utt, vector in kaldiio.load_scp(str(scp)).items()}
        table = {utt: crops.astype(np.float32) for utt, crops in table.items()}
        kaldiio.save_ark(str(scp.parent / "crops.ark"), table, scp=str(scp))
    assert main(arguments(folder, sets, "--score", "distance", "--subtract_mean", "false")) == 0
    assert "QMF fusion" in capsys.readouterr().out
    raw = read_scores(folder / "exp" / "scores" / "test" / "raw")
    assert (raw <= 0).all() and (raw >= -2).all()
    assert json.loads((folder / "exp" / "calibration.json").read_text())["score"] == "distance"


@pytest.mark.parametrize(
    "spoil, message",
    [
        (
            lambda scp, trials: trials.write_text(trials.read_text() + "test00-0 nobody nontarget\n"),
            "line 1771.*'nobody'",
        ),
        (
            lambda scp, trials: scp.write_text("\n".join(scp.read_text().splitlines()[:-1]) + "\n"),
            "'test11-4' is not in",
        ),
        (lambda scp, trials: trials.write_text(""), "is empty"),
        (lambda scp, trials: scp.write_text(""), "is empty"),
        (lambda scp, trials: scp.unlink(), "does not exist"),
        (lambda scp, trials: trials.write_text("test00-0 test00-1 target\n"), "no non-target trial"),
        (lambda scp, trials: trials.write_text("test00-0 test00-1 maybe\n"), "line 1.*is not a trial"),
        (
            lambda scp, trials: kaldiio.save_ark(
                str(scp.parent / "nan.ark"),
                {utt: v * np.float32("nan") for utt, v in kaldiio.load_scp(str(scp)).items()},
                scp=str(scp),
            ),
            "'test00-0' has NaN",
        ),
    ],
)
def test_wrong_input_is_one_line(sets, capsys, spoil, message):
    import re

    folder, sets = sets
    spoil(*sets["test"])
    assert main(arguments(folder, sets)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("score: error: ")
    assert re.search(message, error), error
    assert not (folder / "exp" / "RESULTS.md").exists()


def test_development_and_cohort_are_kept_apart_from_the_test_set(sets, capsys):
    folder, sets = sets
    scp, trials = sets["test"]
    start = ["--out", str(folder / "exp"), "--test", "test", str(scp), str(trials)]
    for more in (["--dev", str(scp), str(trials)], ["--cohort", str(scp)]):
        assert main([*start, *more]) == 2
        assert "take the" in capsys.readouterr().err
    assert main([*start, "--test", "test", str(scp), str(trials)]) == 2
    assert "same name" in capsys.readouterr().err
    assert main(["--out", str(folder / "exp"), "--test", "test", str(scp)]) == 2
    assert "--test needs NAME" in capsys.readouterr().err


def test_killed_then_the_same_command(sets):
    folder, sets = sets
    words = [sys.executable, "-m", "espnet_ext.bin.score", *arguments(folder, sets, "--num_bootstrap", "100000")]
    running = subprocess.Popen(words)
    written = folder / "exp" / "scores" / "test" / "raw"
    deadline = time.monotonic() + 60
    while not written.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert written.exists() and not (folder / "exp" / "RESULTS.md").exists()
    assert main(arguments(folder, sets)) == 0
    assert (folder / "exp" / "RESULTS.md").exists()
    assert len(written.read_text().splitlines()) == 60 * 59 // 2


def test_full_disk_then_the_same_command(sets, small_disk, capsys):  # noqa: F811
    folder, sets = sets
    filler = small_disk / "filler"
    filler.write_bytes(bytes(900_000))
    words = arguments(folder, sets)
    words[1] = str(small_disk / "exp")
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "no space left on the disk while writing" in error
    assert not (small_disk / "exp" / "RESULTS.md").exists()
    filler.unlink()
    assert main(words) == 0
    assert (small_disk / "exp" / "RESULTS.md").exists()


def test_help_is_fast_and_needs_no_torch():
    code = "import sys, espnet_ext.bin.score as s; s.get_parser().format_help(); print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=20)
    assert answer.stdout.strip() == "False"


def test_floor_is_standardised_by_utterances_that_are_not_tested(sets):
    folder, sets = sets
    scale = np.geomspace(1, 1000, DIM)
    floors = []
    for name in ("test", "train"):
        table = kaldiio.load_scp(str(sets[name][0]))
        vectors = {utt: (scale * (vector + 7)).astype(np.float32) for utt, vector in table.items()}
        scp = folder / f"floor_{name}.scp"
        kaldiio.save_ark(str(folder / f"floor_{name}.ark"), vectors, scp=str(scp))
        floors.append(str(scp))
    words = ["--out", str(folder / "exp"), "--test", "test", *map(str, sets["test"]), "--num_bootstrap", "0"]
    rates = {}
    for name, files in (("plain", floors[:1]), ("standardised", floors)):
        assert main([*words, "--floor", name, *files]) == 0
        results = json.loads((folder / "exp" / "results.json").read_text())["results"]
        rates |= {r["where"]["system"]: r["value"] for r in results if r["metric"] == "eer"}
    assert rates["standardised"] < 0.7 * rates["plain"]
    assert rates["standardised"] == pytest.approx(rates["raw"], abs=0.1)
