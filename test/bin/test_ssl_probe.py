"""``ssl_probe`` on a toy training: masked accuracy as it was noted, probes whose layer the test data do not choose."""

import datetime
import json
import shutil

import numpy as np
import pytest
import torch
from toy_ssl import ssl_options, write_ssl_corpus

from espnet_ext.bin.ssl_probe import main as ssl_probe
from espnet_ext.bin.train import main as train
from espnet_ext.datadir import DataDir, write_scp
from espnet_ext.errors import UserError
from espnet_ext.inference.checkpoints import Checkpoint
from espnet_ext.inference.probe_data import ProbeData
from espnet_ext.inference.rank_study import LogMelFloor, probe_layers
from espnet_ext.inference.ssl_probe import choose_probes, chosen, open_checkpoint, open_lists, read_training
from espnet_ext.ssl.quantizer import Stream
from espnet_ext.ssl.units import UnitFolder, read_units, write_units
from espnet_ext.train.rank_list import RankList


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = write_ssl_corpus(tmp_path_factory.mktemp("toy probe ä"))
    assert train(ssl_options(folder, folder / "exp", "--use_tensorboard", "false")) == 0
    return folder


def options_of(corpus, **change):
    options = {"exp": corpus / "exp", "dev_units": corpus / "units" / "dev", "out": corpus / "probe"}
    options |= {name: corpus / name for name in ("train", "dev", "test")} | change
    return [word for key, value in options.items() if value is not None for word in (f"--{key}", str(value))]


def lists_of(corpus):
    return [RankList(DataDir(corpus / name), name) for name in ("train", "dev", "test")]


def test_what_an_encoder_came_to(corpus, capsys, monkeypatch):
    options = options_of(corpus, cache=corpus / "floors", seed=3)
    assert ssl_probe(options) == 0
    said = capsys.readouterr().out
    content = json.loads((corpus / "probe/results.json").read_text())
    results = content["results"]
    assert content["run"]["seed"] == 3

    def value(metric, **where):
        (found,) = [r for r in results if r["metric"] == metric and where.items() <= r["where"].items()]
        return found["value"]

    # The training, from its own notes at the epoch with the lowest loss.
    stats = torch.load(corpus / "exp/checkpoint.pth", weights_only=False)["reporter"]["stats"]
    best = min(stats, key=lambda epoch: stats[epoch]["valid"]["loss_m"])
    assert value("acc_m") == stats[best]["valid"]["acc_m"] and value("loss_m") == stats[best]["valid"]["loss_m"]
    seconds = sum(both[part]["time"].total_seconds() for both in stats.values() for part in ("train", "valid"))
    assert value("train_s") == pytest.approx(seconds) and value("steps") == stats[best]["train"]["total_count"]
    # The units alone.
    folder = UnitFolder.read(corpus / "units/dev")
    share = np.bincount(np.concatenate([read_units(place)[:, 0] for place in folder.places().values()])) / 1.0
    share = share[share > 0] / share.sum()
    assert value("commonest") == pytest.approx(share.max())
    assert value("bits") == pytest.approx(-(share * np.log2(share)).sum())
    # The probes: dev scores are what they were if dev were the test data, and they alone choose the layer.
    train_list, dev, test = lists_of(corpus)
    encoder = open_checkpoint(corpus / "exp", "valid.loss_m.best.pth").open("cpu")
    on_test = probe_layers(encoder, ProbeData(train_list, test, ("phone", "speaker", "eer")), "cpu")
    on_dev = probe_layers(encoder, ProbeData(train_list, dev, ("phone", "eer")), "cpu")
    for probe in ("phone", "eer"):
        for layer in range(encoder.num_layers):
            where = {"system": "encoder", "layer": str(layer)}
            assert value(f"probe_{probe}", **where) == pytest.approx(on_test[layer][probe])
            assert value(f"probe_dev_{probe}", **where) == pytest.approx(on_dev[layer][probe])
        layer = int(np.argmax([row[probe] for row in on_dev]))
        assert value(f"chosen_{probe}", system="encoder") == pytest.approx(on_test[layer][probe])
    floor = probe_layers(LogMelFloor(), ProbeData(train_list, test, ("phone",)), "cpu")[0]
    assert value("chosen_phone", system="log-mel") == pytest.approx(floor["phone"])
    assert said.count("**") == 2 * 3 and "log-mel energies" in said
    assert "commonest unit" in (corpus / "probe/RESULTS.md").read_text()
    # Another encoder: the floor is known; the same once more: nothing is opened.
    monkeypatch.setattr(LogMelFloor, "open", lambda *_: pytest.fail("opened again"))
    assert ssl_probe(options_of(corpus, cache=corpus / "floors", model_file="3epoch.pth", out=corpus / "last")) == 0
    monkeypatch.setattr(Checkpoint, "open", lambda *_: pytest.fail("opened again"))
    assert ssl_probe(options) == 0


