"""Units of data directories: nearest centroids by brute force, whatever the batch, the window, the shard or a kill."""

import json
import os
import re
import shutil

import numpy as np
import pytest
import soundfile
import torch
from sklearn.metrics import homogeneity_score
from tiny_hubert import FRAMES_OF_20_MS

from espnet_ext.audio.io import read_audio
from espnet_ext.bin import fit_units, make_units, score_units
from espnet_ext.cluster.residual import residual_kmeans
from espnet_ext.datadir import DataDir, read_scp
from espnet_ext.errors import UserError
from espnet_ext.inference.clips import ArrayClip
from espnet_ext.inference.units import FrameReader, UnitLabeler, sample_frames
from espnet_ext.ssl.encoder import HubertEncoder
from espnet_ext.ssl.features import Cepstra, LogMel, Stacked, deltas, identity_of, make_features
from espnet_ext.ssl.hugging_face import read_folder, write_folder
from espnet_ext.ssl.quality import folder_quality, phones_at
from espnet_ext.ssl.quantizer import Quantizer
from espnet_ext.ssl.units import UnitFolder, read_units

TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "conv_dim": [8, 8, 8, 12],
    **FRAMES_OF_20_MS,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A data directory of 12 utterances with "phones", and a random encoder."""
    folder = tmp_path_factory.mktemp("units of speech")
    rng = np.random.default_rng(0)
    tables = {"wav.scp": {}, "utt2spk": {}, "utt2phones": {}}
    for number in range(12):
        samples = 8000 + 1111 * number
        tone = (np.arange(samples) // 2000) % 2  # two "phones" of an eighth of a second
        wav = 0.1 * np.sin(np.arange(samples) * np.where(tone, 0.3, 0.05)) + 0.01 * rng.standard_normal(samples)
        path = folder / "audio" / f"u{number:02d}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, wav, 16000)
        tables["wav.scp"][f"u{number:02d}"] = str(path)
        tables["utt2spk"][f"u{number:02d}"] = "s"
        edges = np.arange(0, samples + 1999, 2000) / 16000
        tables["utt2phones"][f"u{number:02d}"] = " ".join(
            f"{'ab'[i % 2]}:{edges[i]:.3f}:{edges[i + 1]:.3f}" for i in range(len(edges) - 1)
        )
    DataDir.write(folder / "data", tables)
    torch.manual_seed(0)
    encoder = HubertEncoder(**TINY).eval()
    write_folder(encoder, TINY, folder / "hf")
    return folder


def call(command, *options):
    """Run a command; it has to end well."""
    assert command.main([str(option) for option in options]) == 0


def units_of(out):
    return {utt: read_units(entry) for utt, entry in UnitFolder.read(out).places().items()}


def test_deltas_are_kaldis():
    x = np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32)
    import torchaudio

    theirs = torchaudio.functional.compute_deltas(torch.from_numpy(x.T)[None], win_length=5)[0].numpy().T
    np.testing.assert_allclose(deltas(x), theirs, atol=1e-5)


@pytest.mark.parametrize("make, size", [(Cepstra, 39), (LogMel, 80)])
def test_features_lie_on_the_encoders_frames(make, size):
    """Frame 2t of the features depends on the samples of encoder frame t alone (deltas: and of its neighbours)."""
    wav = 0.1 * np.random.default_rng(0).standard_normal(16000).astype(np.float32)
    features = make()
    frames = features([wav])[0][0]
    assert frames.shape == (98, size) and frames.dtype == np.float32
    changed = wav.copy()
    changed[320 * 20 : 320 * 20 + 400] += 0.5
    moved = np.abs(features([changed])[0][0] - frames)[:, :13].max(axis=1)
    assert moved[40] > 1e-3 and moved[:38].max() < 1e-3 and moved[43:].max() < 1e-3


def test_log_mel_by_torchaudios_filters():
    import torchaudio

    wav = torch.from_numpy(0.1 * np.random.default_rng(0).standard_normal(5000))
    frames = wav.unfold(0, 400, 160) * torch.hann_window(400, periodic=False, dtype=torch.float64)
    filters = torchaudio.functional.melscale_fbanks(257, 20.0, 8000.0, 80, 16000).double()
    expected = torch.log(torch.fft.rfft(frames, 512).abs() ** 2 @ filters + 1e-10)
    np.testing.assert_allclose(LogMel()([wav.numpy()])[0][0], expected, atol=2e-3)


def test_sampled_frames_are_those_of_utterances_drawn_until_there_are_enough(place):
    data, drawn, total = DataDir(place / "data"), [], 0
    for number in np.random.default_rng(5).permutation(12):
        drawn.append(LogMel()([read_audio(data.wav_scp[data.utterances[number]])])[0][0])
        total += len(drawn[-1])
        if total >= 250:
            break
    for batch_s in (0.5, 60.0):
        (found,), utterances = sample_frames(data, FrameReader(LogMel(), batch_s), 250, seed=5)
        assert utterances == len(drawn) and 1 < len(drawn) < 12
        np.testing.assert_allclose(found, np.concatenate(drawn), atol=1e-5)
    (everything,), utterances = sample_frames(data, FrameReader(LogMel()), 10**6, seed=5)
    assert utterances == 12 and len(everything) == sum(1 + (data.num_samples(u) - 400) // 160 for u in data.utterances)


def test_cepstra_are_liftered():
    from espnet_ext.audio.mfcc import mfcc

    wav = 0.1 * np.random.default_rng(0).standard_normal(4000).astype(np.float32)
    static = Cepstra()([wav])[0][0][:, :13]
    lifter = [1 + 11 * np.sin(np.pi * n / 22) for n in range(13)]
    np.testing.assert_allclose(static, mfcc(wav, 16000, 13, 23) * lifter, rtol=1e-5)


def test_levels():
    """Every level is a stream; ids are those of brute force, for arrays and tensors, whole and in parts."""
    x = np.random.default_rng(0).standard_normal((400, 5)).astype(np.float32)
    book = residual_kmeans(x, 8, levels=4, seed=3)
    quantizer = Quantizer("mfcc", 160, 400, ("mfcc",), (None,), [book])
    ids = quantizer.assign([x])
    rest = x.astype(np.float64)
    for level in range(4):
        nearest = ((rest[:, None] - book.centroids[level][None].astype(np.float64)) ** 2).sum(axis=2).argmin(axis=1)
        assert (nearest == ids[:, level]).mean() > 0.99  # a tie in the last bits may fall either way
        rest = rest - book.centroids[level][ids[:, level]]
    assert [stream.name for stream in quantizer.streams] == ["mfcc_q0", "mfcc_q1", "mfcc_q2", "mfcc_q3"]
    assert ids.dtype == np.uint16
    np.testing.assert_array_equal(quantizer.assign([torch.from_numpy(x)]), ids)
    np.testing.assert_array_equal(np.concatenate([quantizer.assign([x[:150]]), quantizer.assign([x[150:]])]), ids)


def test_from_cepstra_to_quality(place, tmp_path, capsys):
    """fit_units, make_units, score_units: ids equal brute force, shards and reruns change nothing."""
    data = DataDir(place / "data")
    call(fit_units, "--data", data.path, "--features", "mfcc", "--num_units", 6, "--out", tmp_path / "c")
    call(make_units, "--data", data.path, "--centroids", tmp_path / "c", "--out", tmp_path / "u")
    quantizer = Quantizer.load(tmp_path / "c")
    found = units_of(tmp_path / "u")
    assert list(found) == data.utterances
    for utt in data.utterances:
        frames = Cepstra()([read_audio(data.wav_scp[utt])])[0][0]
        distance = ((frames[:, None] - quantizer.codebooks[0].centroids[0]) ** 2).sum(axis=2)
        assert found[utt].shape == (len(frames), 1) and (distance.argmin(axis=1) == found[utt][:, 0]).mean() > 0.99
        assert len(frames) == UnitFolder.read(tmp_path / "u").labels(data.num_samples(utt))
    for shard in ("2/2", "1/2"):
        options = ("--data", data.path, "--centroids", tmp_path / "c", "--out", tmp_path / "u2", "--shard", shard)
        call(make_units, *options, "--max_batch_s", 2)
        assert (tmp_path / "u2" / "units.scp").is_file() == (shard == "1/2")
    assert {utt: ids.tolist() for utt, ids in units_of(tmp_path / "u2").items()} == {
        utt: ids.tolist() for utt, ids in found.items()
    }
    before = (tmp_path / "u" / "units.scp").stat().st_mtime_ns
    call(make_units, "--data", data.path, "--centroids", tmp_path / "c", "--out", tmp_path / "u")
    assert (tmp_path / "u" / "units.scp").stat().st_mtime_ns == before
    # Tones of 125 ms are told apart by any centroids: nearly all of the "phones" is in the units.
    quality = folder_quality(UnitFolder.read(tmp_path / "u"), data)["mfcc"]
    assert quality["pnmi"] > 0.6 and quality["phone_purity"] > 0.9
    # By loops: the phone of a frame is the one at the middle of its 400 samples.
    pairs = []
    for utt, line in read_scp(data.path / "utt2phones").items():
        for frame, unit in enumerate(found[utt][:, 0].tolist()):
            middle_s = (160 * frame + 200) / 16000
            for label, start, end in (word.split(":") for word in line.split()):
                if float(start) <= middle_s < float(end):
                    pairs.append((label, unit))
    phones, ids = zip(*pairs, strict=True)
    assert quality["pnmi"] == pytest.approx(homogeneity_score(phones, ids)) and quality["num_frames"] == len(pairs)
    call(score_units, "--data", data.path, "--units", "one", tmp_path / "u", "--out", tmp_path / "s")
    assert f"{quality['pnmi']:.4f}" in capsys.readouterr().out
    results = json.loads((tmp_path / "s" / "results.json").read_text())["results"]
    assert {"metric": "pnmi", "value": quality["pnmi"]}.items() <= next(
        r for r in results if r["metric"] == "pnmi"
    ).items()


def test_from_stacked_log_mel_to_random_projections(place, tmp_path):
    """BEST-RQ by the commands: ids equal loops over the folder's arrays, shards change nothing, a stream a codebook."""
    data = DataDir(place / "data")
    fit = ["--data", data.path, "--features", "logmel:2", "--quantizer", "random_projection", "--num_units", 30]
    fit += ["--levels", 2, "--projection_size", 5, "--out", tmp_path / "c"]
    call(fit_units, *fit)
    call(make_units, "--data", data.path, "--centroids", tmp_path / "c", "--out", tmp_path / "u")
    folder, found = UnitFolder.read(tmp_path / "u"), units_of(tmp_path / "u")
    assert [(stream.name, stream.num_units) for stream in folder.streams] == [("logmel2_q0", 30), ("logmel2_q1", 30)]
    assert folder.rate_hz == 50 and list(found) == data.utterances
    with np.load(tmp_path / "c" / "logmel2.npz") as content:
        mean, scale, projections, codes = (
            content[name].astype(float) for name in ("mean", "scale", "projections", "codes")
        )
    every = []
    for utt in data.utterances:
        frames = LogMel()([read_audio(data.wav_scp[utt])])[0][0]
        assert len(found[utt]) == len(frames) // 2 == folder.labels(data.num_samples(utt))
        for number, ids in enumerate(found[utt].tolist()):
            pair = np.concatenate((frames[2 * number], frames[2 * number + 1])).astype(float)
            every.append(pair)
            for book in range(2):
                y = (pair - mean) / scale @ projections[book]
                y /= np.sqrt((y**2).sum())
                assert ids[book] == ((y - codes[book]) ** 2).sum(axis=1).argmin()
    np.testing.assert_allclose(mean, np.mean(every, axis=0), rtol=1e-4)
    np.testing.assert_allclose(scale, np.std(every, axis=0), rtol=1e-3)
    for shard in ("2/2", "1/2"):
        options = ("--data", data.path, "--centroids", tmp_path / "c", "--out", tmp_path / "u2", "--shard", shard)
        call(make_units, *options, "--max_batch_s", 2)
    again = units_of(tmp_path / "u2")
    assert all((again[utt] == found[utt]).all() for utt in found)
    call(score_units, "--data", data.path, "--units", "one", tmp_path / "u", "--out", tmp_path / "s")
    assert folder_quality(folder, data)["logmel2_q0"]["pnmi"] > 0.15  # ids drawn blindly: 0.04

    # The same command finds it done, k-means' options or not; what is drawn depends on the rest.
    def identity_after(*more):
        call(fit_units, *fit, *more)
        return Quantizer.load(tmp_path / "c").identity

    written, first = (tmp_path / "c" / "quantizer.json").stat().st_mtime_ns, Quantizer.load(tmp_path / "c").identity
    assert identity_after("--iterations", 3, "--restarts", 2) == first
    assert (tmp_path / "c" / "quantizer.json").stat().st_mtime_ns == written
    others = [
        ("--seed", 1),
        ("--projection_size", 6),
        ("--max_frames", 100),
        ("--levels", 1),
        ("--quantizer", "kmeans"),
    ]
    assert len({first, *(identity_after(*more) for more in others)}) == 6
    assert identity_after() == first


