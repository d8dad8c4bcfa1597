"""egs2/mini_espeak/ssl1 from nothing to an encoder, with little of everything."""

import json

import pytest
from corpora import checkout, run

FEW = "--num_speakers 5 --num_utts 4 --num_test_speakers 2 --num_test_utts 3 --nj 1"
SMALL = (
    "--max_epoch 1 --num_workers 0 --batch_bins 200000 --encoder_conf hidden_size=16 --encoder_conf "
    "num_attention_heads=2 --encoder_conf intermediate_size=16 --encoder_conf conv_dim=[8,8,8,12] --rank_conf "
    "every_steps=2 --rank_conf num_utterances=8"
)
# The second iteration is a point of the grid of arXiv 2409.10788: two layers of the first, two residual levels each.
RUN = (
    f'./run.sh --local_data_opts "{FEW}" --train_args "{SMALL}" --num_dev_speakers 2 --nj 1 --num_units "8 6" '
    '--max_frames 2000 --layers "- 1,2" --levels "1 2" --num_rank_utts 8 --num_probe_utts 8'
)
STREAMS = ["layer1_q0", "layer1_q1", "layer2_q0", "layer2_q1"]


@pytest.mark.timeout(900)
def test_all_stages(tmp_path):
    recipe = checkout(tmp_path / "a recipe", "mini_espeak") / "egs2/mini_espeak/ssl1"
    said = run(RUN, recipe)
    assert "PNMI" in said and "iteration 1: mfcc" in said and "iteration 2: layer2_q1" in said
    exp = recipe / "exp/ssl_train_hubert"
    results = json.loads((exp / "units_test/results.json").read_text())["results"]
    assert [r["where"]["stream"] for r in results if r["metric"] == "pnmi"] == ["mfcc", *STREAMS]
    files = ["config.json", "model.safetensors", "preprocessor_config.json"]
    for folder in (exp / "it1/hf", exp / "hf"):
        assert sorted(path.name for path in folder.iterdir()) == files
    assert (exp / "hf/model.safetensors").read_bytes() == (exp / "it2/hf/model.safetensors").read_bytes()
    assert (exp / "s3prl.pt").is_file()
    assert (exp / "it1/rank/RESULTS.md").is_file() and (exp / "it2/study_test/RESULTS.md").is_file()
    # Once more: the units are there, and nothing is made again.
    before = {path: path.stat().st_mtime_ns for path in exp.rglob("*.ark")}
    run(f"{RUN} --stage labels --stop_stage labels --start_iter 2", recipe)
    assert "nothing to do" in (exp / "it2/units/test/log/units.1.log").read_text()
    assert {path: path.stat().st_mtime_ns for path in exp.rglob("*.ark")} == before