def test_any_encoder(corpus, capsys):
    """The encoder of a training probed as a file gives the same scores; units are probed as well."""
    best = str((corpus / "exp/valid.loss_m.best.pth").resolve())
    assert ssl_probe(options_of(corpus, encoder=best, out=corpus / "any", exp=None, dev_units=None)) == 0
    assert "masked" not in capsys.readouterr().out
    assert ssl_probe(options_of(corpus, out=corpus / "same")) == 0
    scores = [
        {(r["metric"], *r["where"].values()): r["value"] for r in json.loads(path.read_text())["results"]}
        for path in (corpus / "any/results.json", corpus / "same/results.json")
    ]
    assert scores[0] and scores[0].items() < scores[1].items()
    units = {"encoder": f"units:{corpus / 'centroids'}", "exp": None, "dev_units": None}
    assert ssl_probe(options_of(corpus, out=corpus / "units_probe", **units)) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[-2].startswith("| 0 ") or "| 0 |" in rows[-2].replace(" ", " ")
    more = ["--probes", "eer"]
    assert ssl_probe([*options_of(corpus, out=corpus / "eer_probe", **units), *more]) == 0
    content = json.loads((corpus / "eer_probe/results.json").read_text())
    assert {result["metric"] for result in content["results"]} == {"probe_eer", "probe_dev_eer", "chosen_eer"}
    for name in ("train", "dev", "test"):
        DataDir.write(corpus / "bare" / name, {"wav.scp": DataDir(corpus / name).wav_scp})
    bare = {name: corpus / "bare" / name for name in ("train", "dev", "test")}
    assert ssl_probe(options_of(corpus, out=corpus / "none", **units, **bare)) == 2
    assert "no labels for any probe; add utt2phones or utt2spk" in capsys.readouterr().err
    assert ssl_probe(options_of(corpus, exp=None, dev_units=None, encoder=corpus / "exp")) == 2
    assert "checkpoints; give --exp, or one file of them" in capsys.readouterr().err
    assert ssl_probe(options_of(corpus, dev_units=None)) == 2
    assert "--exp and --dev_units go together" in capsys.readouterr().err


def test_speakers_choose_a_layer_by_other_utterances(corpus):
    train_list, dev, test = lists_of(corpus)
    data = ProbeData(train_list, test, ("speaker",), dev)
    (speakers, held_out), (of_rest, chooses) = data.speaker_split, data.speaker_dev_split
    assert set(of_rest) == set(speakers) - held_out and not chooses & held_out
    assert {speakers[utt] for utt in chooses} == set(speakers.values())
    rows = [{"layer": layer, "dev_speaker": score} for layer, score in enumerate((1.0, 3.0, 3.0))]
    assert chosen(rows, "speaker")["layer"] == 1


def test_trials_are_drawn_where_there_are_none(corpus, tmp_path, caplog):
    for name in ("train", "dev", "test"):
        shutil.copytree(corpus / name, tmp_path / name)
        (tmp_path / name / "trials").unlink(missing_ok=True)
    data = choose_probes(*lists_of(tmp_path))
    assert data.probes == ("phone", "speaker", "eer")
    trials = data.trials(data.test)
    speakers = data.test.data.utt2spk
    same = [speakers[a] == speakers[b] for a, b in zip(trials.enroll, trials.test, strict=True)]
    assert same == trials.labels.astype(bool).tolist() and 0 < sum(same) == len(same) / 2
    assert data.trials(data.test).enroll == trials.enroll
    rows = probe_layers(LogMelFloor(), data, "cpu")
    assert rows[0]["eer"] > 80  # toy speakers are harmonics
    # A dev set of one speaker, and one without phones, cannot choose: those probes are left out, and it is said.
    (tmp_path / "dev/utt2phones").unlink()
    write_scp(tmp_path / "dev/utt2spk", dict.fromkeys(DataDir(tmp_path / "dev").utt2spk, "one"))
    assert choose_probes(*lists_of(tmp_path)).probes == ("speaker",)
    assert "left out: phone accuracy" in caplog.text and "dev/utt2phones is missing" in caplog.text
    assert "there is only one speaker" in caplog.text


def test_nothing_at_all_to_probe(corpus, tmp_path, capsys):
    for name in ("train", "dev", "test"):
        DataDir.write(tmp_path / name, {"wav.scp": DataDir(corpus / name).wav_scp})
    change = {name: tmp_path / name for name in ("train", "dev", "test")}
    assert ssl_probe(options_of(corpus, out=tmp_path / "out", **change)) == 0
    metrics = {r["metric"] for r in json.loads((tmp_path / "out/results.json").read_text())["results"]}
    assert "acc_m" in metrics and not any(metric.startswith(("probe", "chosen")) for metric in metrics)
    assert "masked accuracy" in capsys.readouterr().out


