"""Task ``ssl`` from data directories and unit folders to a trained encoder; mistakes in one line."""

import json
import re
import shutil

import numpy as np
import pytest
import soundfile
import torch
import yaml
from tiny_hubert import FRAMES_OF_20_MS, NO_CHANCE
from two_processes import train_by_two

from espnet_ext.bin.export_ssl import main as export
from espnet_ext.bin.train import main as train
from espnet_ext.datadir import DataDir
from espnet_ext.datadir.tables import read_scp, write_scp
from espnet_ext.errors import UserError
from espnet_ext.inference.checkpoints import find_checkpoints
from espnet_ext.inference.linear_probe import ClassStatistics
from espnet_ext.ssl.geometry import Geometry
from espnet_ext.ssl.units import write_units

K = 5
CONFIG = {
    "encoder_conf": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "conv_dim": [16, 16, 16, 24],
        **FRAMES_OF_20_MS,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
        **NO_CHANCE,
        "feature_grad_mult": 1.0,
    },
    "model_conf": {"final_size": 16, "embedding_init": "normal", "unmasked_weight": 0.5, "penalty_weight": 0.1},
    "preprocessor_conf": {"max_s": 1.2, "mask_length": 3},
    "optim_conf": {"lr": 5.0e-3},
    "scheduler": "epochs",
    "batch_bins": 80_000,
    "max_epoch": 8,
    "num_workers": 0,
}


def melody(rng):
    """A second and more of tones, each a fifth of a second long: float32 samples, and the tone of every 320."""
    tones = rng.integers(0, K, 8)
    ids = np.repeat(tones, 10)[: rng.integers(50, 80)]
    pitch_hz = 200.0 * 1.7 ** np.repeat(ids, 320)
    wav = 0.2 * np.sin(2 * np.pi * np.cumsum(pitch_hz) / 16000) + 0.01 * rng.standard_normal(len(pitch_hz))
    return wav.astype(np.float32), ids


def make_set(folder, name, count, seed, quantizer="q1", streams=("tone",)):
    """A data directory and its units: streams of the same ids."""
    rng = np.random.default_rng(seed)
    tables = {"wav.scp": {}, "utt2spk": {}, "utt2num_samples": {}}
    places = {}
    units_dir = folder / f"{name}_units"
    units_dir.mkdir(parents=True)
    with open(units_dir / "u.ark", "wb") as ark:
        for number in range(count):
            utt = f"{name}{number:02d}"
            wav, ids = melody(rng)
            path = folder / f"{utt}.wav"
            soundfile.write(path, wav, 16000)
            tables["wav.scp"][utt], tables["utt2spk"][utt] = str(path), "s"
            tables["utt2num_samples"][utt] = len(wav)
            ark.write(f"{utt} ".encode())
            places[utt] = f"{units_dir / 'u.ark'}:{ark.tell()}"
            labels = ids[: Geometry().frames(len(wav))]
            write_units(ark, np.repeat(labels[:, None], len(streams), axis=1).astype(np.uint16))
    write_scp(units_dir / "units.scp", places)
    describe(units_dir, quantizer, streams)
    DataDir.write(folder / name, tables)


def describe(units_dir, quantizer, streams=("tone",), hop=320):
    streams = [{"name": name, "num_units": K, "layer": None, "level": 0} for name in streams]
    content = {"streams": streams, "hop": hop, "field": 400, "quantizer": quantizer}
    (units_dir / "units.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tones and units")
    make_set(folder, "train", 40, 0)
    make_set(folder, "dev", 8, 1)
    (folder / "train.yaml").write_text(yaml.safe_dump(CONFIG))
    return folder


def options(corpus, out, **changes):
    given = {
        "config": corpus / "train.yaml",
        "output_dir": out,
        "train_dir": corpus / "train",
        "dev_dir": corpus / "dev",
        "train_units": corpus / "train_units",
        "dev_units": corpus / "dev_units",
        "ngpu": 0,
        **changes,
    }
    return ["ssl", *(word for key, value in given.items() for word in (f"--{key}", str(value)))]