def test_random_projections_of_layers(place, tmp_path):
    """Every layer has codes of its own, the same ones whichever other layers there are; tensors give arrays' ids."""
    fit = ("--data", place / "data", "--features", place / "hf", "--quantizer", "random_projection", "--num_units", 9)
    call(fit_units, *fit, "--layers", 1, 2, "--out", tmp_path / "both")
    call(fit_units, *fit, "--layers", 2, "--out", tmp_path / "one")
    both, one = (Quantizer.load(tmp_path / name) for name in ("both", "one"))
    assert both.kind == "random_projection" and (both.codebooks[0].centroids != both.codebooks[1].centroids).all()
    assert (both.codebooks[1].centroids == one.codebooks[0].centroids).all()
    frames = np.random.default_rng(0).standard_normal((50, 16)).astype(np.float32)
    np.testing.assert_array_equal(both.assign([torch.from_numpy(frames)] * 2), both.assign([frames] * 2))


def test_centroids_from_before_there_were_kinds(place, tmp_path):
    """Their folders do not say that they are k-means, and are found finished."""
    fit = ("--data", place / "data", "--features", "mfcc", "--num_units", 6, "--out", tmp_path / "c")
    call(fit_units, *fit)
    path = tmp_path / "c" / "quantizer.json"
    content = json.loads(path.read_text())
    assert content.pop("kind") == "kmeans"
    path.write_text(json.dumps(content))
    found = Quantizer.load(tmp_path / "c")
    assert found.kind == "kmeans" and found.codebooks[0].centroids.shape == (1, 6, 39)
    call(fit_units, *fit)
    assert "kind" not in json.loads(path.read_text())  # not made again
    path.write_text(json.dumps(content | {"kind": "other"}))
    with pytest.raises(UserError, match="no centroids that fit_units made"):
        Quantizer.load(tmp_path / "c")


