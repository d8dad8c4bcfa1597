"""``rank`` and ``rank_study`` on the checkpoints of a toy training, and what rank and probes do as dimensions go."""

import csv
import json

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from toy_ssl import ssl_options, write_ssl_corpus

from espnet_ext.bin.rank import main as rank
from espnet_ext.bin.rank_study import main as rank_study
from espnet_ext.bin.train import main as train
from espnet_ext.datadir import DataDir, read_scp, write_scp
from espnet_ext.errors import UserError
from espnet_ext.inference.checkpoints import Checkpoint, find_checkpoints
from espnet_ext.inference.probe_data import ProbeData
from espnet_ext.inference.rank import RankSettings, measure_ranks
from espnet_ext.inference.rank_report import mean_over_layers
from espnet_ext.inference.rank_study import LogMelFloor, probe_layers, trial_eer
from espnet_ext.metrics.correlation import pearson, spearman
from espnet_ext.ssl.features import LogMel
from espnet_ext.ssl.geometry import Geometry
from espnet_ext.train.rank_list import RankList
from espnet_ext.upstream.load import load_upstream


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_ssl_corpus(tmp_path_factory.mktemp("toy study ä"))


@pytest.fixture(scope="module")
def run(corpus):
    """A training of three epochs whose weights were kept after every epoch and before the first."""
    folder = corpus / "exp" / "run"
    conf = "{num_utterances: 10, every_epochs: 1, keep: true}"
    assert train(ssl_options(corpus, folder, "--rank_conf", conf, "--use_tensorboard", "false")) == 0
    return folder


