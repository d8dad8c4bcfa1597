"""``check_iterations``: a plan is refused for what its fits and trainings would be refused for, before the first."""

import pytest
import torch
import yaml

from espnet_ext.bin.check_iterations import main as check_iterations
from espnet_ext.ssl.encoder import HubertEncoder
from espnet_ext.ssl.hugging_face import write_folder

TINY = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16,
    "conv_dim": [8, 8, 12], "conv_kernel": [40, 6, 4], "conv_stride": [16, 5, 4], "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}  # fmt: skip
ONE = {"features": "mfcc", "layers": "-", "quantizer": "kmeans", "num_units": "9", "levels": "1"}
TWO = ONE | {"features": "previous", "layers": "2"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Configurations, and an encoder that somebody else trained."""
    folder = tmp_path_factory.mktemp("it's a plän")
    for name, conf in (
        ("a", {}),
        ("deep", {"encoder_conf": {"num_hidden_layers": 3}}),
        ("fast", {"encoder_conf": {"conv_stride": [16, 5, 2]}}),
        ("typo", {"max_epochs": 3}),
        ("heads", {"encoder_conf": {"num_attention_heads": 3}}),
        ("spans", {"preprocessor_conf": {"mask_prob": 2.0}}),
        ("streams", {"model_conf": {"stream_weights": [1, 2]}}),
    ):
        whole = {"encoder_conf": TINY | conf.pop("encoder_conf", {}), **conf}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(whole))
    write_folder(HubertEncoder(**TINY), TINY, folder / "hf")
    return folder


def call(place, *iterations, options=()):
    """Check a plan; iteration i is what ``iterations[i]`` says, with configuration ``a`` where it says none."""
    words = ["--exp", str(place / "exp")]
    for number, settings in enumerate(iterations, 1):
        settings = {"train_config": "a"} | settings
        settings["train_config"] = place / f"{settings['train_config']}.yaml"
        words += ["--iteration", str(number), *(f"{key}={value}" for key, value in settings.items())]
    return check_iterations([*words, *options])


def test_plans_that_are_in_order(place, capsys):
    """Every layer there is, more layers by an option, an encoder from elsewhere, one that is going to be trained."""
    torch.manual_seed(0)
    drawn = torch.rand(1)
    torch.manual_seed(0)
    for layer in ("0", "1", "2", "0,2"):
        assert call(place, ONE, TWO | {"layers": layer}) == 0
    assert torch.equal(torch.rand(1), drawn)  # no weights are drawn
    assert call(place, ONE, TWO | {"layers": "5"}, options=["--train_args=--encoder_conf num_hidden_layers=5"]) == 0
    assert call(place, ONE | {"train_config": "deep"}, TWO | {"layers": "3"}) == 0
    assert call(place, ONE, TWO | {"features": f"hf:{place / 'hf'}", "layers": "2,1", "num_units": "4,5"}) == 0
    assert call(place, ONE, TWO | {"features": place / "exp/it1/model/3epoch.pth", "layers": "9"}) == 0
    assert call(place, ONE, TWO, TWO | {"quantizer": "random_projection", "num_units": "8192", "levels": "2"}) == 0
    assert call(place, ONE, TWO | {"layers": "1,2", "train_config": "streams"}) == 0
    assert call(place, ONE, TWO, options=["--warm_start", "true"]) == 0
    assert not (place / "exp").exists() and "iterations 1, 2: nothing is wrong" in capsys.readouterr().out


@pytest.mark.parametrize(
    "change, options, message",
    [
        ({"layers": "3"}, [], "--layers: the encoder of iteration 1 has the layers 0 (input of the first) to 2; there"),
        ({"layers": "-1"}, [], "there is no -1"),
        ({"layers": "-"}, [], "to 2; give at least one"),
        ({"layers": "2"}, ["--train_args=--encoder_conf num_hidden_layers=1"], "to 1; there is no 2"),
        ({"layers": "1,1"}, [], "--layers: 1 is given twice"),
        ({"layers": "two"}, [], "whole numbers"),
        ({"features": "hf:./nowhere/hf"}, [], "there is no folder ./nowhere/hf"),
        ({"features": "nowhere"}, [], "nowhere: no such encoder; give hf:"),
        ({"features": "HF", "layers": "3"}, [], "to 2; there is no 3"),
        ({"features": "logmel:x", "layers": "-"}, [], "x is no number of frames to stack"),
        ({"features": "mfcc"}, [], "features mfcc have none"),
        ({"features": "logmel:3", "layers": "-"}, [], "--features logmel:3: labels at 33.3333 Hz do not go with"),
        ({"train_config": "fast"}, [], "--features previous: labels at 50 Hz do not go with frames every 160 samples"),
        ({"num_units": "501"}, ["--max_frames", "500"], "--num_units: 501 centroids cannot be fitted to 500 frames"),
        ({"num_units": "4,5"}, [], "--num_units: 2 numbers for 1 layer(s)"),
        ({"num_units": "1"}, [], "--num_units: 1 is not from 2 to 65536"),
        ({"levels": "0"}, [], "--levels 0: must be above 0"),
        ({"quantizer": "pca"}, [], "quantizer must be kmeans, random_projection; got pca"),
        ({"train_config": "none"}, [], "none.yaml: no such file"),
        ({"train_config": "typo"}, [], "unknown key 'max_epochs'; did you mean max_epoch?"),
        ({"train_config": "heads"}, [], "hidden_size 16 is not a multiple of num_attention_heads 3"),
        ({"train_config": "spans"}, [], "mask_prob should lie in (0, 1]"),
        ({"train_config": "streams"}, [], "stream_weights has 2 numbers for 1 stream(s)"),
        ({"train_config": "deep"}, ["--warm_start", "true"], "--warm_start true: "),
    ],
)
def test_what_the_second_iteration_is_refused_for(place, capsys, change, options, message):
    change = {key: f"hf:{place / 'hf'}" if value == "HF" else value for key, value in change.items()}
    assert call(place, ONE, TWO | change, options=options) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("check_iterations: error: iteration 2: ") and message in said and "\n" not in said


def test_mistakes_of_a_call(place, capsys):
    for words, message in (
        (["one", "features=mfcc"], "--iteration one: give its number and a KEY=WORD for each of train_config, "),
        (["1", "features=mfcc"], "--iteration 1: give its number and"),
    ):
        assert check_iterations(["--exp", "exp", "--iteration", *words]) == 2
        assert message in capsys.readouterr().err