def test_the_test_data_may_be_a_part_of_the_dev_data(corpus):
    train_data, dev, test = (DataDir(corpus / name) for name in ("train", "dev", "test"))
    part = DataDir(corpus / "dev")
    part.utterances = dev.utterances[:5]
    lists = open_lists(train_data, dev, part, 100, 100, False)
    assert list(lists[1].lengths) == dev.utterances[5:] and list(lists[2].lengths) == dev.utterances[:5]
    with pytest.raises(UserError, match="layers have to be chosen on something else"):
        open_lists(train_data, test, test, 100, 100, False)


def test_several_streams(tmp_path):
    """Every stream has its own accuracy and counts; of an average of epochs the best one's are taken."""
    rng = np.random.default_rng(0)
    units = rng.integers(0, 4, (50, 2)).astype(np.uint16)
    units[:40, 1] = 7
    with open(tmp_path / "units.ark", "wb") as file:
        file.write(b"utt ")
        place = file.tell()
        write_units(file, units)
    write_scp(tmp_path / "units.scp", {"utt": f"{tmp_path / 'units.ark'}:{place}"})
    streams = (Stream("layer1_q0", 4, 1, 0), Stream("layer1_q1", 8, 1, 1))
    folder = UnitFolder(tmp_path, streams, 320, 400, "")

    def noted(loss, accuracies):
        both = {f"acc_m_layer1_q{n}": value for n, value in enumerate(accuracies)}
        time = datetime.timedelta(seconds=10)
        return {
            "train": {"time": time, "total_count": int(100 / loss)},
            "valid": {"time": time, "loss_m": loss, "loss_m_layer1_q0": 1.5, "loss_m_layer1_q1": 0.5, **both},
        }

    stats = {1: noted(2.0, (0.1, 0.2)), 2: noted(1.0, (0.3, 0.4)), 3: noted(1.5, (0.5, 0.6))}
    torch.save({"reporter": {"stats": stats}}, tmp_path / "checkpoint.pth")
    config = "accum_grad: 2\npreprocessor: units\nstream_names: [layer1_q0, layer1_q1]\n"
    (tmp_path / "config.yaml").write_text(config + "quantizers: ['']\n")
    found = read_training(tmp_path, Checkpoint("ave", "ave.pth"), [folder])
    assert (found.epoch, found.steps, found.seconds) == (2, 50, 60)
    assert [(one.name, one.accuracy, one.loss) for one in found.streams] == [
        ("layer1_q0", 0.3, 1.5),
        ("layer1_q1", 0.4, 0.5),
    ]
    assert found.streams[1].commonest >= 0.8 and found.streams[0].entropy > 1 > found.streams[1].entropy
    assert read_training(tmp_path, Checkpoint("one", "1epoch.pth", epoch=1), [folder]).streams[0].accuracy == 0.1
    with pytest.raises(UserError, match="knows nothing of epoch 9"):
        read_training(tmp_path, Checkpoint("nine", "9epoch.pth", epoch=9), [folder])
    # Two folders, as two streams each of its own: by their names in the training; one of them is not what it predicted.
    halves = [UnitFolder(tmp_path, (Stream("same", 8),), 320, 400, name) for name in "ab"]
    with open(tmp_path / "units.ark", "r+b") as file:
        file.seek(place)
        write_units(file, units[:, 1:])
    (tmp_path / "config.yaml").write_text(config + "quantizers: [a, b]\ndev_units: [x/a, x/b]\n")
    found = read_training(tmp_path, Checkpoint("two", "2epoch.pth", epoch=2), halves)
    assert [(one.name, one.accuracy, one.loss) for one in found.streams] == [
        ("layer1_q0", 0.3, 1.5),
        ("layer1_q1", 0.4, 0.5),
    ]
    for wrong in (halves[:1], halves[::-1], [folder]):
        with pytest.raises(UserError, match="not the units that .* predicted; .* which were x/a x/b"):
            read_training(tmp_path, Checkpoint("two", "2epoch.pth", epoch=2), wrong)
    (tmp_path / "config.yaml").write_text("preprocessor: spk\n")
    with pytest.raises(UserError, match="no training of task ssl"):
        read_training(tmp_path, Checkpoint("two", "2epoch.pth", epoch=2), halves)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"exp": "nowhere"}, "nowhere/valid.loss_m.best.pth: no such file"),
        ({"model_file": "no.pth"}, "no.pth: no such file"),
        ({"dev_units": "nowhere"}, "nowhere: no units that make_units made"),
        ({"train": "nowhere"}, "nowhere: no such data directory"),
        ({"num_train": 1}, "--num_train and --num_test have to be at least 2"),
        ({"device": "tpu"}, "device 'tpu' is not known"),
    ],
)
def test_mistakes(corpus, change, message, capsys):
    assert ssl_probe(options_of(corpus, **({"out": corpus / "mistake"} | change))) == 2
    assert message in capsys.readouterr().err and not (corpus / "mistake/RESULTS.md").exists()