@pytest.mark.parametrize("spec, count, size", [("logmel:2", 2, 80), ("mfcc:3", 3, 39), ("logmel:4", 4, 80)])
def test_stacked_frames(spec, count, size):
    """Neighbours side by side; as many as the reader counts for any length, in windows the very same."""
    features, single = make_features(spec), make_features(spec.partition(":")[0])
    reader, rng = FrameReader(features), np.random.default_rng(0)
    assert (features.hop, features.field) == (160 * count, 400 + 160 * (count - 1))
    for samples in [*range(features.field, features.field + 700, 53), features.field + 159, features.field + 160]:
        wav = 0.1 * rng.standard_normal(samples).astype(np.float32)
        stacked, frames = features([wav])[0][0], single([wav])[0][0]
        assert stacked.shape == (reader.num_frames(samples), count * size)
        for number, row in enumerate(stacked):
            np.testing.assert_array_equal(row, np.concatenate(list(frames[count * number : count * (number + 1)])))
    assert make_features("logmel:1").hop == 160 and isinstance(features, Stacked)
    clips = [ArrayClip(0.1 * rng.standard_normal(40000).astype(np.float32), 16000, 16000)]
    if spec != "mfcc:3":  # deltas look over the edge of a window
        ((_, whole, _),) = reader.frames(clips)
        ((_, cut, _),) = FrameReader(features, 1.0, max_window_s=0.7).frames(clips)
        np.testing.assert_allclose(cut[0], whole[0], atol=1e-5)


