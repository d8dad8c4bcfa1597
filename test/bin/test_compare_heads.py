"""Heads side by side: what table, sentences and curve say of numbers put into small experiment folders."""

import json

import numpy as np
import pytest
import torch
import yaml
from stand_in import cells

from espnet_ext.bin.best_training import main as best_training
from espnet_ext.bin.compare_heads import main

EERS = {  # head: {(by, fraction): EER}
    "light": {("utterance", 1.0): 0.10, ("utterance", 0.6): 0.12, ("utterance", 0.2): 0.30, ("speaker", 0.6): 0.2},
    "xvector": {("utterance", 1.0): 0.125, ("utterance", 0.6): 0.2, ("utterance", 0.2): 0.4},
}


def experiment(folder, eer, head="light", dev=(20.0, 10.0, 15.0), dim=8):
    """What training and scoring leave behind, as far as it is read."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    state = {"frontend.upstream.x": torch.zeros(1000), "loss.weight": torch.zeros(5, 4)}
    state |= {
        "frontend.layer_weights": torch.tensor([0.0, 0.0, np.log(2.0)]),
        "projector.bn.running_mean": torch.zeros(dim),
    }
    state |= {"projector.fc.weight": torch.zeros(4, dim), "projector.fc.bias": torch.zeros(4)}
    if head == "xvector":
        state |= {"encoder.weight": torch.zeros(1000), "projector.loss_layers.0.weight": torch.zeros(500)}
    torch.save(state, folder / "valid.eer.best.pth")
    train = folder.parent / "train"
    train.mkdir(exist_ok=True)
    (train / "utt2spk").write_text("a x\nb y\n")
    (folder / "config.yaml").write_text(yaml.safe_dump({"train_dir": str(train)}))
    stats = {epoch: {"valid": {"eer": value}} for epoch, value in enumerate(dev, 1)}
    torch.save({"model": {}, "reporter": {"stats": stats, "epoch": len(dev)}}, folder / "checkpoint.pth")
    rows = [
        {"metric": "eer", "value": value, "ci": [value / 2, 2 * value], "unit": "", "count": 9, "where": where}
        for value, system in ((eer, "raw"), (eer / 2, "asnorm"), (0.45, "MFCC statistics"))
        for where in [{"set": "test", "condition": "all", "system": system}]
    ]
    (folder / "results.json").write_text(json.dumps({"run": {}, "results": rows}))
    return folder


def systems(tmp_path, eers=EERS, encoder="tiny"):
    words = []
    for head, series in eers.items():
        for (by, fraction), eer in series.items():
            folder = experiment(tmp_path / f"{encoder}_{head}_{by}{fraction}", eer, head)
            words += ["--system", head, encoder, by, str(fraction), str(folder)]
    return words


def test_table_sentences_and_curve(tmp_path, capsys):
    words = systems(tmp_path)
    assert main(["--out", str(tmp_path / "out"), *words, "--baseline", "xvector"]) == 0
    told = capsys.readouterr().out
    rows = cells(told)
    # 3 layer weights, 4 x 8 + 4 of the projector; 1000 of the encoder, 500 that only the loss needs.
    assert rows[2] == ["light", "tiny", "100 %", "2", "10.00", "10.00", "5.00 to 20.00", "39", "39"]
    assert ["xvector", "tiny", "100 %", "2", "10.00", "12.50", "6.25 to 25.00", "1,539", "1,039"] in rows
    assert ["light", "tiny", "60 % of speakers", "2", "10.00", "20.00", "10.00 to 40.00", "39", "39"] in rows
    assert ["MFCC statistics", "", "", "", "", "45.00", "22.50 to 90.00", "", ""] in rows
    assert rows[-1] == ["xvector", "tiny", "20 %", "25.0", "25.0", "50.0"]  # softmax of 0, 0, log 2
    assert "97.47 % fewer parameters as trained, 96.25 % as used; EER 20.0 % lower" in told
    assert "with 60 % of the utterances" in told and "with 100 % of the speakers" in told
    found = json.loads((tmp_path / "out/results.json").read_text())["results"]
    marked = {"head": "light", "encoder": "tiny", "by": "utterance", "fraction": "0.2"}
    (one,) = [
        row["value"]
        for row in found
        if row["metric"] == "eer" and row["where"].items() >= (marked | {"system": "raw"}).items()
    ]
    assert one == 0.3
    assert (tmp_path / "out/curve.png").stat().st_size > 5000 and "curve.png" in (
        tmp_path / "out/RESULTS.md"
    ).read_text()


def test_improvement_is_the_mean_over_encoders(tmp_path, capsys):
    words = systems(tmp_path)
    words += systems(tmp_path, {"light": {("utterance", 1.0): 0.3}, "xvector": {("utterance", 1.0): 0.2}}, "other")
    assert main(["--out", str(tmp_path / "out"), *words, "--baseline", "xvector", "--score", "asnorm"]) == 0
    told = capsys.readouterr().out
    # 20 % better on one, 50 % worse on the other; on that one no part of the data is enough.
    assert "EER -15.0 % lower on all data (mean of 2 encoders" in told and "with no part of the data" in told


def test_what_is_missing_is_said_in_one_line(tmp_path, capsys):
    folder = experiment(tmp_path / "a", 0.1)
    words = ["--out", str(tmp_path / "out"), "--system", "light", "tiny", "utterance", "1"]
    for more, says in (
        ([str(folder), "--baseline", "x"], "no training of the baseline 'x'"),
        ([str(folder), "--set", "test.cross"], "there are: test all MFCC statistics"),
        ([str(tmp_path / "b")], "stage train of spk.sh"),
    ):
        assert main([*words, *more]) == 2
        error = capsys.readouterr().err
        assert says in error and error.count("\n") == 1, error
    (folder / "results.json").unlink()
    assert main([*words, str(folder)]) == 2
    assert "stage score" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert main([*words[:3], "a", "b", "words", "1", str(folder)]) == 2
    assert main([*words[:3], "a", "b", "speaker", "all", str(folder)]) == 2


def test_best_training_is_chosen_by_the_dev_trials(tmp_path, capsys):
    folders = [experiment(tmp_path / rate, 0.1, dev=dev) for rate, dev in (("1e-3", (20, 9)), ("1e-2", (8, 30)))]
    pairs = [f"{folder.name}={folder}" for folder in folders]
    assert best_training([*pairs, "--out", str(tmp_path / "x.lr")]) == 0
    assert (tmp_path / "x.lr").read_text() == "1e-2\n" and "dev EER 9.00 %" in capsys.readouterr().out
    assert best_training([*pairs, "none=" + str(tmp_path), "--out", str(tmp_path / "y.lr")]) == 2
    assert "train it first" in capsys.readouterr().err and not (tmp_path / "y.lr").exists()
    with pytest.raises(SystemExit):
        best_training([])
    assert best_training([str(tmp_path), "--out", "x"]) == 2
