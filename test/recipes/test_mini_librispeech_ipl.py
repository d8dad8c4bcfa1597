"""egs2/mini_librispeech/ipl1 on a small tree in LibriSpeech's layout: its commands; no training label matters."""

import json
import os
import random

import numpy as np
import pytest
from corpora import TINY, checkout, librispeech, run

from espnet_ext.datadir import DataDir, read_scp
from espnet_ext.spk.embeddings import EmbeddingTable

TRAIN = {reader: [1] for reader in range(100, 104)}
TEST = {reader: [2, 2] for reader in range(200, 206)}
SMALL = (
    "--num_gaussians 4 --ubm_args '--full_iterations 1' --ivector_dim 4 --ivector_iterations 2 --num_clusters 4 "
    "--min_utterances 2 --piece_s 0.25 --max_rounds 1 --num_dev_utterances 4 --num_bootstrap 5 --nj 1 "
    f"--train_args '{TINY}'"
)


def embeddings(recipe, exp):
    """{(round, set, utterance): vector}; paths in embedding.scp start from the recipe's folder."""
    back, found = os.getcwd(), {}
    os.chdir(recipe)
    try:
        for number in (0, 1):
            for name in ("all_unlabelled", "test"):
                table = EmbeddingTable.read(f"{exp}/r{number}/embeddings/{name}/embedding.scp")
                found |= {(number, name, utt): v for utt, v in zip(table.utterances, table.vectors, strict=True)}
    finally:
        os.chdir(back)
    return found


@pytest.mark.timeout(900)
def test_the_command_of_the_readme_and_labels_of_noise(tmp_path):
    """All training labels replaced by noise: the same embeddings, bit by bit, and another oracle column."""
    corpus = librispeech(tmp_path / "official é", {"train-clean-100": TRAIN, "test-clean": TEST})
    recipe = checkout(tmp_path / "here", "mini_librispeech/spk1", "mini_librispeech/ipl1")
    recipe = recipe / "egs2/mini_librispeech/ipl1"
    options = "--local_data_opts '--num_dev_speakers 2 --num_test_speakers 3'"
    run(f"./run.sh --corpus '{corpus}' {options} --stop_stage trials", recipe)
    sets = {name: DataDir(recipe / "data" / name) for name in ("all", "train", "dev", "test")}
    assert sets["all"].utt2spk == sets["train"].utt2spk | sets["dev"].utt2spk
    assert sets["all"].utt2spk.keys().isdisjoint(sets["test"].utt2spk)
    driver = '"${PYTHON}" -m espnet_ext.bin.ipl_seeds --train all_unlabelled --test test dump/test/trials*'
    more = SMALL.replace('"', '\\"')
    told = run(f'{driver} --seeds 0 --num_bootstrap 5 --options "{more}"', recipe)
    assert "| mean |" in told
    rows = json.loads((recipe / "exp/seeds.json").read_text())["results"]
    assert {row["where"]["condition"] for row in rows} == {"all", "cross_session"}
    labels = read_scp(recipe / "exp/ipl_seed0/r1/train/utt2spk")
    assert all(utt[-2:] in ("~1", "~2") for utt in labels)  # half a second counts as two pieces of 0.25 s
    seen = embeddings(recipe, "exp/ipl_seed0")
    before = read_scp(recipe / "exp/ipl_seed0/r1/pseudo_labels")

    rng = random.Random(0)
    tables = {"wav.scp": sets["all"].wav_scp}
    tables["utt2spk"] = {utt: f"noise{rng.randrange(3)}" for utt in sets["all"].utterances}
    tables["spk2gender"] = {f"noise{k}": rng.choice("fm") for k in range(3)}
    tables["utt2session"] = {utt: f"noise{rng.randrange(3)}" for utt in sets["all"].utterances}
    for name in ("all", "train", "dev"):
        for table in (recipe / "data" / name).iterdir():
            table.unlink()
    DataDir.write(recipe / "data/all", tables)
    (recipe / "exp").rename(recipe / "exp of the true labels")
    run(f"./run.sh --stage format --stop_stage score --ipl_tag noise {SMALL}", recipe)
    assert before == read_scp(recipe / "exp/ipl_noise/r1/pseudo_labels")
    blind = embeddings(recipe, "exp/ipl_noise")
    assert blind.keys() == seen.keys() and all(np.array_equal(blind[key], seen[key]) for key in seen)
    true, noise = (
        {row["metric"]: row["value"] for row in json.loads(path.read_text())["results"]}
        for path in (recipe / "exp of the true labels/ipl_seed0/results.json", recipe / "exp/ipl_noise/results.json")
    )
    assert true["oracle_nmi"] != noise["oracle_nmi"] and true["eer"] == noise["eer"]