def results_of(out):
    """What the validations of a training found, an epoch each, from its checkpoint."""
    stats = torch.load(out / "checkpoint.pth", weights_only=False)["reporter"]["stats"]
    return [stats[epoch]["valid"] for epoch in sorted(stats)]


def best_of(out):
    return out / "valid.loss_m.best.pth"


def tones_found(encoder, corpus):
    """Share of the dev frames whose tone a linear discriminant of the last layer finds, fitted to the training set."""
    from espnet_ext.ssl.units import read_units

    statistics = ClassStatistics(encoder.output_size(), K)
    right = []
    for name in ("train", "dev"):
        data, classifier = DataDir(corpus / name), None if name == "train" else statistics.fit()
        for utt, place in read_scp(corpus / f"{name}_units" / "units.scp").items():
            wav, ids = torch.from_numpy(data.audio(utt))[None], read_units(place)[:, 0]
            with torch.no_grad():
                frames = encoder(wav).last[0, : len(ids)].numpy()
            if classifier is None:
                statistics.add(frames, ids)
            else:
                right.append(classifier(frames) == ids)
    return np.concatenate(right).mean()


def test_a_tiny_model_learns(corpus, tmp_path, capsys):
    """Masked accuracy rises above the majority class; resumed it goes on; exported it loads as an upstream."""
    assert train([*options(corpus, tmp_path / "e"), "--max_epoch", "2"]) == 0, capsys.readouterr().err
    assert train(options(corpus, tmp_path / "e")) == 0, capsys.readouterr().err
    accuracy = [stats["acc_m"] for stats in results_of(tmp_path / "e")]
    assert len(accuracy) == 8
    from espnet_ext.ssl.units import read_units

    ids = np.concatenate([read_units(place) for place in read_scp(corpus / "dev_units" / "units.scp").values()])
    majority = np.bincount(ids[:, 0]).max() / len(ids)
    assert max(accuracy) > majority + 0.1, (accuracy, majority)
    # It has listened: below what the counts of the tones alone give, and a linear look finds more than at the start.
    share = np.bincount(ids[:, 0]) / len(ids)
    assert min(stats["loss_m"] for stats in results_of(tmp_path / "e")) < -(share * np.log(share)).sum() - 0.05
    begun, best = find_checkpoints([str(tmp_path / "e")])[0], find_checkpoints([str(best_of(tmp_path / "e"))])[0]
    assert begun.step == 0
    before, after = (tones_found(one.open("cpu"), corpus) for one in (begun, best))
    assert after > before + 0.03, (before, after)
    s3prl = tmp_path / "hubert.pt"
    assert export(["--exp", str(tmp_path / "e"), "--out", str(tmp_path / "hf"), "--s3prl", str(s3prl)]) == 0
    with pytest.MonkeyPatch.context() as patch:

        def cannot(*_):
            raise UserError("cannot be said there")

        patch.setattr("espnet_ext.ssl.s3prl_format.write_s3prl", cannot)
        more = ["--out", str(tmp_path / "without"), "--s3prl", str(tmp_path / "no.pt")]
        assert export(["--exp", str(tmp_path / "e"), *more]) == 2
        assert (tmp_path / "without" / "model.safetensors").is_file()  # what s3prl cannot express is there all the same
    broken = torch.load(tmp_path / "e" / "valid.loss_m.best.pth")
    broken["encoder.masked_spec_embed"][3] = float("nan")
    torch.save(broken, tmp_path / "e" / "broken.pth")
    assert export(["--exp", str(tmp_path / "e"), "--model_file", "broken.pth", "--out", str(tmp_path / "no")]) == 2
    assert (
        "broken.pth: encoder.masked_spec_embed holds NaN" in capsys.readouterr().err and not (tmp_path / "no").exists()
    )
    from espnet_ext.upstream.load import load_upstream

    upstream = load_upstream(f"hf:{tmp_path / 'hf'}").eval()
    states, frames = upstream.hidden_states(torch.randn(2, 8000), torch.tensor([8000, 5000]))
    assert states.shape == (3, 2, 24, 32) and frames.tolist() == [24, 15]
    by_s3prl = load_upstream(f"s3prl:hubert_local:{s3prl}").eval()
    wav = torch.randn(1, 8000)
    one, other = (up.hidden_states(wav, torch.tensor([8000]))[0][-1, 0] for up in (upstream, by_s3prl))
    torch.testing.assert_close(one, other[: len(one)], atol=1e-4, rtol=0)