def rows_of(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def said(capsys):
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_checkpoints_of_a_run(run):
    found = find_checkpoints([str(run)])
    steps = [one.step for one in found]
    assert len(found) == 4 and steps[0] == 0 and steps == sorted(steps)
    assert [one.epoch for one in found] == [None, 1, 2, 3]
    assert [one.untrained for one in found] == [True, False, False, False]
    assert found[0].valid_loss is None and all(one.valid_loss > 0 for one in found[1:])
    # The random initialisation is rebuilt exactly, and takes its place where it was not kept.
    begin = run / "0step.pth"
    rebuilt = Checkpoint("init", f"init:{run}").open("cpu").state_dict()
    kept = torch.load(begin, weights_only=True)
    assert all(torch.equal(value, kept[f"encoder.{name}"]) for name, value in rebuilt.items())
    content = begin.read_bytes()
    begin.unlink()
    try:
        assert [(one.spec, one.untrained) for one in find_checkpoints([str(run)])][0] == (f"init:{run}", True)
        assert [one.step for one in find_checkpoints([str(run)])] == steps
    finally:
        begin.write_bytes(content)
    best = find_checkpoints([str(run / "valid.loss_m.best.pth"), "hf:somewhere"])
    assert best[0].epoch in (1, 2, 3) and best[0].step in steps and best[1].step is None
    with pytest.raises(UserError, match="given twice"):
        find_checkpoints([str(run / "3epoch.pth")] * 2)
    # What may be given is said as where one encoder is opened, after what only a list of them takes.
    with pytest.raises(UserError) as opened:
        load_upstream("no/where")
    before, _, kinds = str(opened.value).partition("; give ")
    with pytest.raises(UserError) as found:
        find_checkpoints(["no/where"])
    assert str(found.value) == f"{before}; give the folder of a training, init:SPEC, {kinds}" and "hf:" in kinds


def test_rank_of_a_run(corpus, run, capsys, monkeypatch):
    out = corpus / "rank"
    options = ["--checkpoints", str(run), "--data", f"in={corpus / 'dev'}", f"other={corpus / 'test'}"]
    options += ["--num_utterances", "10", "--frames", "true", "--num_clusters", "3", "--out", str(out)]
    assert rank(options) == 0
    table = capsys.readouterr().out
    rows = rows_of(out / "rank.csv")
    assert len(rows) == 4 * 2 * 3 and {row["num_utterances"] for row in rows} == {"10"}
    # The hook in the training measured the same on the same list; here the encoder is transformers'.
    watched = rows_of(run / "rank.csv")
    mine = [row for row in rows if row["list"] == "in"]
    assert [row["list_checksum"] for row in mine] == [row["list"] for row in watched]
    for one, other in zip(mine, watched, strict=True):
        for key in ("rankme_t", "share", "mean_cosine", "unit_std"):
            assert float(one[key]) == pytest.approx(float(other[key]), rel=1e-3, abs=2e-5)
        assert (one["step"], one["layer"]) == (other["step"], other["layer"])
        assert float(one["frames_rank"]) > 1 and float(one["inertia"]) >= 0
    results = json.loads((out / "results.json").read_text())["results"]
    assert {one["metric"] for one in results} >= {"rankme_t_n10", "inertia"}
    assert (out / "rank.png").read_bytes().startswith(b"\x89PNG") and len((out / "list_in").read_text().split()) == 10
    assert "checksum" in (out / "RESULTS.md").read_text() and "| step " in table
    # Given again: nothing is measured; after a kill, what was measured is not measured again.
    (out / "RESULTS.md").unlink()
    monkeypatch.setattr(Checkpoint, "open", lambda *_: pytest.fail("opened again"))
    assert rank(options) == 0
    assert capsys.readouterr().out == table and (out / "RESULTS.md").is_file()


def test_the_mean_is_that_of_what_layers_give():
    assert mean_over_layers({0: 100.0, 1: 2.0, 2: 4.0, 3: 9.0}) == 5 and mean_over_layers({0: 7.0}) == 7


def test_batches_do_not_matter(corpus, run):
    utterances = RankList(DataDir(corpus / "test"), "test")
    encoder = find_checkpoints([str(run)])[-1].open("cpu")
    values = []
    for batch_s in (0.1, 3.0, 100.0):
        rows = measure_ranks(encoder, utterances, RankSettings(batch_s=batch_s), "cpu")
        values.append([row["rankme_t"] for row in rows])
    np.testing.assert_allclose(values[1:], [values[0]] * 2, rtol=1e-4)
    chosen = measure_ranks(encoder, utterances, RankSettings(layers=(-1, 0)), "cpu")
    assert [row["layer"] for row in chosen] == [0, 2]
    np.testing.assert_allclose([row["rankme_t"] for row in chosen], np.array(values[0])[[0, 2]], rtol=1e-4)


def test_study(corpus, run, capsys):
    out = corpus / "study"
    options = [
        "--checkpoints",
        str(run),
        "--data",
        f"in={corpus / 'dev'}",
        f"other={corpus / 'test'}",
        "--out",
        str(out),
    ]
    options += ["--train", str(corpus / "train"), "--test", str(corpus / "test"), "--num_utterances", "10"]
    assert rank_study(options) == 0
    table = capsys.readouterr().out
    assert "Pearson in" in table and "trained" in table and "regret by loss" in table
    ranks, scores = rows_of(out / "rank.csv"), rows_of(out / "probes.csv")
    results = json.loads((out / "results.json").read_text())["results"]
    for probe in ("phone", "speaker", "eer"):
        for name in ("in", "other"):
            x = [float(row["rankme_t"]) for row in ranks if row["list"] == name and row["layer"] == "2"]
            y = [float(row[probe]) for row in scores if row["layer"] == "2"]
            assert len(x) == len(y) == 4 and all(0 <= value <= 100 for value in y)
            for metric, function in (("pearson", pearson), ("spearman", spearman)):
                where = {"probe": probe, "list": name, "layer": "2"}
                found = next(one for one in results if one["metric"] == metric and one["where"] == where)
                expected = function(x, y)
                assert found["count"] == 4
                trained = next(one for one in results if (one["metric"], one["where"]) == ("spearman_trained", where))
                assert trained["count"] == 3
                assert found["value"] == (None if np.isnan(expected) else pytest.approx(expected))
    floor = {one["metric"]: one["value"] for one in results if one["where"].get("checkpoint") == "log-mel"}
    assert f"phone accuracy (%) of log-mel energies: {floor['probe_phone']:.2f}; of the best layer" in table
    assert (out / "study.png").read_bytes().startswith(b"\x89PNG")


def test_after_a_warm_start_no_encoder_is_untrained(corpus, run, tmp_path, capsys):
    """Step 0 has the weights of another training: it counts among the trained, and is no random initialisation."""
    folder, conf = tmp_path / "warm", "{num_utterances: 4, every_epochs: 1, keep: true}"
    warm = ["--init_param", f"{run / '3epoch.pth'}:encoder:encoder", "--use_tensorboard", "false"]
    assert train(ssl_options(corpus, folder, "--rank_conf", conf, *warm)) == 0
    found = find_checkpoints([str(folder)])
    assert len(found) == 4 and found[0].step == 0 and not any(one.untrained for one in found)
    capsys.readouterr()
    options = ["--checkpoints", str(folder), "--data", str(corpus / "dev"), "--train", str(corpus / "train")]
    options += ["--test", str(corpus / "test"), "--probes", "phone", "--out", str(tmp_path / "study")]
    assert rank_study(options) == 0
    said = capsys.readouterr().out + (tmp_path / "study" / "RESULTS.md").read_text()
    assert "Spearman" in said and "trained |" not in said and "random initialisation" not in said
    # What it began with cannot be made again from its configuration; it is left out, not refused.
    (folder / "0step.pth").unlink()
    assert find_checkpoints([str(folder)]) == found[1:]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"--checkpoints": "nowhere"}, "nowhere: no such encoder"),
        ({"--data": "nowhere"}, "nowhere: no such data directory"),
        ({"--num_utterances": "1"}, "--num_utterances must be at least 2"),
        ({"--layers": "0,9"}, "layer must be from 0"),
        ({"--layers": "last"}, "give whole numbers with commas"),
        ({"--utt_list": "nowhere"}, "nowhere: no list of utterances"),
        ({"--num_clusters": "1"}, "0 or at least 2"),
        ({"--device": "tpu"}, "device 'tpu' is not known"),
    ],
)
def test_mistakes_of_rank(corpus, run, change, message, capsys):
    options = {"--checkpoints": str(run), "--data": str(corpus / "dev"), "--out": str(corpus / "mistake")} | change
    assert rank([word for pair in options.items() for word in pair]) == 2
    assert message in said(capsys) and not (corpus / "mistake" / "RESULTS.md").exists()


