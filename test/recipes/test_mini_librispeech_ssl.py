"""egs2/mini_librispeech/ssl1 on a small tree in LibriSpeech's layout: aligned phones, every stage, the README."""

import json
import re

import pytest
from corpora import checkout, librispeech, run

from espnet_ext.datadir import DataDir
from espnet_ext.datadir.alignment import read_intervals

TRAIN = {reader: [1] for reader in range(100, 104)}
TEST = {reader: [2, 2] for reader in range(200, 208)}
SMALL = (
    "--max_epoch 2 --num_workers 0 --batch_bins 50000 --encoder_conf hidden_size=16 --encoder_conf "
    "num_attention_heads=2 --encoder_conf intermediate_size=16 --encoder_conf conv_dim=[8,8,12]"
)


@pytest.mark.timeout(900)
def test_every_stage(tmp_path):
    corpus = librispeech(tmp_path / "official é", {"train-clean-100": TRAIN, "test-clean": TEST})
    recipe = checkout(tmp_path / "here", "mini_librispeech/spk1", "mini_librispeech/ssl1")
    recipe = recipe / "egs2/mini_librispeech/ssl1"
    command = (
        f"./run.sh --corpus '{corpus}' --local_data_opts '--num_dev_speakers 2 --num_test_speakers 3' --nj 1 "
        f"--num_units '8 6' --max_frames 2000 --train_args '{SMALL}' --rank_lists other=dump/test"
    )
    run(f"{command} --stop_stage data", recipe)
    said = run(command, recipe)  # the tables of the first call are made anew
    sets = {name: DataDir(recipe / "data" / name) for name in ("train", "probe", "dev", "test")}
    assert not sets["train"].has("text")
    # Readers of train-clean-100 have no transcript.
    assert {*sets["probe"].utterances} == {utt for utt in sets["train"].utterances if utt[0] == "2"} != set()
    for name in ("probe", "dev", "test"):
        assert (
            list(sets[name].text) == sets[name].utterances == list(read_intervals(recipe / f"data/{name}/utt2phones"))
        )
    for utt in sets["test"].utterances:
        labels = [one.label for one in read_intervals(recipe / "dump/test/utt2phones")[utt] if one.label != "sil"]
        assert sets["test"].table("utt2pronunciation")[utt].replace(" |", "").split() == labels
    speakers = [set(sets[name].spk2utt) for name in ("train", "dev", "test")]
    assert len(set.union(*speakers)) == sum(map(len, speakers))
    exp = recipe / "exp/ssl_train_hubert"
    assert "iteration 1: mfcc" in said and "iteration 2: layer2" in said
    study = json.loads((exp / "it2/study_test/results.json").read_text())["results"]
    assert {row["where"]["list"] for row in study if row["metric"] == "spearman"} == {"dev", "other"}
    assert {row["metric"] for row in study} >= {"probe_phone", "probe_speaker"}
    assert (exp / "hf/model.safetensors").is_file()


def test_the_commands_of_the_readme(tmp_path):
    recipe = checkout(tmp_path / "here", "mini_librispeech/ssl1") / "egs2/mini_librispeech/ssl1"
    readme = (recipe / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    commands = re.findall(r"^(\./run\.sh.*?)(?: +#.*)?$", readme, re.MULTILINE)
    assert len(commands) >= 4
    for command in commands:
        assert "would run stage" in run(f"{command} --dry_run true", recipe)