def test_layers_of_an_encoder(place, tmp_path):
    """Two layers and two levels in one pass: four streams, each the same as its own pass would give."""
    spec = f"hf:{place / 'hf'}"
    options = ("--data", place / "data", "--features", spec, "--num_units", 5, "--levels", 2)
    call(fit_units, *options, "--layers", 1, 2, "--out", tmp_path / "both")
    call(fit_units, *options, "--layers", 2, "--out", tmp_path / "one")
    for name in ("both", "one"):
        call(make_units, "--data", place / "data", "--centroids", tmp_path / name, "--out", tmp_path / f"u_{name}")
    folder = UnitFolder.read(tmp_path / "u_both")
    assert [stream.name for stream in folder.streams] == ["layer1_q0", "layer1_q1", "layer2_q0", "layer2_q1"]
    assert folder.rate_hz == 50
    both, one = units_of(tmp_path / "u_both"), units_of(tmp_path / "u_one")
    # The same weights written again are the same encoder; others are not.
    before = identity_of(spec)
    (place / "hf" / "config.json").write_bytes((place / "hf" / "config.json").read_bytes())
    assert identity_of(spec) == before == identity_of(str(place / "hf"))
    (place / "hf" / "note").write_text("x")
    assert identity_of(spec) != before and identity_of("torchaudio:HUBERT_BASE") == ["torchaudio:HUBERT_BASE"]
    (place / "hf" / "note").unlink()
    agree = np.concatenate([both[utt][:, 2:] == one[utt] for utt in both])
    assert agree.mean() > 0.99