def test_a_missing_checkpoint_is_noticed_before_the_first_is_measured(corpus, run, capsys, tmp_path):
    given = ["--checkpoints", str(run), str(run / "99epoch.pth"), "--data", str(corpus / "dev")]
    assert rank([*given, "--out", str(tmp_path / "out")]) == 2
    assert "99epoch.pth: no such encoder" in said(capsys) and not (tmp_path / "out").exists()


def test_mistakes_of_study(corpus, run, capsys):
    def command(**change):
        options = {"checkpoints": str(run), "data": str(corpus / "dev"), "train": str(corpus / "train")}
        options |= {"test": str(corpus / "test"), "out": str(corpus / "mistake")} | change
        return rank_study([word for key, value in options.items() for word in (f"--{key}", value)])

    assert command(test=str(corpus / "train")) == 2 and "share 32 utterances" in said(capsys)
    assert command(checkpoints=str(run / "3epoch.pth")) == 2 and "3 encoders or more" in said(capsys)
    bare = corpus / "bare"
    DataDir.write(bare, {"wav.scp": DataDir(corpus / "test").wav_scp})
    assert command(probes="phone", test=str(bare)) == 2 and "bare/utt2phones is missing" in said(capsys)
    assert command(train=str(bare), test=str(bare)) == 2 and "no labels for any probe" in said(capsys)
    (bare / "utt2phones").write_text("someone a:0:1\n")
    assert command(probes="phone", test=str(bare)) == 2 and "no line for" in said(capsys)
    assert not (corpus / "mistake" / "RESULTS.md").exists()


def test_checkpoints_of_other_sizes(corpus, run, capsys, tmp_path):
    other = tmp_path / "wider"
    conf = ssl_options(corpus, other, "--max_epoch", "1", "--use_tensorboard", "false")
    conf[conf.index("--encoder_conf") + 1] = conf[conf.index("--encoder_conf") + 1].replace("size: 24", "size: 32")
    assert train(conf) == 0
    options = ["--checkpoints", str(run / "3epoch.pth"), str(other / "1epoch.pth"), "--data", str(corpus / "dev")]
    assert rank([*options, "--num_utterances", "4", "--out", str(tmp_path / "out")]) == 2
    assert "3 layer(s) of 32" in (last := said(capsys)) and "do not compare" in last


class Reduced(torch.nn.Module):
    """An encoder whose layers keep only the first ``r`` of given directions; 0: a constant."""

    def __init__(self, encoder, directions, r):
        super().__init__()
        self.encoder, self.r = encoder, r
        self.kept = directions[:, :, :r] @ directions[:, :, :r].mT if r else None
        self.num_layers, self.samples_for = encoder.num_layers, encoder.samples_for
        self.frames_past_end = encoder.frames_past_end

    def hidden_states(self, wav, lengths):
        states, frames = self.encoder.hidden_states(wav, lengths)
        if not self.r:
            return torch.ones_like(states), frames
        return torch.stack([hidden @ kept for hidden, kept in zip(states, self.kept, strict=True)]), frames


