"""Packing: ESPnet's zip, the same bytes twice, nothing of this machine in it, and it loads anywhere."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from tiny_model import make_model, voice

from espnet_ext.bin import pack as pack_command
from espnet_ext.bin import upload as upload_command
from espnet_ext.inference.spk import SpeakerEmbedder
from espnet_ext.zoo.config import portable
from espnet_ext.zoo.package import read_experiment, resolve

CALIBRATION = {"features": ["score"], "weights": [12.0], "bias": -4.0, "p_target": 0.05, "threshold": 2.9}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ESPNET_EXT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def exp(tmp_path):
    """A trained experiment with normalisation statistics, and what scoring wrote."""
    statistics = tmp_path / "stats" / "feats_stats.npz"
    statistics.parent.mkdir()
    count = 100
    np.savez(statistics, count=count, sum=np.full(24, 3.0 * count), sum_square=np.full(24, 13.0 * count))
    folder = make_model(
        tmp_path / "exp" / "spk_tiny", normalize="global_mvn", normalize_conf={"stats_file": str(statistics)}
    )
    scores = folder / "scores"
    scores.mkdir()
    (scores / "calibration.json").write_text(json.dumps(CALIBRATION))
    np.save(scores / "embedding_mean.npy", np.full(12, 0.01, np.float32))
    np.save(scores / "cohort.npy", np.eye(12, dtype=np.float32))
    (scores / "RESULTS.md").write_text("# Speaker verification\n\n| test | EER |\n| - | - |\n| all | 3.2 |\n")
    (scores / "results.json").write_text("{}\n")
    return folder


def pack(exp, out) -> int:
    weights = str(exp / "valid.eer.best.pth")
    return pack_command.main(
        ["--exp", str(exp), "--model_file", weights, "--scores", str(exp / "scores"), "--out", str(out)]
    )


def test_a_package_loads_elsewhere_when_everything_else_is_gone(exp, tmp_path):
    before = SpeakerEmbedder.from_pretrained(exp)(voice(1.5))
    assert pack(exp, tmp_path / "packed ü.zip") == 0
    shutil.rmtree(exp.parent)
    shutil.rmtree(tmp_path / "stats")
    elsewhere = tmp_path / "another folder"
    elsewhere.mkdir()
    shutil.move(tmp_path / "packed ü.zip", elsewhere / "model.zip")
    np.save(elsewhere / "wav.npy", voice(1.5))
    code = (
        "import numpy as np; from espnet_ext.inference.spk import SpeakerEmbedder; "
        "e = SpeakerEmbedder.from_pretrained('model.zip'); wav = np.load('wav.npy'); np.save('out.npy', e(wav)); "
        "r = e.verify(wav, wav); print(r.score, r.llr, r.threshold, r.same_speaker)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=elsewhere, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert np.array_equal(np.load(elsewhere / "out.npy"), before)
    score, llr, threshold, same = done.stdout.split()
    assert float(score) == pytest.approx(1, abs=1e-5) and float(llr) == pytest.approx(8, abs=1e-3)
    assert (float(threshold), same) == (2.9, "True")


def test_the_same_files_give_the_same_bytes(exp, tmp_path, capsys):
    assert pack(exp, tmp_path / "one.zip") == 0 and pack(exp, tmp_path / "two.zip") == 0
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    sums = [line.split("SHA-256 ")[1] for line in capsys.readouterr().out.splitlines() if "SHA-256" in line]
    assert len(sums) == 2 and sums[0] == sums[1] and len(sums[0]) == 64


def test_nothing_of_this_machine_is_in_the_package(exp, tmp_path):
    pack(exp, tmp_path / "p.zip")
    with zipfile.ZipFile(tmp_path / "p.zip") as archive:
        meta = yaml.safe_load(archive.read("meta.yaml"))
        config = archive.read("exp/spk_tiny/config.yaml").decode()
        names = archive.namelist()
    assert str(tmp_path) not in config and "/somewhere" not in config
    assert meta["files"]["model_file"] == "exp/spk_tiny/valid.eer.best.pth"
    assert meta["yaml_files"] == {"train_config": "exp/spk_tiny/config.yaml"}
    assert {"espnet", "torch", "python", "timestamp"} <= meta.keys()
    assert {"RESULTS.md", "results.json", "exp/spk_tiny/feats_stats.npz", "exp/spk_tiny/cohort.npy"} <= set(names)


def test_espnet_itself_unpacks_it_and_builds_the_model(exp, tmp_path, monkeypatch):
    from espnet2.main_funcs.pack_funcs import unpack

    monkeypatch.chdir(tmp_path)
    pack(exp, tmp_path / "p.zip")
    files = unpack(tmp_path / "p.zip", tmp_path / "espnet")
    config = yaml.safe_load(Path(files["train_config"]).read_text())
    assert config["normalize_conf"]["stats_file"] == str(tmp_path / "espnet/exp/spk_tiny/feats_stats.npz")
    vector = SpeakerEmbedder.from_files(files["train_config"], files["model_file"])(voice(1.0))
    assert np.array_equal(vector, SpeakerEmbedder.from_pretrained(exp)(voice(1.0)))


def test_a_config_is_made_portable(tmp_path):
    (tmp_path / "a.npz").touch()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "a.npz").touch()
    config = {
        "output_dir": "/x/exp",
        "train_shape_file": ["/x/shape"],
        "encoder": "ecapa_tdnn",
        "frontend_conf": {"upstream": "wavlm_large", "download_dir": "./hub", "one": str(tmp_path / "a.npz")},
        "normalize_conf": {"two": str(tmp_path / "b" / "a.npz"), "gone": "/x/y"},
        "preprocessor_conf": {"target_duration": 3.0, "noise_info": [[1.0, "data/musan.scp", [1, 1], [0, 15]]]},
        "optim_conf": {"lr": 1e-3},
        "log_level": "~/log",
    }
    result, files = portable(config, "exp/t")
    assert result == {
        "output_dir": None,
        "train_shape_file": [],
        "encoder": "ecapa_tdnn",
        "frontend_conf": {"upstream": "wavlm_large", "download_dir": "./hub", "one": "exp/t/a.npz"},
        "normalize_conf": {"two": "exp/t/a_2.npz", "gone": ""},
        "preprocessor_conf": {"target_duration": 3.0},
        "optim_conf": {"lr": 1e-3},
        "log_level": "",
    }
    assert files == {"exp/t/a.npz": tmp_path / "a.npz", "exp/t/a_2.npz": tmp_path / "b" / "a.npz"}


def test_an_experiment_without_weights_or_scores_is_said(exp, tmp_path, capsys):
    assert pack_command.main(["--exp", str(tmp_path / "no"), "--out", str(tmp_path / "p.zip")]) == 2
    assert pack_command.main(["--exp", str(exp), "--model_file", "no.pth", "--out", str(tmp_path / "p.zip")]) == 2
    assert pack_command.main(["--exp", str(exp), "--scores", "no", "--out", str(tmp_path / "p.zip")]) == 2
    assert pack_command.main(["--exp", str(exp), "--out", str(tmp_path / "p.tar")]) == 2
    assert pack_command.main(["--exp", str(exp), "--scores", str(tmp_path), "--out", "p.zip"]) == 2
    assert pack_command.main(["--exp", str(exp), "--out", str(tmp_path / "p.zip"), "--extra", "run.py"]) == 2
    (exp / "valid.eer.best.pth").write_bytes(b"PK")
    assert pack_command.main(["--exp", str(exp), "--out", str(tmp_path / "p.zip")]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    words = (
        "no such folder",
        "it has valid.eer.best.pth",
        "no such folder",
        ".zip",
        "holds no RESULTS.md",
        "run.py",
        "truncated",
    )
    assert len(errors) == 7 and all(word in error for word, error in zip(words, errors, strict=True))
    assert not list(tmp_path.glob("*.zip")) and not list(tmp_path.glob(".*.tmp"))


def test_the_best_checkpoint_is_chosen(exp):
    assert read_experiment(exp).weights.name == "valid.eer.best.pth"
    (exp / "valid.eer.best.pth").rename(exp / "7epoch.pth")
    assert read_experiment(exp).weights.name == "7epoch.pth"
    assert resolve(exp / "7epoch.pth").weights.name == "7epoch.pth"


def test_an_upload_is_shown_before_it_is_made(exp, tmp_path, capsys):
    pack(exp, tmp_path / "p.zip")
    capsys.readouterr()
    assert upload_command.main(["--package", str(tmp_path / "p.zip"), "--license", "cc-by-4.0"]) == 0
    shown = capsys.readouterr().out
    for words in (
        "exp/spk_tiny/valid.eer.best.pth",
        "license: cc-by-4.0",
        "| all | 3.2 |",
        "dry run: nothing was sent",
    ):
        assert words in shown
    assert "### Speaker verification" in shown and 'from_pretrained("organisation/name")' in shown
    assert upload_command.main(["--package", str(tmp_path / "no.zip"), "--repo", "a/b"]) == 2
    assert upload_command.main(["--package", str(tmp_path / "p.zip"), "--repo", "name"]) == 2