def test_two_folders_and_three_streams(corpus, tmp_path, capsys):
    """Streams of several folders have a head each; at 100 Hz every second label counts."""
    for name in ("train", "dev"):
        shutil.copytree(corpus / f"{name}_units", tmp_path / f"{name}_fast")
        places = {}
        with open(tmp_path / f"{name}_fast" / "fast.ark", "wb") as ark:
            from espnet_ext.ssl.units import read_units

            for utt, place in read_scp(corpus / f"{name}_units" / "units.scp").items():
                ids = np.repeat(read_units(place), 2, axis=0)
                ark.write(f"{utt} ".encode())
                places[utt] = f"{tmp_path / f'{name}_fast' / 'fast.ark'}:{ark.tell()}"
                write_units(ark, np.concatenate([ids, ids], axis=1))
        write_scp(tmp_path / f"{name}_fast" / "units.scp", places)
        describe(tmp_path / f"{name}_fast", "q2", ("tone", "again"), hop=160)
    arguments = options(corpus, tmp_path / "e") + ["--max_epoch", "1"]
    for name in ("train", "dev"):
        place = arguments.index(f"--{name}_units") + 2
        arguments.insert(place, str(tmp_path / f"{name}_fast"))
    assert train(arguments) == 0, capsys.readouterr().err
    assert "streams: tone (5), tone_ (5), again (5)" in capsys.readouterr().out
    assert {"acc_m_tone", "acc_m_tone_", "acc_m_again"} <= set(results_of(tmp_path / "e")[0])
    state = torch.load(tmp_path / "e" / "1epoch.pth", weights_only=True)
    assert [state[f"heads.{head}.label_embeddings"].shape[0] for head in range(3)] == [5, 5, 5]


def error_of(arguments, capsys):
    assert train(arguments) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return next(line for line in said.splitlines() if ": error: " in line)


def test_mistakes(corpus, tmp_path, capsys):
    def wrong(**changes):
        return error_of(options(corpus, tmp_path / "e", **changes), capsys)

    assert "make_units" in wrong(train_units=tmp_path / "none")
    assert "no utt2num_samples" not in wrong(batch_bins=100)
    assert "batch_bins" in wrong(batch_bins=100)
    assert "none of 40 utterances with units has 9 s (--min_s)" in wrong(min_s=9)
    assert "no units of 40 of 40" in wrong(train_units=corpus / "dev_units")
    shutil.copytree(corpus / "dev_units", tmp_path / "other")
    describe(tmp_path / "other", "q9")
    assert "different centroids" in wrong(dev_units=tmp_path / "other")
    no_dev = [word for word in options(corpus, tmp_path / "e") if "dev_units" not in word]
    assert "no data to validate on: give --dev_units" in error_of(no_dev, capsys)
    assert "has no key 'hiden_size'; did you mean hidden_size?" in error_of(
        [*options(corpus, tmp_path / "e"), "--encoder_conf", "hiden_size=3"], capsys
    )
    assert "has no key 'penalty'; did you mean penalty_weight?" in error_of(
        [*options(corpus, tmp_path / "e"), "--model_conf", "penalty=3"], capsys
    )
    for option, value, said in [
        ("preprocessor_conf", "max_s=abc", "units: max_s is 'abc'; it should be a number"),
        ("preprocessor_conf", "mask_len=3", "did you mean mask_length? (keys: max_s, mask_prob, mask_length"),
        ("encoder_conf", "hidden_size=2.5", "hubert: hidden_size is 2.5; it should be a whole number"),
        ("encoder_conf", "conv_bias=1", "conv_bias is 1; it should be true or false"),
        ("encoder_conf", "conv_dim=5", "hubert: conv_dim is 5; it should be a list, each a whole number"),
        ("encoder_conf", "conv_kernel=[1,2,a]", "conv_kernel is [1, 2, 'a']; it should be a list, each a whole number"),
        ("encoder_conf", "conv_kernel=[1,2]", "conv_kernel and conv_stride need one number from 1 on per layer; they"),
        ("encoder_conf", "num_conv_pos_embedding_groups=7", "hidden_size 32 is not a multiple of num_conv"),
        ("model_conf", "stream_weights=1", "stream_weights is 1; it should be a list, each a number or nothing"),
        ("model_conf", "temperature=0", "model_conf: temperature must be above 0; got 0"),
        ("rank_conf", "keep=3", "rank_conf: keep is 3; it should be true or false"),
        ("max_epoch", "0", "max_epoch: 0 epochs are no training"),
    ]:
        assert said in error_of([*options(corpus, tmp_path / "e"), f"--{option}", value], capsys)
    assert not (tmp_path / "e" / "1epoch.pth").exists()


