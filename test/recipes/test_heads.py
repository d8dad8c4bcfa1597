"""run_heads.sh of a recipe on a tiny corpus and a tiny random encoder: every stage, and an encoder that is missing."""

import json
import os
import re
import subprocess
import sys

import pytest
from corpora import ROOT, checkout, librispeech, run
from random_encoders import make

TRAIN = {reader: [1] * 4 for reader in range(100, 106)}
TEST = {reader: [2, 2] for reader in range(200, 207)}
FAST = (
    "--max_epoch 1 --num_iters_per_epoch 2 --batch_size 6 --num_workers 0 --use_tensorboard false "
    "--preprocessor_conf target_duration=0.5"
)


@pytest.fixture
def recipe(tmp_path):
    return checkout(tmp_path / "he re", "mini_librispeech/spk1", "mini_espeak/spk1") / "egs2/mini_librispeech/spk1"


@pytest.mark.timeout(600)
def test_every_stage(recipe, tmp_path):
    corpus = librispeech(tmp_path / "official é", {"train-clean-100": TRAIN, "test-clean": TEST})
    make(recipe / "tiny", "hubert")
    told = run(
        f"./run_heads.sh --corpus '{corpus}' --local_data_opts '--num_dev_speakers 3 --num_test_speakers 4' "
        "--run_opts '--nj 1 --num_bootstrap 20 --test_trials_opts=--conditions=cross_session' --upstreams ./tiny "
        "--heads conf/train_ssl_light.yaml --baseline '' --train_fraction '0.5 1' "
        f"--learning_rates '0.02' --train_args '{FAST}' --probe_args '--num_bootstrap 20'",
        recipe,
    )
    exp = recipe / "exp"
    rows = json.loads((exp / "heads/results.json").read_text())["results"]
    trained = {
        (row["where"]["head"], row["where"]["fraction"]): row["value"] for row in rows if "trained" in row["metric"]
    }
    assert set(trained) == {("ssl_light", "0.5"), ("ssl_light", "1"), ("ssl_zero_shot", "1")}
    assert trained["ssl_light", "0.5"] == trained["ssl_light", "1"] == 4 + 2 * 24 * 64 + 64
    assert trained["ssl_zero_shot", "1"] == 0
    assert "MFCC statistics" in told and (exp / "heads/curve.png").is_file()
    assert (exp / "heads/ssl_light_tiny.lr").read_text() == "0.02\n"
    whole, half = (
        (recipe / "dump" / name / "utt2spk").read_text().splitlines() for name in ("train", "train_utterance0.5")
    )
    assert set(half) < set(whole) and len(half) == round(len(whole) / 2)
    assert {line.split()[1] for line in half} == {line.split()[1] for line in whole}
    config = (exp / "spk_ssl_light_tiny_lr0.02_utterance0.5/config.yaml").read_text()
    assert "train_dir: dump/train_utterance0.5" in config and "lr: 0.02" in config
    layer = (exp / "heads/probe_tiny/best_layer").read_text().strip()
    assert f"layer: {layer}\n" in (exp / "spk_ssl_zero_shot_tiny/config.yaml").read_text()


def test_an_encoder_that_is_not_there_is_one_line(recipe):
    for options, says in (
        ("", "../../mini_espeak/ssl1/run.sh makes it"),
        ("--upstreams ''", "no encoder; give --upstreams"),
    ):
        done = subprocess.run(
            ["bash", "-c", f"./run_heads.sh {options}"],
            cwd=recipe,
            env={**os.environ, "PYTHON": sys.executable},
            capture_output=True,
            text=True,
        )
        lines = [line for line in done.stderr.splitlines() if "(heads.sh)" not in line]
        assert done.returncode == 2 and len(lines) == 1 and says in lines[0], done.stderr


def test_a_configuration_names_the_recipe_that_makes_its_encoder(recipe, monkeypatch, capsys):
    from espnet_ext.bin.train import main

    monkeypatch.chdir(recipe)
    options = ["--config", "conf/train_ssl_light.yaml", "--output_dir", "exp/x", "--dry_run", "true", "--ngpu", "0"]
    assert main(["spk", *options]) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("./run.sh in ../../mini_espeak/ssl1 makes it")


def test_parameters_of_the_readme_are_those_of_its_command(capsys):
    from espnet_ext.bin.head_parameters import main

    recipe = ROOT / "egs2/mini_espeak/spk1"
    readme = (recipe / "README.md").read_text(encoding="utf-8")
    names = re.findall(
        r"^\| `(conf/train_ssl_\w+\.yaml)` \|.*\| ([\d,]+)(?: trained, ([\d,]+) used)? \|$", readme, re.M
    )
    assert len(names) == 3
    for name, trained, used in names:
        assert main([str(recipe / name), "--upstream", "96x4"]) == 0
        row = capsys.readouterr().out.splitlines()[-2]
        assert [cell.strip() for cell in row.split("|")[3:5]] == [trained, used or trained]
