"""egs2/mini_espeak/ssl1 from nothing to an encoder, with little of everything, by the commands of its README."""

import json
import re
import sys

import pytest
import torch
from corpora import ROOT, checkout, run

README = (ROOT / "egs2/mini_espeak/ssl1/README.md").read_text(encoding="utf-8")
FEW = "--num_speakers 5 --num_utts 4 --num_test_speakers 2 --num_test_utts 3 --nj 1"
SMALL = (
    "--max_epoch 1 --num_workers 0 --batch_bins 200000 --encoder_conf hidden_size=16 --encoder_conf "
    "num_attention_heads=2 --encoder_conf intermediate_size=16 --encoder_conf conv_dim=[8,8,8,12] --rank_conf "
    "every_steps=2 --rank_conf num_utterances=8"
)
LITTLE = (
    f'--local_data_opts "{FEW}" --train_args "{SMALL}" --num_dev_speakers 2 --nj 1 --num_units "8 6" '
    "--max_frames 2000 --num_rank_utts 8 --num_probe_utts 8"
)


@pytest.mark.timeout(1200)
def test_commands_of_the_readme(tmp_path, monkeypatch):
    recipe = checkout(tmp_path / "a recipe", "mini_espeak") / "egs2/mini_espeak/ssl1"
    every_stage, variant = re.findall(r"^```bash\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    said = run(every_stage.replace("./run.sh  ", f"./run.sh {LITTLE}", 1), recipe)
    assert "PNMI" in said and "iteration 1: mfcc" in said and "iteration 2: layer2" in said and "usage: ssl.sh" in said
    exp = recipe / "exp/ssl_train_hubert"
    files = ["config.json", "model.safetensors", "preprocessor_config.json"]
    for folder in (exp / "it1/hf", exp / "hf"):
        assert sorted(path.name for path in folder.iterdir()) == files
    assert (exp / "hf/model.safetensors").read_bytes() == (exp / "it2/hf/model.safetensors").read_bytes()
    assert (exp / "s3prl.pt").is_file()
    assert "masked accuracy %" in said and (exp / "it2/probe_test/results.json").is_file()
    assert not (exp / "it1/probe_test").exists() and (recipe / "exp/floors/checkpoints").is_dir()
    assert (exp / "it1/rank/RESULTS.md").is_file() and (exp / "it2/study_test/RESULTS.md").is_file()
    # Once more: the units are there, and nothing is made again.
    before = {path: path.stat().st_mtime_ns for path in exp.rglob("*.ark")}
    run(f"./run.sh {LITTLE} --stage labels --stop_stage labels --start_iter 2", recipe)
    assert "nothing to do" in (exp / "it2/units/test/log/units.1.log").read_text()
    assert {path: path.stat().st_mtime_ns for path in exp.rglob("*.ark")} == before
    # Several layers, and residual levels besides: a stream for each.
    run(variant.replace("\\\n", "").rstrip() + f' {LITTLE} --levels "1 2"', recipe)
    results = json.loads((recipe / "exp/ssl_multi/units_test/results.json").read_text())["results"]
    streams = [result["where"]["stream"] for result in results if result["metric"] == "pnmi"]
    assert streams == [f"layer{layer}_q{level}" for layer in (1, 2, 3) for level in (0, 1)]
    # What units know.
    (probing,) = re.findall(r"^```\n(\S+ fit_units .*?)^```$", README, re.DOTALL | re.MULTILINE)
    command = f"'{sys.executable}' -m espnet_ext.bin.main"
    said = run(probing.replace("../../../.venv/bin/espnet_ext", command).replace("900", "8"), recipe)
    assert re.search(r"^\| 3 .*^\| log-mel energies", said, re.DOTALL | re.MULTILINE)
    # The encoder in Python.
    monkeypatch.chdir(recipe)
    names = {"wav": torch.randn(2, 16000), "lengths": torch.tensor([16000, 9000])}
    exec(re.search(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE).group(1), names)
    assert names["layers"].shape == (4, 2, 49, 16) and names["frames"].tolist() == [49, 27]


def test_the_grid_of_the_readme():
    commands = re.findall(r"^\.\./\.\./\.\./\.venv/bin/espnet_ext (ssl_grid [^#\n]*)", README, re.MULTILINE)
    assert len(commands) == 2
    recipe = ROOT / "egs2/mini_espeak/ssl1"
    for command in commands:
        said = run(f"'{sys.executable}' -m espnet_ext.bin.main {command} --dry_run true", recipe)
        assert "--ssl_tag grid_reference_s0" in said