def test_rank_and_probe_fall_with_the_dimensions(corpus, run):
    """Direction (a) of the specification: projected onto fewer singular vectors, rank falls, and the probe with it."""
    encoder = find_checkpoints([str(run)])[-1].open("cpu")
    train_list, test_list = (RankList(DataDir(corpus / name), name) for name in ("train", "test"))
    rows = [[] for _ in range(encoder.num_layers)]
    from espnet_ext.train.rank import pooled_layers

    for _, vectors in pooled_layers(encoder.hidden_states, train_list.batches()):
        for layer, found in zip(rows, vectors, strict=True):
            layer.append(found)
    directions = torch.stack([torch.from_numpy(np.linalg.svd(np.concatenate(layer))[2].T).float() for layer in rows])
    data = ProbeData(train_list, test_list, ("phone",))
    ranks, scores = {}, {}
    for r in (24, 12, 6, 2, 1):
        reduced = Reduced(encoder, directions, r)
        ranks[r] = [row["rankme_t"] for row in measure_ranks(reduced, train_list, RankSettings(), "cpu")]
        if r in (24, 2):
            scores[r] = [row["phone"] for row in probe_layers(reduced, data, "cpu")]
    falling = np.array([ranks[r] for r in (24, 12, 6, 2, 1)])
    assert (np.diff(falling, axis=0) < 0).all() and (falling[-1] < 1.01).all()
    assert (np.array(scores[2]) < np.array(scores[24])).all()
    constant = measure_ranks(Reduced(encoder, directions, 0), train_list, RankSettings(), "cpu")
    assert [row["rankme_t"] for row in constant] == pytest.approx([1, 1, 1], abs=2e-3)
    assert constant[0]["mean_cosine"] == pytest.approx(1)


class Spectrum(torch.nn.Module):
    """Layer 0 says nothing, layer 1 is the log spectrum of every 25 ms."""

    num_layers = 2
    frames_past_end = False

    def samples_for(self, frames):
        return 320 * (frames - 1) + 400

    def hidden_states(self, wav, lengths):
        power = torch.fft.rfft(wav.unfold(1, 400, 320) * torch.hann_window(400))[..., :80].abs()
        said = torch.log(power + 1e-2)
        return torch.stack([torch.ones_like(said), said]), (lengths - 400) // 320 + 1


def test_probes_find_what_is_there(corpus):
    """Toy vowels are formants and toy speakers harmonics: a spectrum shows both, a constant neither."""
    train_list, test_list = (RankList(DataDir(corpus / name), name) for name in ("train", "test"))
    data = ProbeData(train_list, test_list, ("phone", "speaker", "eer"))
    blind, seeing = probe_layers(Spectrum(), data, "cpu")
    assert seeing["phone"] > 90 and seeing["speaker"] > 90 and seeing["eer"] > 80
    assert blind["phone"] < 60 and blind["speaker"] < 30 and blind["eer"] == pytest.approx(50)
    again = probe_layers(Spectrum(), data, "cpu", batch_s=0.5)[1]
    assert again == pytest.approx(seeing, abs=0.5)


class Padded(Spectrum):
    """As s3prl has it: the same frames and one or two more, and 50 ms for anything shorter."""

    hop_length = 320
    frames_past_end = True

    def samples_for(self, frames):
        return max(800, 320 * (frames - 1) + 1)

    def hidden_states(self, wav, lengths):
        states, frames = super().hidden_states(torch.nn.functional.pad(wav, (0, 719)), lengths)
        return states, (lengths - 1) // 320 + 1


class Somewhere(Spectrum):
    """As a speaker model has it: so many samples are enough for so many frames."""

    def samples_for(self, frames):
        return 900 * frames


def test_phones_lie_where_frames_do(corpus):
    """Of padded frames too; where it is not known, nothing is scored."""
    train_list, test_list = (RankList(DataDir(corpus / name), name) for name in ("train", "test"))
    data = ProbeData(train_list, test_list, ("phone",))
    seeing, padded = probe_layers(Spectrum(), data, "cpu")[1], probe_layers(Padded(), data, "cpu")[1]
    assert padded["phone"] == pytest.approx(seeing["phone"], abs=1) and seeing["phone"] > 90
    with pytest.raises(UserError, match=r"utterance s.*: \d+ frames of \d+ samples; .*leave the phone probe out"):
        probe_layers(Somewhere(), data, "cpu")
    assert probe_layers(Somewhere(), ProbeData(train_list, test_list, ("speaker",)), "cpu")[1]["speaker"] > 90


