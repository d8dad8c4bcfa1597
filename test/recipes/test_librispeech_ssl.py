"""egs2/librispeech/ssl1: data preparation on tiny trees, sizes and schedules of the configurations, and every stage."""

import json

import pytest
import torch
import yaml
from corpora import ROOT, checkout, data_prep, dry_run_readme, librispeech, run

from espnet_ext.datadir import DataDir
from espnet_ext.datadir.alignment import read_intervals
from espnet_ext.ssl.encoder import HubertEncoder
from espnet_ext.ssl.hugging_face import parameters_of
from espnet_ext.ssl.model import HubertPretraining
from espnet_ext.train.schedule import EpochSchedule

RECIPE = ROOT / "egs2/librispeech/ssl1"
CONFIGS = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((RECIPE / "conf").glob("train*.yaml"))}
PARTS = {
    "train-clean-100": {100: [2, 2], 101: [3]},
    "train-clean-360": {102: [2]},
    "train-other-500": {103: [2], 104: [2]},
    "dev-clean": {200: [2], 201: [2]},
    "dev-other": {300: [3]},
}
GRID = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 0.5
tiers? <exists>
size = 1
item []:
    item [1]:
        class = "IntervalTier"
        name = "phones"
        xmin = 0
        xmax = 0.5
        intervals: size = 3
        intervals [1]:
            xmin = 0
            xmax = 0.1
            text = ""
        intervals [2]:
            xmin = 0.1
            xmax = 0.3
            text = "AH0"
        intervals [3]:
            xmin = 0.3
            xmax = 0.5
            text = "S"
