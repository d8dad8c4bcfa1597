"""Zero-shot embeddings against numpy, and the probe that measures every layer of an encoder with them."""

import json
import os

import kaldiio
import numpy as np
import pytest
import random_encoders as encoders
import soundfile
import torch
from tiny_model import RATE_HZ, make_model, voice

from espnet_ext.bin import embed, layer_probe
from espnet_ext.inference.layer_report import conclusion
from espnet_ext.inference.speaker_frames import SpeakerFrames, open_upstream
from espnet_ext.inference.spk import SpeakerEmbedder
from espnet_ext.inference.zero_shot import ZeroShotEmbedder, identity, mean_and_deviation
from espnet_ext.metrics.detection import eer
from espnet_ext.metrics.report import Result
from espnet_ext.upstream.load import load_upstream


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """Spec of a tiny HuBERT in a folder with a blank."""
    folder = tmp_path_factory.mktemp("an encoder")
    encoders.make(folder, "hubert", large=True)
    return f"hf:{folder}"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Four speakers with four utterances each to test, two more without labels; all of different lengths."""
    root = tmp_path_factory.mktemp("cörpus")
    for name, speakers in (("test", range(4)), ("train", range(4, 6))):
        folder = root / name
        folder.mkdir()
        utts = {f"{name}{spk}-{take}": spk for spk in speakers for take in range(4)}
        for number, (utt, spk) in enumerate(utts.items()):
            soundfile.write(folder / f"{utt}.wav", voice(0.3 + 0.05 * number, 13 * number + spk), RATE_HZ)
        (folder / "wav.scp").write_text("".join(f"{utt} {folder / utt}.wav\n" for utt in utts))
        (folder / "utt2spk").write_text("".join(f"{utt} s{spk}\n" for utt, spk in utts.items()))
        names = list(utts)
        pairs = [(a, b) for place, a in enumerate(names) for b in names[place + 1 :]]
        kind = {True: "target", False: "nontarget"}
        (folder / "trials").write_text("".join(f"{a} {b} {kind[utts[a] == utts[b]]}\n" for a, b in pairs))
    return root


def pooled(hidden):
    """The equations of arXiv 2402.00340 in float64: hidden (frames, size)."""
    hidden = hidden.numpy().astype(np.float64)
    mean = hidden.sum(0) / len(hidden)
    return np.concatenate([mean, np.sqrt(((hidden - mean) ** 2).sum(0) / len(hidden) + 1e-8)])


def test_mean_and_deviation_of_valid_frames():
    hidden, frames = 100 + torch.randn(3, 50, 4), torch.tensor([50, 7, 1])
    hidden[1, 7:] = torch.nan  # what lies behind is never looked at
    vectors = mean_and_deviation(hidden, frames)
    for row, count in enumerate(frames):
        np.testing.assert_allclose(vectors[row].numpy(), pooled(hidden[row, :count]), rtol=1e-5, atol=1e-5)


def test_vectors_are_the_same_alone_in_a_batch_and_from_the_command(encoder, corpus, tmp_path):
    upstream = load_upstream(encoder)
    embedder = ZeroShotEmbedder(upstream)
    assert embedder.sizes == [48] * 4
    paths = sorted((corpus / "test").glob("*.wav"))
    together = embedder.embed(paths)
    options = ("--data", str(corpus / "test"), "--out", str(tmp_path), "--layer", "-2", "--upstream", encoder)
    assert embed.main([*options, "--max_batch_s", "2"]) == 0
    stored = dict(kaldiio.load_scp(str(tmp_path / "embedding.scp")).items())
    for path, vector in zip(paths, together, strict=True):
        wav = torch.from_numpy(soundfile.read(path, dtype="float32")[0])[None]
        with torch.no_grad():
            hidden, frames = upstream.hidden_states(wav, torch.tensor([wav.size(1)]))
        assert frames[0] == hidden.size(2)
        expected = np.concatenate([pooled(layer[0]) for layer in hidden])
        np.testing.assert_allclose(vector, expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(embedder(path), vector, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(stored[path.stem], vector[96:144], rtol=1e-4, atol=1e-5)


def test_windows_of_long_audio_are_joined_into_statistics_of_all_frames(encoder):
    upstream, wav = load_upstream(encoder), voice(6.0)
    wav[48000:] *= 0.1  # the halves differ: a mean of deviations would be wrong
    parts = []
    for half in (wav[:48000], wav[48000:]):
        with torch.no_grad():
            parts.append(upstream.hidden_states(torch.from_numpy(half)[None], torch.tensor([48000]))[0][:, 0])
    expected = np.concatenate([pooled(torch.cat([a, b])) for a, b in zip(*parts, strict=True)])
    np.testing.assert_allclose(ZeroShotEmbedder(upstream, max_window_s=3.0)(wav), expected, rtol=1e-4, atol=1e-4)


def test_identity_follows_weights_layers_and_window(encoder, tmp_path):
    one = load_upstream(encoder)
    known = identity(one, [1], 60.0)
    assert identity(load_upstream(encoder), [1], 60.0) == known
    others = [identity(one, [2], 60.0), identity(one, [1, 2], 60.0), identity(one, [1], 30.0)]
    others.append(identity(load_upstream(encoder, normalize=False), [1], 60.0))
    with torch.no_grad():
        one.upstream.encoder.layers[0].final_layer_norm.bias[0] += 1e-6
    assert len({known, identity(one, [1], 60.0), *others}) == 6


@pytest.mark.gpu
def test_vectors_are_the_same_on_a_gpu(encoder, corpus):
    paths = sorted((corpus / "test").glob("*.wav"))
    cpu, gpu = (ZeroShotEmbedder(load_upstream(encoder), device=device).embed(paths) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(gpu, cpu, rtol=1e-3, atol=1e-3)


def test_a_speaker_model_is_an_encoder_of_one_layer(tmp_path, corpus, monkeypatch):
    exp = make_model(tmp_path / "exp", encoder="xvector", encoder_conf={"ndim": 8, "output_size": 20})
    frames = open_upstream(str(exp))
    assert isinstance(frames, SpeakerFrames) and frames.num_layers == 1 and frames.output_size() == 20
    assert frames.train() is frames and not frames.training and not any(p.requires_grad for p in frames.parameters())
    model = SpeakerEmbedder.from_pretrained(exp).model
    wav = torch.from_numpy(np.stack([voice(0.5), voice(0.5, 1)]))
    samples = torch.tensor([8000, 5000])
    hidden, lengths = frames.hidden_states(wav, samples)
    seen = []
    model.pooling.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    with torch.no_grad():
        model.embed(wav, samples)
    assert (
        hidden.shape[0] == 1 and torch.equal(hidden[0].transpose(1, 2), seen[0][0]) and torch.equal(lengths, seen[0][1])
    )
    one = torch.zeros(1, frames.samples_for(3))
    assert frames.layers(one, torch.tensor([one.size(1)]))[1] >= 3
    out = tmp_path / "out"
    weights = str(exp / "valid.eer.best.pth")
    assert embed.main(["--upstream", weights, "--layer", "0", "--data", str(corpus / "test"), "--out", str(out)]) == 0
    assert kaldiio.load_scp(str(out / "embedding.scp"))["test0-0"].shape == (40,)


def probe(*words) -> int:
    return layer_probe.main([str(word) for word in words])


@pytest.fixture(scope="module")
def probed(encoder, corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("pröbe") / "exp out"
    options = ("--data", corpus / "test", "--mean_from", corpus / "train", "--num_bootstrap", 20)
    assert probe("--model", encoder, *options, "--out", out) == 0
    return out


def test_probe_has_the_error_rates_of_all_layers(probed, encoder, corpus):
    results = json.loads((probed / "results.json").read_text())
    assert results["run"]["model"] == encoder and results["run"]["seed"] == 0
    rates = {(r["where"]["layer"], r["where"]["system"]): r for r in results["results"] if r["metric"] == "eer"}
    assert list(dict.fromkeys(layer for layer, _ in rates)) == ["MFCC", "0", "1", "2", "3"] and len(rates) == 15
    embedder = ZeroShotEmbedder(load_upstream(encoder))
    vectors = {path.stem: embedder(path).astype(np.float64) for path in corpus.glob("*/*.wav")}
    trials = [line.split() for line in (corpus / "test" / "trials").read_text().splitlines()]
    labels = [kind == "target" for _, _, kind in trials]
    others = np.stack([vector for utt, vector in vectors.items() if utt.startswith("train")])
    for layer in range(4):
        part = slice(48 * layer, 48 * (layer + 1))
        mean, deviation = others[:, part].mean(0), others[:, part].std(0)
        for system, (origin, scale) in {
            "raw": (0, 1), "minus mean": (mean, 1), "standardised": (mean, deviation)
        }.items():  # fmt: skip
            units = {utt: (vector[part] - origin) / scale for utt, vector in vectors.items()}
            units = {utt: vector / np.linalg.norm(vector) for utt, vector in units.items()}
            scores = [units[a] @ units[b] for a, b, _ in trials]
            # float32 in place of float64 may change the order of two trials
            found = rates[str(layer), system]
            assert abs(found["value"] - eer(scores, labels)) < 0.02 and found["count"] == len(trials)
            assert found["ci"][0] <= found["ci"][1]


def test_probe_leaves_a_table_a_curve_and_its_statistics(probed, capsys):
    report = (probed / "RESULTS.md").read_text()
    assert "| layer |" in report and "| MFCC " in report and "Lowest: layer" in report and "layers.png" in report
    assert "8 utterances of" in report and "EER % minus mean" in report
    assert (probed / "layers.png").read_bytes().startswith(b"\x89PNG")
    assert (probed / "statistics" / "layers" / "test" / "embedding.scp").is_file()


def test_a_floor_that_no_layer_beats_is_said():
    def rate(layer, system, value):
        return Result("eer", value, where={"layer": layer, "system": system})

    layers = [rate("0", "raw", 0.3), rate("1", "raw", 0.2), rate("1", "minus mean", 0.25)]
    said = conclusion([rate("MFCC", "raw", 0.4), rate("MFCC", "standardised", 0.15), *layers])
    assert said.startswith("Lowest: layer 1, 20.00 % (raw). No layer beats MFCC, which has 15.00 % (standardised).")
    for beaten in ([], [rate("MFCC", "raw", 0.21)]):
        assert "No layer" not in conclusion([*beaten, *layers])


def test_probe_again_reads_no_audio(probed, encoder, corpus, monkeypatch, capsys):
    def never(*_):
        raise AssertionError("there is nothing to encode")

    monkeypatch.setattr(SpeakerEmbedder, "stream", never)
    options = ("--data", corpus / "test", "--mean_from", corpus / "train", "--num_bootstrap", 0)
    assert probe("--model", encoder, *options, "--out", probed) == 0
    shown = capsys.readouterr().out
    assert "| 3 " in shown and "95 %" not in shown  # no bootstrap, no interval
    assert "| layer |" in (probed / "RESULTS.md").read_text()


def test_probe_of_some_layers_without_a_mean_or_floor(encoder, corpus, tmp_path, capsys):
    options = ("--data", corpus / "test", "--layers", "1,-1,3", "--floor", "none", "--out", tmp_path)
    assert probe("--model", encoder, *options) == 0
    shown = capsys.readouterr().out
    assert (
        shown.count("| 1 ") == 1
        and shown.count("| 3 ") == 1
        and "| 0 " not in shown
        and "MFCC" not in shown
        and "minus" not in shown
    )


def test_probe_leaves_broken_audio_out_when_asked(encoder, corpus, tmp_path, capsys):
    data = tmp_path / "data"
    data.mkdir()
    lines = (corpus / "test" / "wav.scp").read_text().splitlines()
    (tmp_path / "empty.wav").write_bytes(b"")
    lines[2] = f"{lines[2].split()[0]} {tmp_path / 'empty.wav'}"
    (data / "wav.scp").write_text("\n".join(lines) + "\n")
    for name in ("utt2spk", "trials"):
        (data / name).write_text((corpus / "test" / name).read_text())
    options = ("--model", encoder, "--data", data, "--layers", "0", "--out", tmp_path / "out")
    assert probe(*options) == 2
    assert "--skip_broken true" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out" / "RESULTS.md").exists()
    assert probe(*options, "--skip_broken", "true") == 0
    assert "15 of 120 trials are left out" in (tmp_path / "out" / "RESULTS.md").read_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--layers", "one"], "--layers one: give whole numbers"),
        (["--layers", "9"], "layer must be from 0"),
        (["--mean_from", "{test}"], "is in the trials too"),
        (["--trials", "{train}/trials"], "is not in"),
        (["--trials", "nowhere"], "nowhere"),
        (["--model", "nowhere"], "no such encoder"),
        (["--num_bootstrap", "1"], "--num_bootstrap"),
        (["--max_batch_s", "0"], "--max_batch_s"),
        (["--data", "nowhere"], "no such data directory"),
    ],
)
def test_a_wrong_option_is_one_line(encoder, corpus, tmp_path, capsys, options, words):
    options = [word.format(test=corpus / "test", train=corpus / "train") for word in options]
    base = ["--model", encoder, "--data", corpus / "test", "--out", tmp_path / "out"]
    assert probe(*base, *options) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and error[0].startswith("layer_probe: error: ") and words in error[0]
    assert not (tmp_path / "out" / "RESULTS.md").exists()


def test_embed_says_what_goes_together(encoder, corpus, tmp_path, capsys):
    base = ["--data", str(corpus / "test"), "--out", str(tmp_path)]
    for options in (["--upstream", encoder], ["--model", "x", "--layer", "1"], ["--upstream", encoder, "--model", "x"]):
        assert embed.main([*base, *options]) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not os.listdir(tmp_path)