def test_utterances_that_are_left_out_are_counted(corpus, tmp_path, capsys):
    """Some have no units, some are too short: never without a word."""
    shutil.copytree(corpus / "train_units", tmp_path / "few")
    places = read_scp(corpus / "train_units" / "units.scp")
    lengths = DataDir(corpus / "train").utt2num_samples
    kept = dict(list(places.items())[3:])
    write_scp(tmp_path / "few" / "units.scp", kept)
    shortest = min(lengths[utt] for utt in kept) + 1
    short = sum(lengths[utt] < shortest for utt in kept)
    given = options(corpus, tmp_path / "e", train_units=tmp_path / "few", min_s=shortest / 16000, max_epoch=1)
    assert train(given) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert f"train: {3 + short} of 40 utterances are left out, without units or shorter than" in said
    assert f"train: {37 - short} utterances, " in said


def test_labels_of_other_audio(corpus, tmp_path, capsys):
    """The utterance whose labels do not fit its samples is named, and no checkpoint is written."""
    shutil.copytree(corpus / "train_units", tmp_path / "mixed")
    places = read_scp(corpus / "train_units" / "units.scp")
    data = DataDir(corpus / "train")
    order = sorted(places, key=lambda utt: data.utt2num_samples[utt])
    places[order[0]] = places[order[-1]]
    write_scp(tmp_path / "mixed" / "units.scp", places)
    said = error_of(options(corpus, tmp_path / "e", train_units=tmp_path / "mixed"), capsys)
    assert f"utterance {order[0]} has" in said and "make_units" in said


def test_a_diverging_training_keeps_its_checkpoint(corpus, tmp_path, capsys, caplog):
    """The utterances of the batch are named; what the last whole epoch has learned is there."""
    assert train([*options(corpus, tmp_path / "e"), "--max_epoch", "1"]) == 0, capsys.readouterr().err
    checkpoint = (tmp_path / "e" / "checkpoint.pth").read_bytes()
    said = error_of(
        [*options(corpus, tmp_path / "e"), "--max_epoch", "2", "--model_conf", "penalty_weight=1e39"], capsys
    )
    assert re.search(r"the loss is (inf|nan) on utterance\(s\) train\d\d, ", said) and "checkpoint" in said
    assert (tmp_path / "e" / "checkpoint.pth").read_bytes() == checkpoint
    # As the message says: with a lower learning rate it goes on from there, and that is the rate it has.
    for more in ([], ["--scheduler", "none"]):
        out = tmp_path / f"e{len(more)}"
        shutil.copytree(tmp_path / "e", out, symlinks=True)
        lower = [*options(corpus, out), "--max_epoch", "2", "--optim_conf", "lr=1e-4", *more]
        assert train(lower) == 0, capsys.readouterr().err
        assert "goes on with other settings: optim_conf.lr was 0.005, is 0.0001" in caplog.text
        stats = torch.load(out / "checkpoint.pth", weights_only=False)["reporter"]["stats"]
        assert stats[1]["train"]["optim0_lr0"] > 1e-3 and stats[2]["train"]["optim0_lr0"] <= 1e-4


