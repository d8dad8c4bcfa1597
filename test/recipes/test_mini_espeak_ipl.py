"""egs2/mini_espeak/ipl1, smaller, from i-vectors to the package; the README's commands."""

import json

from corpora import checkout, dry_run_readme, run

from espnet_ext.inference.spk import SpeakerEmbedder

SMALL = (
    '--local_data_opts "--num_speakers 12 --num_utts 15 --num_test_speakers 10 --num_test_utts 8" --num_bootstrap 20 '
    '--num_gaussians 16 --ivector_dim 20 --cluster_candidates "8 12 20" --num_kmeans 40 --min_utterances 6 '
    '--num_dev_utterances 16 --max_rounds 1 --train_args "--max_epoch 3"'
)


def test_from_ivectors_to_a_package(tmp_path):
    recipe = checkout(tmp_path / "dé mo", "mini_espeak") / "egs2/mini_espeak/ipl1"
    told = run(f"./run.sh {SMALL}", recipe)
    exp = recipe / "exp/ipl_ivector_train_ecapa"
    rows = json.loads((exp / "results.json").read_text())["results"]
    eers = {row["where"]["round"]: row["value"] for row in rows if row["metric"] == "eer"}
    assert eers.keys() == {"MFCC statistics", "0", "1"}
    assert eers["0"] < eers["MFCC statistics"], eers  # that a student gains on its start takes longer: see README.md
    assert "oracle: EER %, test, all" in told and "agreement between seeds above chance" in told
    assert (exp / "rounds.png").stat().st_size > 5000
    embedder = SpeakerEmbedder.from_pretrained(str(recipe / "exp/ipl_ivector_train_ecapa.zip"))
    assert embedder(str(next((recipe / "data/audio/test").rglob("*.flac")))).shape == (64,)


def test_commands_of_the_readme(tmp_path):
    recipe = checkout(tmp_path, "mini_espeak/ipl1") / "egs2/mini_espeak/ipl1"
    told = dry_run_readme(recipe)
    assert "./run.sh" in told and len(told) == 7
    assert all("would run stage 5 loop" in text or "--ipl_tag ablation_" in text for text in told.values())
