"""egs2/mini_espeak/ssl1 from nothing to an encoder, with little of everything; then what a person does next to it."""

import json

import pytest
from corpora import checkout, run

FEW = "--num_speakers 5 --num_utts 4 --num_test_speakers 2 --num_test_utts 2 --nj 1"
SMALL = (
    "--max_epoch 1 --num_workers 0 --batch_bins 200000 --encoder_conf hidden_size=16 --encoder_conf "
    "num_attention_heads=2 --encoder_conf intermediate_size=16 --encoder_conf conv_dim=[8,8,8,16]"
)
RUN = (
    f'./run.sh --local_data_opts "{FEW}" --train_args "{SMALL}" --num_dev_speakers 2 --nj 1 --num_units "8 6" '
    "--max_frames 2000"
)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """The recipe in a checkout of its own."""
    return checkout(tmp_path_factory.mktemp("ssl recipe"), "mini_espeak") / "egs2/mini_espeak/ssl1"


def test_all_stages(recipe):
    said = run(RUN, recipe)
    assert "PNMI" in said and "iteration 2: layer" in said
    exp = recipe / "exp/ssl_train_hubert"
    results = json.loads((exp / "units_test/results.json").read_text())["results"]
    assert {result["where"]["system"] for result in results} == {"iteration 1", "iteration 2"}
    for folder in (exp / "it1/hf", exp / "hf"):
        assert sorted(path.name for path in folder.iterdir()) == [
            "config.json",
            "model.safetensors",
            "preprocessor_config.json",
        ]
    assert (exp / "s3prl.pt").is_file()
    assert (exp / "hf/model.safetensors").read_bytes() == (exp / "it2/hf/model.safetensors").read_bytes()
    # Once more: everything is there, and nothing is trained or labelled again.
    before = {path: path.stat().st_mtime_ns for path in exp.rglob("*.pth")}
    again = run(f"{RUN} --stage labels --start_iter 2", recipe)
    assert "nothing to do" in (exp / "it2/units/test/log/units.1.log").read_text(), again
    assert {path: path.stat().st_mtime_ns for path in exp.rglob("*.pth")} == before


def test_several_layers_and_levels(recipe):
    """A grid point of arXiv 2409.10788: two layers of the first iteration, two residual levels each."""
    run(
        f'{RUN} --start_iter 2 --layers "- 1,2" --levels "1 2" --stage clusters --stop_stage train '
        "--train_config conf/train_hubert.yaml",
        recipe,
    )
    described = json.loads((recipe / "exp/ssl_train_hubert/it2/units/test/units.json").read_text())
    names = [stream["name"] for stream in described["streams"]]
    assert len(names) == 4 and all("_q" in name for name in names)