"""


def align(corpus, folder, leave_out=()):
    """TextGrids of all utterances but some, in the layout of the corpus."""
    for path in corpus.glob("*/*/*/*.flac"):
        if path.stem not in leave_out:
            grid = (folder / path.relative_to(corpus)).with_suffix(".TextGrid")
            grid.parent.mkdir(parents=True, exist_ok=True)
            grid.write_text(GRID)
    return folder


def prepare(*options):
    return data_prep("librispeech/ssl1").main([str(option) for option in options])


def test_sets_are_the_official_parts(tmp_path):
    corpus = librispeech(tmp_path / "offi ciel é", PARTS)
    grids = align(corpus, tmp_path / "aligned", leave_out=("200-20000-0001",))
    assert prepare("--corpus", corpus, "--out", tmp_path / "plain") == 0
    assert not DataDir(tmp_path / "plain/dev").has("utt2phones")
    # Of ten utterances one may be without alignment, not of two.
    assert prepare("--corpus", corpus, "--out", tmp_path / "data", "--alignments", grids) == 2
    align(corpus, grids)
    assert prepare("--corpus", corpus, "--out", tmp_path / "data", "--alignments", grids) == 0
    sets = {path.name: DataDir(path) for path in (tmp_path / "data").iterdir()}
    assert {name: sorted(data.spk2utt) for name, data in sets.items()} == {
        "train_960": ["100", "101", "102", "103", "104"],
        "dev": ["200", "201", "300"],
        "dev_clean": ["200", "201"],
        "dev_other": ["300"],
    }
    assert len(sets["train_960"].wav_scp) == 13 and not sets["train_960"].has("text")  # not all have a transcript
    assert sets["dev"].text["300-30000-0002"] == "SOME WORDS"
    assert sets["dev"].table("utt2session")["300-30000-0002"] == "300-30000"
    phones = read_intervals(tmp_path / "data/train_960/utt2phones")["100-10000-0000"]
    assert phones == [("sil", 0, 0.1), ("AH", 0.1, 0.3), ("S", 0.3, 0.5)]


def test_a_few_utterances_without_alignment_are_unknown(tmp_path, caplog):
    corpus = librispeech(tmp_path, PARTS)
    grids = align(corpus, tmp_path / "aligned", leave_out=("103-10300-0000",))
    options = ("--train_parts", "train-clean-100,train-clean-360,train-other-500", "--out", tmp_path / "data")
    assert prepare("--corpus", corpus, "--alignments", grids, *options) == 0
    assert "1 of 13 utterances have no alignment (103-10300-0000, …)" in caplog.text
    phones = read_intervals(tmp_path / "data/train_960/utt2phones")["103-10300-0000"]
    assert [phone.label for phone in phones] == ["spn"]


@pytest.mark.parametrize(
    "options, message",
    [
        (["--train_parts", "train-clean"], "no part named train-clean; choose from dev-clean dev-other"),
        (["--train_parts", "dev-clean", "--dev_parts", "dev-clean"], "dev-clean is in --train_parts and in"),
        (["--dev_parts", "test-clean"], "test-clean holds no reader/chapter/*.flac"),
        (["--alignments", "/nowhere"], "--alignments /nowhere: holds no *.TextGrid"),
        (["--corpus", "/nowhere"], "/nowhere/SPEAKERS.TXT is missing"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, options, message):
    corpus = librispeech(tmp_path, PARTS)
    assert prepare("--corpus", corpus, "--out", tmp_path / "data", *options) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and not (tmp_path / "data").exists()


def build(name, streams=(500,)):
    with torch.device("meta"):
        encoder = HubertEncoder(**CONFIGS[name]["encoder_conf"])
        return HubertPretraining(encoder, streams, **CONFIGS[name]["model_conf"])


def test_sizes_are_the_papers():
    for name in ("train_hubert_base_it1", "train_hubert_base"):
        assert round(parameters_of(build(name).encoder) / 1e6, 2) == 94.37
    assert round(parameters_of(build("train_hubert_base")) / 1e6, 2) == 94.70
    four = build("train_hubert_base", [500] * 4)
    assert four.weights == [0.25] * 4
    more = (parameters_of(four) - parameters_of(build("train_hubert_base"))) / 3
    assert more == 768 * 256 + 256 + 500 * 256 and round(parameters_of(four) / 1e6, 2) == 95.67


@pytest.mark.parametrize("name, theirs", [("base", "hubert_pretrain_base"), ("large", "hubert_pretrain_large")])
def test_sizes_are_torchaudios(monkeypatch, name, theirs):
    """Weight by weight, with their heads of 100 units (Base) and 500 (Large)."""
    import torchaudio
    from torchaudio.models.wav2vec2 import components

    monkeypatch.setattr(components, "_init_transformer_params", lambda module: None)
    with torch.device("meta"):
        peer = getattr(torchaudio.models, theirs)()
    units = peer.logit_generator.label_embeddings.shape[0]
    ours = build(f"train_hubert_{name}", [units])
    assert sorted(p.shape for p in ours.parameters()) == sorted(p.shape for p in peer.parameters())


@pytest.mark.parametrize(
    "name, batch_s, steps, warmup, lr",
    [
        ("train_hubert_base_it1", 2800, 250_000, 20_000, 5e-4),
        ("train_hubert_base", 2800, 400_000, 32_000, 5e-4),
        ("train_hubert_large", 7200, 400_000, 32_000, 1.5e-3),
    ],
)
def test_steps_and_learning_rate(name, batch_s, steps, warmup, lr):
    config = CONFIGS[name]
    assert config["batch_bins"] * config["accum_grad"] == batch_s * 16000
    per_epoch = config["num_iters_per_epoch"] // config["accum_grad"]
    assert per_epoch * config["max_epoch"] == steps
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config["optim_conf"]["lr"])
    schedule = EpochSchedule(
        optimizer, **config["scheduler_conf"], iters_per_epoch=per_epoch, num_epochs=config["max_epoch"]
    )
    rates = [schedule.lr_at(step, lr) for step in (0, warmup - 1, warmup, warmup + (steps - warmup) // 2, steps - 1)]
    assert rates == pytest.approx([lr / warmup, lr, lr, lr / 2, 0], rel=1e-4, abs=1e-12)
    assert config["rank_conf"]["every_steps"] % per_epoch == 0  # measured at the end of an epoch


def test_iterations_differ_in_their_length_alone():
    """And other numbers of GPUs change both alike: the same steps per epoch."""
    first, second = (dict(CONFIGS[name]) for name in ("train_hubert_base_it1", "train_hubert_base"))
    assert first.pop("max_epoch") == 100 and second.pop("max_epoch") == 160
    assert first.pop("scheduler_conf") == {"shape": "linear", "warmup_epochs": 8}
    assert second.pop("scheduler_conf") == {"shape": "linear", "warmup_epochs": 12.8}
    assert first == second


SMALL = (
    "--max_epoch 1 --num_iters_per_epoch 2 --accum_grad 1 --num_workers 0 --batch_bins 60000 --min_s 0.1 "
    "--scheduler_conf warmup_epochs=0.5 --encoder_conf hidden_size=16 --encoder_conf num_attention_heads=2 "
    "--encoder_conf num_hidden_layers=3 --encoder_conf intermediate_size=16 --encoder_conf "
    "conv_dim=[8,8,8,8,8,8,12] --encoder_conf num_conv_pos_embeddings=8 --encoder_conf "
    "num_conv_pos_embedding_groups=2 --rank_conf num_utterances=4 --rank_conf every_steps=1"
)
LITTLE = (
    f'--nj 1 --ngpu 0 --train_args "{SMALL}" --num_units "8 6" --max_frames 400 --kmeans_opts "--iterations 5" '
    "--num_rank_utts 4 --num_probe_utts 12"
)


@pytest.mark.timeout(1200)
def test_every_stage(tmp_path):
    corpus = librispeech(tmp_path / "corpus", PARTS)
    grids = align(corpus, tmp_path / "aligned")
    recipe = checkout(tmp_path / "a recipe", "librispeech/ssl1") / "egs2/librispeech/ssl1"
    run(
        f"./run.sh --corpus '{corpus}' --local_data_opts '--alignments {grids}' --test_sets dev_clean "
        f'--layers "- 2" {LITTLE}',
        recipe,
    )
    exp = recipe / "exp/ssl_train_hubert_base"
    assert (exp / "it1/centroids/quantizer.json").is_file() and (exp / "hf/model.safetensors").is_file()
    streams = json.loads((exp / "it2/centroids/quantizer.json").read_text())["streams"]
    assert [(stream["layer"], stream["num_units"]) for stream in streams] == [(2, 6)]
    assert (exp / "units_dev_clean/RESULTS.md").is_file() and (exp / "it2/study_dev_clean/RESULTS.md").is_file()
    assert (exp / "it2/model/rank.csv").is_file() and (exp / "s3prl.pt").is_file()


def test_commands_of_the_readme(tmp_path):
    told = dry_run_readme(checkout(tmp_path, "librispeech/ssl1") / "egs2/librispeech/ssl1")
    assert len(told) == 9
    assert all("would run stage 6 train" in text for text in told.values())