def test_batches_and_windows_change_nothing(place):
    """Long audio goes through in windows that share no frame: for cepstra without deltas the very same frames."""
    rng = np.random.default_rng(0)
    clips = [ArrayClip(0.1 * rng.standard_normal(n).astype(np.float32), 16000, 16000) for n in (40000, 9000, 17777)]
    features = LogMel()
    whole = {place: layers[0] for place, layers, _ in FrameReader(features).frames(clips)}
    cut = {place: layers[0] for place, layers, _ in FrameReader(features, 1.0, max_window_s=0.7).frames(clips)}
    for number in whole:
        np.testing.assert_allclose(cut[number], whole[number], atol=1e-5)
    hidden = make_features(str(place / "hf"), [0, 2])
    whole = {place: layers for place, layers, _ in FrameReader(hidden).frames(clips)}
    alone = {place: layers for place, layers, _ in FrameReader(hidden, 0.5).frames(clips)}
    for number in whole:
        for one, other in zip(whole[number], alone[number], strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=0)
    long = {place: layers for place, layers, _ in FrameReader(hidden, max_window_s=1.0).frames(clips)}
    assert {n: len(layers[0]) for n, layers in long.items()} == {n: len(layers[0]) for n, layers in whole.items()}


def test_a_killed_job_goes_on(place, tmp_path, monkeypatch):
    """What is finished is not done again."""
    from espnet_ext.inference import extract

    monkeypatch.setattr(extract, "CHUNK_S", 3.0)
    call(fit_units, "--data", place / "data", "--features", "mfcc", "--num_units", 6, "--out", tmp_path / "c")
    options = ("--data", place / "data", "--centroids", tmp_path / "c", "--out", tmp_path / "u")
    real, seen = UnitLabeler.stream, []

    def dies(self, clips, *rest, **more):
        seen.append(len(clips))
        if len(seen) == 3:
            raise KeyboardInterrupt
        yield from real(self, clips, *rest, **more)

    monkeypatch.setattr(UnitLabeler, "stream", dies)
    assert make_units.main([str(option) for option in options]) == 130
    assert not (tmp_path / "u" / "units.scp").exists()
    with pytest.raises(UserError, match="has not finished"):
        UnitFolder.read(tmp_path / "u")
    done = sum(seen[:2])
    seen[:] = [0] * 10
    call(make_units, *options)
    assert sum(seen) == 12 - done
    assert len(units_of(tmp_path / "u")) == 12


def test_a_fit_is_made_once(place, tmp_path, monkeypatch):
    """The same command finds it done; other settings, audio or encoder make it anew, whole or not at all."""
    audio = tmp_path / "audio"
    shutil.copytree(place / "audio", audio)
    tables = {"wav.scp": {path.stem: str(path) for path in audio.iterdir()}}
    DataDir.write(tmp_path / "data", tables)
    shutil.copytree(place / "hf", tmp_path / "hf")
    out = tmp_path / "c"
    options = ["--data", tmp_path / "data", "--features", tmp_path / "hf", "--layers", 1, 2, "--out", out]

    def is_made_anew(*more):
        before = (out / "quantizer.json").stat().st_mtime_ns if out.exists() else 0
        call(fit_units, *options, "--num_units", 5, *more)
        return (out / "quantizer.json").stat().st_mtime_ns != before

    assert is_made_anew() and not is_made_anew() and not is_made_anew("--max_batch_s", 9)
    assert is_made_anew("--seed", 1) and is_made_anew("--max_frames", 300) and is_made_anew() and not is_made_anew()
    os.utime(audio / "u03.wav", ns=(1, 1))
    assert is_made_anew() and not is_made_anew()
    torch.manual_seed(1)
    write_folder(HubertEncoder(**TINY), TINY, tmp_path / "hf")
    assert is_made_anew() and not is_made_anew()
    # Killed between its files: what is there is no centroids, neither old ones nor new ones nor half of each.
    from espnet_ext.cluster.residual import Codebook

    save, whole = Codebook.save, Quantizer.load(out)

    def dies(self, path):
        if path.name == "layer2.npz":
            raise KeyboardInterrupt
        save(self, path)

    monkeypatch.setattr(Codebook, "save", dies)
    assert fit_units.main([str(option) for option in [*options, "--num_units", 4]]) == 130
    with pytest.raises(UserError, match="no centroids that fit_units made"):
        Quantizer.load(out)
    monkeypatch.undo()
    assert is_made_anew_from_nothing(out, lambda: call(fit_units, *options, "--num_units", 5))
    assert Quantizer.load(out).identity == whole.identity


def is_made_anew_from_nothing(out, make):
    assert not (out / "quantizer.json").exists()
    make()
    return (out / "quantizer.json").exists()