def test_log_mel_frames_lie_as_those_of_hubert(corpus):
    floor, data = LogMelFloor(), DataDir(corpus / "test")
    wavs = [torch.from_numpy(data.audio(utt)) for utt in data.utterances[:3]]
    lengths = torch.tensor([len(wav) for wav in wavs])
    states, frames = floor.hidden_states(torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True), lengths)
    assert frames.tolist() == Geometry().frames(lengths).tolist() and floor.samples_for(9) == Geometry().samples_for(9)
    for row, wav in enumerate(wavs):
        alone = LogMel()([wav[320 * 4 : 320 * 4 + 400].numpy()])[0][0]
        np.testing.assert_allclose(states[0, row, 4].numpy(), alone[0], atol=1e-5)


def test_nothing_is_scored_on_what_it_was_trained_on(corpus):
    data = ProbeData(*(RankList(DataDir(corpus / name), name) for name in ("train", "test")), ("speaker",))
    speakers, held_out = data.speaker_split
    assert set(speakers) == set(data.train.lengths) and len(held_out) == 8
    assert {speakers[utt] for utt in held_out} == set(speakers.values())
    assert held_out == {utt for utt in speakers if utt.endswith("-03")}  # the last of four
    # With sessions, the whole last one of each speaker.
    table = {utt: f"{utt[:3]}-{int(utt[-1]) // 2}" for utt in speakers}
    write_scp(corpus / "train" / "utt2session", table)
    data = ProbeData(*(RankList(DataDir(corpus / name), name) for name in ("train", "test")), ("speaker",))
    assert data.speaker_split[1] == {utt for utt in speakers if utt[-1] in "23"}
    (corpus / "train" / "utt2session").unlink()


def discriminant_accuracy(x, labels, test_x, test_labels, shrinkage):
    """Of scikit-learn's analysis, in %; features of mean 0 and variance 1."""
    mean, deviation = np.mean(x, axis=0), np.std(x, axis=0)
    peer = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit((x - mean) / deviation, labels)
    return 100 * peer.score((test_x - mean) / deviation, test_labels)


def test_probes_against_scikit_learn(corpus):
    """Phones of frames by loops over the table, speakers of means, each by its discriminant analysis."""
    lists = [RankList(DataDir(corpus / name), name) for name in ("train", "test")]
    data = ProbeData(*lists, ("phone", "speaker"))
    scores = probe_layers(Spectrum(), data, "cpu")[1]
    frames, labels, means = ([], []), ([], []), {}
    for place, one in enumerate(lists):
        for utt, line in read_scp(one.data.path / "utt2phones").items():
            wav = torch.from_numpy(one.data.audio(utt))[None]
            hidden = Spectrum().hidden_states(wav, torch.tensor([wav.size(1)]))[0][1, 0].double().numpy()
            means[utt] = hidden.mean(axis=0)
            phones = [word.split(":") for word in line.split()]
            for frame, vector in enumerate(hidden):
                middle_s = (320 * frame + 200) / 16000
                found = [label for label, start, end in phones if float(start) <= middle_s < float(end)]
                frames[place].extend([vector] * len(found))
                labels[place].extend(found)
    expected = discriminant_accuracy(frames[0], labels[0], frames[1], labels[1], 1e-3)
    assert scores["phone"] == pytest.approx(expected, abs=0.2) and len(set(labels[0])) == 3
    speakers, held_out = data.speaker_split
    learnt = [utt for utt in speakers if utt not in held_out]
    both = [([means[utt] for utt in utts], [speakers[utt] for utt in utts]) for utts in (learnt, sorted(held_out))]
    assert scores["speaker"] == pytest.approx(discriminant_accuracy(*both[0], *both[1], 0.1))


def test_eer_of_known_vectors(corpus):
    data = DataDir(corpus / "test")
    rng = np.random.default_rng(0)
    voices = {speaker: rng.normal(size=8) for speaker in data.spk2utt}
    vectors = {utt: voices[speaker] + 0.01 * rng.normal(size=8) for utt, speaker in data.utt2spk.items()}
    assert trial_eer(vectors, data.trials(), data.path) == 0
    few = {utt: vectors[utt] for utt in data.utterances[:2]}
    with pytest.raises(UserError, match="raise --num_test"):
        trial_eer(few, data.trials(), data.path)
