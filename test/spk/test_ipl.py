"""Iterative pseudo-labelling without audio: pruning, holding out, agreement, stopping, the report."""

import json
import math
from collections import Counter

import numpy as np
import pytest
from kaldiio import WriteHelper
from sklearn.metrics import normalized_mutual_info_score

from espnet_ext.datadir import DataDir, Trials, read_scp, read_trials, write_scp, write_trials
from espnet_ext.errors import UserError
from espnet_ext.spk import ipl
from espnet_ext.spk.ipl_report import Yardstick, find_rounds, report_floor, report_round, write_report

SIZES = {"0": 9, "1": 6, "2": 4, "10": 5, "3": 1}
CLUSTERS = {f"u{c}-{i}": c for c, size in SIZES.items() for i in range(size)}


def test_small_clusters_are_dropped_and_names_sort_as_numbers():
    labels = ipl.pseudo_speakers(CLUSTERS, 5)
    assert Counter(labels.values()) == {"c00": 9, "c01": 6, "c10": 5}
    assert all(int(label[1:]) == int(CLUSTERS[utt]) for utt, label in labels.items())
    assert len(ipl.pseudo_speakers(CLUSTERS, 1)) == len(CLUSTERS)


@pytest.mark.parametrize(
    "clusters, message",
    [
        (dict.fromkeys(CLUSTERS, "0"), "1 of 1 clusters have 5 utterances or more"),  # k = 1
        ({utt: str(i) for i, utt in enumerate(CLUSTERS)}, "0 of 25 clusters"),  # all are pruned
    ],
)
def test_one_class_is_no_training(clusters, message):
    with pytest.raises(UserError, match=message):
        ipl.pseudo_speakers(clusters, 5)


@pytest.mark.parametrize("num", [2, 7, 12, 1000])
def test_pairs_are_held_out_and_every_pseudo_speaker_stays(num):
    labels = ipl.pseudo_speakers(CLUSTERS, 4)
    held = ipl.hold_out(labels, num, 4, seed=1)
    assert len(held) <= num + 1 and len(held) == len(set(held)) and held == sorted(held)
    assert all(count % 2 == 0 for count in Counter(labels[utt] for utt in held).values())
    left = Counter(labels[utt] for utt in labels.keys() - set(held))
    assert min(left.values()) >= 2 and left.keys() == set(labels.values())
    assert held == ipl.hold_out(dict(reversed(labels.items())), num, 4, seed=1)
    trials = ipl.pseudo_trials(labels, ipl.hold_out(labels, 8, 4), 10)
    same = [labels[a] == labels[b] for a, b in zip(trials.enroll, trials.test, strict=True)]
    assert same == trials.labels.astype(bool).tolist() and 0 < sum(same) < len(same)


def test_agreement_is_nmi_on_what_both_rounds_kept():
    rng = np.random.default_rng(0)
    a = {f"u{i}": f"c{rng.integers(5)}" for i in range(200)}
    b = {f"u{i}": f"c{rng.integers(7)}" for i in range(50, 250)}
    both = sorted(a.keys() & b.keys())
    expected = normalized_mutual_info_score([a[u] for u in both], [b[u] for u in both])
    assert ipl.agreement(a, b) == pytest.approx(expected, abs=1e-12)
    assert ipl.agreement(a, {u: f"x{c}" for u, c in a.items()}) == pytest.approx(1)
    assert math.isnan(ipl.agreement(a, {"other": "c0"}))


def test_it_settles_from_round_three_on():
    """|a_3 - a_2| < .005; the first round has nothing to agree with."""
    assert not ipl.is_settled([None]) and not ipl.is_settled([None, 0.9])
    assert ipl.is_settled([None, 0.9, 0.9049]) and not ipl.is_settled([None, 0.9, 0.906])
    assert not ipl.is_settled([None, 0.9, float("nan")])
    assert ipl.is_settled([None, 0.5, 0.9, 0.899]) and not ipl.is_settled([None, 0.9, 0.9, 0.8])


def test_sessions_of_clusters():
    labels = {"a": "0", "b": "0", "c": "0", "d": "1"}
    found = ipl.Spread.of(labels, {"a": "x", "b": "x", "c": "y", "d": "y"})
    assert (found.clusters, found.utterances, found.sizes) == (2, 4, (1, 2, 3))
    assert found.sessions == {"per_cluster": 1.5, "largest_share": 0.75}
    assert ipl.Spread.of(labels).sessions == {}


def write_embeddings(folder, vectors):
    folder.mkdir(parents=True)
    with WriteHelper(f"ark,scp:{folder / 'embedding.ark'},{folder / 'embedding.scp'}") as writer:
        for utt, vector in vectors.items():
            writer(utt, vector.astype(np.float32))