def test_units_of_other_centroids_are_not_described_as_these(place, tmp_path, monkeypatch):
    """units.json is there for whole units only, whatever is killed on the way to others."""
    options = ["--data", place / "data", "--centroids", tmp_path / "c", "--out", tmp_path / "u"]
    call(fit_units, "--data", place / "data", "--features", "mfcc", "--num_units", 6, "--out", tmp_path / "c")
    call(make_units, *options)
    before = UnitFolder.read(tmp_path / "u")
    assert before.quantizer == Quantizer.load(tmp_path / "c").identity
    call(fit_units, "--data", place / "data", "--features", "mfcc", "--num_units", 7, "--out", tmp_path / "c")

    def dies(*_, **__):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(UnitLabeler, "stream", dies)
    assert make_units.main([str(option) for option in options]) == 130
    with pytest.raises(UserError, match="has not finished"):
        UnitFolder.read(tmp_path / "u")
    monkeypatch.undo()
    call(make_units, *options)
    assert UnitFolder.read(tmp_path / "u").quantizer != before.quantizer


def test_more_units_than_different_frames(tmp_path, caplog):
    """All frames of a tone whose period is the hop are the same: said, and labels are made all the same."""
    tone = np.tile(0.1 * np.sin(2 * np.pi * 8 * np.arange(160) / 160), 50)
    soundfile.write(tmp_path / "a.wav", tone, 16000)
    DataDir.write(tmp_path / "data", {"wav.scp": {"a": str(tmp_path / "a.wav"), "b": str(tmp_path / "a.wav")}})
    call(fit_units, "--data", tmp_path / "data", "--features", "logmel", "--num_units", 4, "--out", tmp_path / "c")
    assert "logmel: 3 of 4 units (level 0) have no frame: fewer frames differ than there are units" in caplog.text
    assert np.isfinite(Quantizer.load(tmp_path / "c").codebooks[0].centroids).all()
    call(make_units, "--data", tmp_path / "data", "--centroids", tmp_path / "c", "--out", tmp_path / "u")
    assert all(len(set(ids[:, 0].tolist())) == 1 for ids in units_of(tmp_path / "u").values())


def test_what_is_wrong_is_named(place, tmp_path, capsys):
    def error_of(command, *options):
        assert command.main([str(option) for option in options]) == 2
        said = capsys.readouterr().err
        return next(line for line in said.splitlines() if ": error: " in line)

    fit = ("--data", place / "data", "--out", tmp_path / "c")
    (tmp_path / "file").touch()
    in_the_way = ("--data", place / "data", "--out", tmp_path / "file" / "c")
    said = error_of(fit_units, *in_the_way, "--features", "mfcc", "--num_units", 4)
    assert f"{tmp_path / 'file'}" in said and "a file is in the way" in said
    spec = place / "hf"
    assert "has the layers 0 (input of the first) to 2; there is no 3" in error_of(
        fit_units, *fit, "--features", spec, "--layers", 3, "--num_units", 4
    )
    assert "give at least one" in error_of(fit_units, *fit, "--features", spec, "--num_units", 4)
    assert "--layers: 1 is given twice" in error_of(
        fit_units, *fit, "--features", spec, "--layers", 1, 2, 1, "--num_units", 4
    )
    assert "features mfcc have none" in error_of(fit_units, *fit, "--features", "mfcc", "--layers", 1, "--num_units", 4)
    assert "--num_units" in error_of(fit_units, *fit, "--features", "mfcc", "--num_units", 4, 5)
    assert "clusters from" in error_of(fit_units, *fit, "--features", "mfcc", "--num_units", 60000)
    random = ("--features", "logmel:2", "--quantizer", "random_projection", "--num_units")
    assert "--projection_size must be 2 or more" in error_of(fit_units, *fit, *random, 9, "--projection_size", 1)
    assert "--levels must be above 0" in error_of(fit_units, *fit, *random, 9, "--levels", 0)
    assert "--num_units: 65537 is not from 2 to 65536" in error_of(fit_units, *fit, *random, 65537)
    for count in ("0", "x", "-1", "1.5", ""):
        said = error_of(fit_units, *fit, "--features", f"logmel:{count}", "--num_units", 4)
        assert f"--features logmel:{count}: {count or 'nothing'} is no number of frames to stack" in said
    said = error_of(fit_units, *fit, "--features", "logmel:2", "--layers", 1, "--num_units", 4)
    assert "features logmel:2 have none" in said
    with pytest.raises(SystemExit, match="2"):
        fit_units.main([str(option) for option in (*fit, "--features", "mfcc", "--num_units", 4, "--quantizer", "pca")])
    assert "argument --quantizer: invalid choice: 'pca'" in capsys.readouterr().err
    assert "no centroids" in error_of(
        make_units, "--data", place / "data", "--centroids", tmp_path / "none", "--out", tmp_path / "u"
    )
    call(fit_units, *fit, "--features", "mfcc", "--num_units", 4)
    assert "a file is in the way" in error_of(make_units, *in_the_way, "--centroids", tmp_path / "c")
    short = tmp_path / "short.wav"
    soundfile.write(short, np.zeros(300) + 0.1, 16000)
    tables = {"wav.scp": {**DataDir(place / "data").wav_scp, "x": str(short)}}
    DataDir.write(tmp_path / "data", {**tables, "utt2spk": {utt: "s" for utt in tables["wav.scp"]}})
    made = ("--data", tmp_path / "data", "--centroids", tmp_path / "c", "--out", tmp_path / "u")
    assert "utterance x: " in (said := error_of(make_units, *made)) and "300 samples are shorter" in said
    call(make_units, *made, "--skip_broken", "true")
    assert len(units_of(tmp_path / "u")) == 12 and "x " in (tmp_path / "u" / "broken").read_text()
    no_phones = error_of(score_units, "--data", tmp_path / "data", "--units", "a", tmp_path / "u", "--out", tmp_path)
    assert "utt2phones is missing" in no_phones