def test_a_training_keeps_to_its_units(corpus, tmp_path, capsys):
    """Other units of the same number mean something else: refused, whether the training is finished or not."""
    assert train([*options(corpus, tmp_path / "e"), "--max_epoch", "1"]) == 0, capsys.readouterr().err
    before = {path: path.read_bytes() for path in (tmp_path / "e").glob("*.[py]*")}
    changes = {}
    for name in ("train", "dev"):
        changes[f"{name}_units"] = tmp_path / f"{name}_units"
        shutil.copytree(corpus / f"{name}_units", changes[f"{name}_units"])
        describe(changes[f"{name}_units"], "q2")
    for epochs, kind in (("1", "a finished training"), ("2", "a training")):
        said = error_of([*options(corpus, tmp_path / "e", **changes), "--max_epoch", epochs], capsys)
        assert f"holds {kind} with other settings: quantizers was ['q1'], is ['q2']" in said
    assert before == {path: path.read_bytes() for path in before}
    # The same units from another place are the same.
    for name in ("train", "dev"):
        describe(changes[f"{name}_units"], "q1")
    assert train([*options(corpus, tmp_path / "e", **changes), "--max_epoch", "1"]) == 0, capsys.readouterr().err


def test_two_processes_make_the_step_of_one(corpus, tmp_path, capsys):
    """The gradient is divided by the masked frames of the whole batch, however many of them each process has."""
    more = ["--model_conf", "unmasked_weight=0", "--model_conf", "penalty_weight=0", "--batch_bins", "9000000"]
    # All frames but the last are masked, nothing is cropped, all of the data is a batch: nothing is left to chance.
    more += ["--preprocessor_conf", "{max_s: 9, mask_prob: 1.0, mask_length: 1}", "--scheduler", "none"]
    more += ["--optim", "sgd", "--optim_conf", "{lr: 0.5}", "--max_epoch", "1"]
    assert train(options(corpus, tmp_path / "one") + more) == 0, capsys.readouterr().err
    train_by_two(options(corpus, tmp_path / "two") + more)
    one, two = (torch.load(tmp_path / name / "1epoch.pth", weights_only=True) for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-6, rtol=1e-4, msg=name)
    begun = find_checkpoints([str(tmp_path / "one")])[0].open("cpu").state_dict()
    assert max(float((one[f"encoder.{name}"] - value).abs().max()) for name, value in begun.items()) > 1e-3


def test_a_resumed_training_is_an_undisturbed_one(corpus, tmp_path, capsys):
    """Dropout, layer drop, masks, crops, cut batches, and an accumulation that does not divide the iterations."""
    more = ["--encoder_conf", "hidden_dropout=0.1", "--encoder_conf", "layerdrop=0.3", "--scheduler", "none"]
    more += ["--num_iters_per_epoch", "5", "--accum_grad", "2", "--drop_padding", "true"]
    whole, parts = (options(corpus, tmp_path / name) + more for name in ("whole", "parts"))
    for given, epochs in ((whole, "3"), (parts, "1"), (parts, "2"), (parts, "3")):
        assert train([*given, "--max_epoch", epochs]) == 0, capsys.readouterr().err
    one, other = (torch.load(tmp_path / name / "3epoch.pth", weights_only=True) for name in ("whole", "parts"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    said = capsys.readouterr().out
    assert re.search(r" utterances, 0\.\d min and \d+\.\d % dropped per pass of \d+ iterations, 5 iterations", said)
    said = error_of([*whole, "--accum_grad", "99", "--resume", "false"], capsys)
    assert "iterations per epoch never make a step of 99; lower accum_grad or batch_bins" in said