@pytest.fixture
def experiment(tmp_path):
    """Three rounds on 6 training and 5 test speakers; later embeddings are less noisy. Returns the folder and tests."""
    rng = np.random.default_rng(3)
    names = {"train": [f"s{s}-{i}" for s in range(6) for i in range(8)]}
    names["test"] = [f"t{s}-{i}" for s in range(5) for i in range(6)]
    centres = {name.split("-")[0]: rng.standard_normal(16) for group in names.values() for name in group}
    for round_, noise in enumerate((3.0, 1.5, 0.3)):
        for name, utterances in names.items():
            vectors = {u: 5 + centres[u.split("-")[0]] + noise * rng.standard_normal(16) for u in utterances}
            write_embeddings(tmp_path / f"exp/r{round_}/embeddings" / name, vectors)
    test = names["test"]
    pairs = [(a, b) for i, a in enumerate(test) for b in test[:i]]
    labels = np.array([a.split("-")[0] == b.split("-")[0] for a, b in pairs], dtype=np.int8)
    (tmp_path / "dump/test").mkdir(parents=True)
    write_trials(tmp_path / "dump/test/trials", Trials([a for a, _ in pairs], [b for _, b in pairs], labels))
    write_scp(tmp_path / "dump/test/utt2spk", {u: u.split("-")[0] for u in test})
    write_scp(tmp_path / "speakers", {u: u.split("-")[0] for u in names["train"]})
    data = {"wav.scp": {u: f"{u}.wav" for u in names["train"]}, "utt2spk": {u: u for u in names["train"]}}
    data["utt2session"] = {u: u[:-1] + str(int(u[-1]) // 4) for u in names["train"]}
    DataDir.write(tmp_path / "dump/train", data)
    tests = Yardstick({"test": [str(tmp_path / "dump/test/trials")]}, "train", tmp_path / "speakers", num_bootstrap=10)
    return tmp_path, tests


def pseudo_label(folder, round_, clusters, *options):
    from espnet_ext.bin.pseudo_label import main

    out = folder / f"exp/r{round_}"
    write_scp(out / "clusters/utt2cluster", clusters)
    more = ["--previous", out.parent / f"r{round_ - 1}", "--num_dev_utterances", "8", *options]
    command = ["--data", folder / "dump/train", "--clusters", out / "clusters/utt2cluster", "--out", out, *more]
    return main([str(word) for word in command])


def test_rounds_and_their_report(experiment):
    folder, tests = experiment
    truth = read_scp(tests.speakers)
    noisy = {utt: str((int(spk[1:]) + (int(utt[-1]) == 0)) % 6) for utt, spk in truth.items()}
    assert pseudo_label(folder, 1, noisy) == 0
    assert pseudo_label(folder, 2, {utt: spk[1:] for utt, spk in truth.items()}) == 0
    train, dev = DataDir(folder / "exp/r1/train"), folder / "exp/r1/dev"
    labels = read_scp(folder / "exp/r1/pseudo_labels")
    held = set(read_scp(dev / "wav.scp"))
    assert labels.keys() == set(train.utterances) | held and not held & set(train.utterances) and len(held) == 8
    assert set(read_trials(dev / "trials").utterances) <= held and not (dev / "utt2spk").exists()
    rows = [report_round(name, round_, tests) for name, round_ in find_rounds(folder / "exp", tests)]
    assert [row.name for row in rows] == ["0", "1", "2"]
    eers = [row.value("eer", ("test", "all")).value for row in rows]
    assert eers[0] > eers[1] > eers[2]
    assert rows[2].oracle == {"nmi": pytest.approx(1), "purity": 1, "speakers": 6}
    assert rows[1].oracle["purity"] == pytest.approx(7 / 8)
    assert rows[1].labels["agreement"] is None
    names, found = zip(*((labels[u], truth[u]) for u in labels), strict=True)
    assert rows[2].labels["agreement"] == pytest.approx(normalized_mutual_info_score(names, found))
    assert rows[1].labels["kept"]["sessions"]["per_cluster"] == pytest.approx(2.5, abs=0.51)
    floor = report_floor(
        "MFCC", [tests.scp(folder / "exp/r0", name) for name in ("train", "test")], folder / "exp", tests
    )
    table = write_report(folder / "exp", rows, [floor], {"seed": 0})
    assert "oracle: NMI" in table and table.count("\n") == 5
    results = json.loads((folder / "exp/results.json").read_text())["results"]
    assert {r["where"]["round"] for r in results if r["metric"] == "eer"} == {"MFCC", "0", "1", "2"}
    assert (folder / "exp/rounds.png").stat().st_size > 5000 and "oracle" in (folder / "exp/RESULTS.md").read_text()
    # Read again from report.json; made anew where the embeddings are newer.
    assert report_round("2", folder / "exp/r2", tests) == rows[2]
    tests.seed = 1
    assert report_round("2", folder / "exp/r2", tests).results[0].value == rows[2].results[0].value


def test_labels_of_one_clustering(experiment, capsys):
    """Made again with other options until a student was trained on them; the same options change nothing."""
    folder, tests = experiment
    clusters = {utt: spk[1:] for utt, spk in read_scp(tests.speakers).items()}
    labels, options = folder / "exp/r1/pseudo_labels", ("--min_utterances", "9")
    assert pseudo_label(folder, 1, clusters) == 0
    stamp = labels.stat().st_mtime_ns
    assert pseudo_label(folder, 1, clusters) == 0 and labels.stat().st_mtime_ns == stamp
    assert pseudo_label(folder, 1, clusters, *options) == 2  # every cluster has 8
    clusters |= dict.fromkeys(list(clusters)[:3], "1")
    assert pseudo_label(folder, 1, clusters, "--min_utterances", "6") == 0 and len(read_scp(labels)) == 43
    (folder / "exp/r1/model").mkdir()
    (folder / "exp/r1/model/checkpoint.pth").touch()
    assert pseudo_label(folder, 1, clusters) == 2 and len(read_scp(labels)) == 43
    assert "a student was trained on other labels" in capsys.readouterr().err


def test_the_report_needs_no_speakers(experiment):
    folder, tests = experiment
    tests.speakers = None
    assert pseudo_label(folder, 1, {utt: spk[1:] for utt, spk in read_scp(folder / "speakers").items()}) == 0
    row = report_round("1", folder / "exp/r1", tests)
    assert row.oracle == {} and "–" in write_report(folder / "exp", [row], [], {})


def test_mistakes_are_told_in_one_line(experiment, capsys):
    folder, tests = experiment
    utterances = list(read_scp(folder / "speakers"))
    assert pseudo_label(folder, 1, dict.fromkeys(utterances, "0")) == 2
    assert "student needs two classes" in capsys.readouterr().err
    assert pseudo_label(folder, 1, {"nobody": "0"}) == 2
    assert "'nobody' is not in" in capsys.readouterr().err
    pairs = {utt: str(i // 3) for i, utt in enumerate(utterances)}
    assert pseudo_label(folder, 1, pairs, "--min_utterances", "2") == 2
    assert "0 clusters have 4 utterances or more, too few to hold two of each out" in capsys.readouterr().err
    assert pseudo_label(folder, 1, pairs, "--num_dev_utterances", "2") == 2
    assert "--num_dev_utterances has to be 4 or more" in capsys.readouterr().err
    assert not (folder / "exp/r1/labels.json").exists()
    with pytest.raises(UserError, match="no speaker of utterance"):
        from espnet_ext.spk.ipl_report import oracle

        write_scp(folder / "few", {"s0-0": "s0"})
        write_scp(folder / "labels", dict.fromkeys(utterances, "c0"))
        oracle(folder / "labels", folder / "few")
    tests.train = "elsewhere"
    with pytest.raises(UserError, match="the stage init makes it"):
        find_rounds(folder / "exp", tests)


def test_settings_are_kept(tmp_path, capsys):
    from espnet_ext.bin.keep_settings import main

    (tmp_path / "a.yaml").write_text("x: 1\n")
    command = ["--file", str(tmp_path / "exp/settings.json"), "--content", f"config={tmp_path / 'a.yaml'}"]
    assert main([*command, "k=40", "seed=0"]) == 0 and main([*command, "k=40", "seed=0"]) == 0
    assert main([*command, "k=60", "seed=0"]) == 2
    assert "k was 40, is 60" in capsys.readouterr().err
    (tmp_path / "a.yaml").write_text("x: 2\n")
    assert main([*command, "k=40", "seed=0"]) == 2 and "config was" in capsys.readouterr().err
    # Until something was made with them, new settings replace the old ones.
    assert main([*command, "--bind", str(tmp_path / "model"), "k=60", "seed=0"]) == 0
    (tmp_path / "model").touch()
    assert main([*command, "--bind", str(tmp_path / "model"), "k=40", "seed=0"]) == 2
    assert "k was 60, is 40" in capsys.readouterr().err
    (tmp_path / "a.yaml").unlink()
    assert main([*command, "k=60", "seed=0"]) == 2 and "No such file" in capsys.readouterr().err


def test_hidden_labels(tmp_path, capsys):
    from espnet_ext.bin.hide_labels import main

    tables = {"wav.scp": {"a": "a.wav", "b": "b.wav"}, "utt2spk": {"a": "s", "b": "s"}, "text": {"a": "x", "b": "y"}}
    tables |= {"utt2session": {"a": "1", "b": "1"}, "spk2gender": {"s": "f"}}
    DataDir.write(tmp_path / "train", tables)
    assert main(["--in", str(tmp_path / "train"), "--out", str(tmp_path / "hidden")]) == 0
    assert {p.name for p in (tmp_path / "hidden").iterdir()} == {"wav.scp", "utt2spk", "spk2utt", "utt2session"}
    assert read_scp(tmp_path / "hidden/utt2spk") == {"a": "a", "b": "b"}
    for name in ("utt2spk", "spk2utt"):
        (tmp_path / "train" / name).unlink()
    assert main(["--in", str(tmp_path / "train"), "--out", str(tmp_path / "again")]) == 0  # it needs no speakers
    cut = {"wav.scp": {"r": "r.wav"}, "segments": {"r-1": "r 0 1", "r-2": "r 1 2"}, "utt2spk": {"r-1": "s", "r-2": "s"}}
    DataDir.write(tmp_path / "cut", cut)
    assert main(["--in", str(tmp_path / "cut"), "--out", str(tmp_path / "cut hidden")]) == 0
    assert read_scp(tmp_path / "cut hidden/utt2spk") == {"r-1": "r-1", "r-2": "r-2"}
    (tmp_path / "train/utt2session").write_text("a 1\n")
    assert main(["--in", str(tmp_path / "train"), "--out", str(tmp_path / "third")]) == 2
    assert "no line for utterance 'b'" in capsys.readouterr().err


def blobs(num, size, seed, spread=0.25):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((num, 24))
    x = np.repeat(centres, size, axis=0) + spread * rng.standard_normal((num * size, 24))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(("method", "num_kmeans"), [("kmeans", 0), ("kmeans_ahc", 60), ("ahc", 0)])
def test_seeds_agree_on_the_planted_number(method, num_kmeans):
    from espnet_ext.spk.ipl_choose import seed_agreement

    found = seed_agreement(blobs(12, 20, 5), [4, 8, 12, 20, 40], method, num_kmeans, restarts=3)
    assert max(found, key=found.get) == 12 and found[12] > 0.95, found


def test_agreement_above_chance_of_independent_labels_is_nothing():
    """NMI itself is far from 0 where clusters are small."""
    from espnet_ext.metrics.clustering import nmi
    from espnet_ext.spk.ipl_choose import above_chance

    rng = np.random.default_rng(0)
    a, b = rng.integers(50, size=(2, 300))
    assert nmi(a, b) > 0.5 and abs(above_chance(a, b)) < 0.05
    assert above_chance(a, a + 100) == pytest.approx(1) and above_chance(np.zeros(9), np.zeros(9)) == 0


def test_choosing_writes_the_number(tmp_path, capsys):
    from espnet_ext.bin.choose_clusters import main

    x = blobs(6, 15, 1)
    write_embeddings(tmp_path / "e", {f"u{i:03d}": row for i, row in enumerate(x)})
    command = ["--embeddings", str(tmp_path / "e/embedding.scp"), "--out", str(tmp_path / "k"), "--method", "ahc"]
    assert main([*command, "--candidates", "3", "6", "12"]) == 0
    assert (tmp_path / "k").read_text() == "6\n" and "6 clusters" in capsys.readouterr().out
    assert set(json.loads((tmp_path / "k.json").read_text())["agreement"]) == {"3", "6", "12"}
    assert main([*command, "--candidates", "3", "90"]) == 2
    assert "72 of 90 vectors cannot make 90 clusters" in capsys.readouterr().err
    assert main([*command, "--candidates", "3", "6", "--seeds", "1", "1"]) == 2


def test_a_long_recording_counts_as_its_pieces():
    counts = ipl.count_pieces({"a": "8000", "b": "64000", "c": "88000", "d": "89600"}, 1.0, 16000)
    assert counts == {"a": 1, "b": 4, "c": 6, "d": 6}  # halves are rounded up
    assert ipl.count_pieces({"a": "8000", "b": "64000"}, 0, 16000) == {"a": 1, "b": 1}
    with pytest.raises(UserError, match="clusters have 5 utterances or more"):
        ipl.pseudo_speakers({"a": "0", "b": "0", "c": "1", "d": "1"}, 5)
    kept = ipl.pseudo_speakers({"a": "0", "b": "0", "c": "1", "d": "1"}, 5, counts)
    assert kept == {"a": "c0", "b": "c0", "c": "c1", "d": "c1"}
    tables = {"wav.scp": {"a": "a.wav", "b": "b.wav"}, "utt2spk": {"a": "c0", "b": "c0"}, "utt2dur": {"b": "4"}}
    repeated = ipl.repeat_utterances(tables, {"a": 1, "b": 2})
    assert repeated == {
        "wav.scp": {"a": "a.wav", "b~1": "b.wav", "b~2": "b.wav"},
        "utt2spk": {"a": "c0", "b~1": "c0", "b~2": "c0"},
        "utt2dur": {"b~1": "4", "b~2": "4"},
    }