def test_features_of_another_length_are_refused():
    """A label maker whose frames are not where the encoder's are is found out at once."""

    class Padded(LogMel):
        def __call__(self, wavs):
            return [[np.pad(layer, ((1, 1), (0, 0))) for layer in layers] for layers in super().__call__(wavs)]

    with pytest.raises(UserError, match="100 frames where 98 were expected from 16000 samples"):
        list(FrameReader(Padded()).frames([ArrayClip(np.ones(16000, np.float32), 16000, 16000, "clip")]))


def test_phones_at_times():
    from espnet_ext.datadir.alignment import Interval

    intervals = [Interval("a", 0.0, 0.1), Interval("b", 0.1, 0.3), Interval("c", 0.4, 0.5)]
    times = np.array([0.0, 0.05, 0.1, 0.29, 0.3, 0.45, 0.5, 2.0])
    assert phones_at(intervals, times).tolist() == [0, 0, 1, 1, -1, 2, -1, -1]


def error_of(capsys, command, *options):
    assert command.main([str(option) for option in options]) == 2
    return next(line for line in capsys.readouterr().err.splitlines() if ": error: " in line)


def test_features_by_s3prl_lie_on_the_same_frames(place, tmp_path):
    """s3prl pads: as many frames as the encoder has, the same layers, and units that a training takes."""
    pytest.importorskip("s3prl")
    from espnet_ext.ssl.model import HubertPretraining
    from espnet_ext.ssl.s3prl_format import write_s3prl

    encoder = read_folder(place / "hf")
    write_s3prl(HubertPretraining(encoder, [5]), TINY, 50, tmp_path / "hubert.pt")
    spec = f"s3prl:hubert_local:{tmp_path / 'hubert.pt'}"
    ours, theirs = make_features(str(place / "hf"), [0, 1, 2]), make_features(spec, [0, 1, 2])
    assert (theirs.hop, theirs.field) == (ours.hop, ours.field) == (320, 400)
    rng = np.random.default_rng(0)
    wavs = [0.1 * rng.standard_normal(n).astype(np.float32) for n in (16000, 16079, 16319, 9999, 900)]
    for one, other in zip(ours(wavs), theirs(wavs), strict=True):
        for layer, same in zip(one, other, strict=True):
            torch.testing.assert_close(same, layer, atol=2e-4, rtol=0)
    fit = ("--features", spec, "--layers", 1, "--num_units", 4)
    call(fit_units, "--data", place / "data", *fit, "--out", tmp_path / "c")
    call(make_units, "--data", place / "data", "--centroids", tmp_path / "c", "--out", tmp_path / "u")
    data, folder = DataDir(place / "data"), UnitFolder.read(tmp_path / "u")
    assert all(len(ids) == folder.labels(data.num_samples(utt)) for utt, ids in units_of(tmp_path / "u").items())


def test_a_file_stands_for_its_content(tmp_path):
    """Weights that are written again, or another configuration beside them, are another encoder."""
    weights = tmp_path / "5epoch.pth"
    weights.write_bytes(b"one")
    specs = [str(weights), f"s3prl:hubert_local:{weights}", f"s3prl:other_local:{weights}"]
    first = [identity_of(spec) for spec in specs]
    assert first[0] != first[1] != first[2]
    weights.write_bytes(b"two")
    second = [identity_of(spec) for spec in specs]
    (tmp_path / "config.yaml").write_text("a: 1")
    third = [identity_of(spec) for spec in specs]
    for before, after, now in zip(first, second, third, strict=True):
        assert before != after != now
    weights.write_bytes(b"one")
    (tmp_path / "config.yaml").unlink()
    assert [identity_of(spec) for spec in specs] == first
    assert identity_of("s3prl:hubert_base") == ["s3prl:hubert_base"]


def test_another_encoder_than_the_centroids_were_fitted_to(place, tmp_path, capsys):
    """Other sizes, another hop, another field: said before anything is written, whatever may be left out."""
    fit = ("--data", place / "data", "--features", place / "hf", "--layers", 1, "--num_units", 4)
    call(fit_units, *fit, "--out", tmp_path / "c")
    made = ("--data", place / "data", "--centroids", tmp_path / "c", "--out", tmp_path / "u", "--skip_broken", "true")
    others = {
        "vectors of shape (N, 16) are needed": {"hidden_size": 20},
        "400 samples every 320, do not go with features of layer1, 405 every 320": {"conv_kernel": [35, 6, 5, 2]},
        "400 samples every 320, do not go with features of layer1, 240 every 160": {
            "conv_kernel": [30, 6, 5], "conv_stride": [10, 4, 4], "conv_dim": [8, 8, 12],
        },
    }  # fmt: skip
    for number, (said, change) in enumerate(others.items()):
        conf = TINY | change
        write_folder(HubertEncoder(**conf), conf, tmp_path / f"hf{number}")
        message = error_of(capsys, make_units, *made, "--features", tmp_path / f"hf{number}")
        assert said in message and "were fitted to" in message
        assert not (tmp_path / "u" / "units.scp").exists()


def test_an_encoder_that_changed_since_the_fit(place, tmp_path, capsys):
    """Its layers mean something else: the old centroids are refused, unless somebody names the encoder."""
    shutil.copytree(place / "hf", tmp_path / "hf")
    fit = ("--data", place / "data", "--features", tmp_path / "hf", "--layers", 1, "--num_units", 4)
    call(fit_units, *fit, "--out", tmp_path / "c")
    made = ("--data", place / "data", "--centroids", tmp_path / "c", "--out", tmp_path / "u")
    shutil.rmtree(tmp_path / "hf")
    said = error_of(capsys, make_units, *made)
    assert "hf: no such encoder" in said
    torch.manual_seed(1)
    write_folder(HubertEncoder(**TINY), TINY, tmp_path / "hf")
    said = error_of(capsys, make_units, *made)
    assert f"{tmp_path / 'hf'} is not what {tmp_path / 'c'} was fitted to: it has changed since; fit the" in said
    assert not (tmp_path / "u" / "units.json").exists()
    # Elsewhere it is the same; and who insists has it.
    call(make_units, *made, "--features", place / "hf")
    call(make_units, *made[:-1], tmp_path / "v", "--features", tmp_path / "hf")
    call(fit_units, *fit, "--out", tmp_path / "c")
    call(make_units, *made)


def test_an_encoder_that_diverged(place, tmp_path, capsys):
    call(fit_units, "--data", place / "data", "--features", place / "hf", "--layers", 1, "--num_units", 4, "--out",
         tmp_path / "c")  # fmt: skip
    encoder = HubertEncoder(**TINY)
    encoder.encoder.layers[0].final_layer_norm.weight.data[3] = float("nan")
    write_folder(encoder, TINY, tmp_path / "hf")
    fit = ("--data", place / "data", "--features", tmp_path / "hf", "--layers", 1, "--num_units", 4)
    said = error_of(capsys, fit_units, *fit, "--out", tmp_path / "d")
    assert ".wav: its features hold NaN or infinity" in said and not (tmp_path / "d" / "quantizer.json").exists()
    made = ("--data", place / "data", "--centroids", tmp_path / "c", "--out", tmp_path / "u")
    said = error_of(capsys, make_units, *made, "--features", tmp_path / "hf")
    assert re.search(r"utterance u\d\d: .*u\d\d.wav: .*NaN .*has the encoder diverged", said), said
    assert not (tmp_path / "u" / "units.scp").exists()


def test_utterances_without_phones_are_said(place, tmp_path, caplog):
    shutil.copytree(place / "data", tmp_path / "data")
    lines = (tmp_path / "data/utt2phones").read_text().splitlines(keepends=True)
    (tmp_path / "data/utt2phones").write_text("".join(lines[2:]))
    call(fit_units, "--data", place / "data", "--features", "mfcc", "--num_units", 6, "--out", tmp_path / "c")
    call(make_units, "--data", place / "data", "--centroids", tmp_path / "c", "--out", tmp_path / "u")
    folder_quality(UnitFolder.read(tmp_path / "u"), DataDir(tmp_path / "data"))
    assert "units.scp: 2 utterances (u00, …) have no phones in" in caplog.text
