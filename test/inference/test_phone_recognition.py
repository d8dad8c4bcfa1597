"""mini_pr: the head and its loss by hand, a toy encoder that knows the phones, and the command."""

import json
import math

import numpy as np
import pytest
import soundfile
import torch

from espnet_ext.bin.phone_recognition import main
from espnet_ext.datadir import DataDir
from espnet_ext.errors import UserError
from espnet_ext.inference.phone_recognition import (
    Head,
    Recipe,
    StackedLogMel,
    Utterances,
    error_rates,
    greedy,
    recognise,
    train_head,
)
from espnet_ext.ssl.features import LogMel

PHONES_HZ = {"a": 300, "b": 900, "c": 1800, "d": 3200}


def corpus(folder, count, seed):
    """A data directory of tones: a phone is 0.12 s of its frequency."""
    rng = np.random.default_rng(seed)
    tables = {name: {} for name in ("wav.scp", "utt2spk", "utt2pronunciation")}
    for number in range(count):
        said = []
        while len(said) < 6:
            said += [phone for phone in rng.choice(list(PHONES_HZ), 1) if said[-1:] != [phone]]
        time = np.arange(1920) / 16000
        wav = np.concatenate([0.1 * np.sin(2 * np.pi * PHONES_HZ[phone] * time) for phone in said])
        utt = f"{folder.name}-{number:02d}"
        path = folder / "audio" / f"{utt}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, wav + 0.001 * rng.standard_normal(len(wav)), 16000)
        tables["wav.scp"][utt], tables["utt2spk"][utt] = path, "s"
        tables["utt2pronunciation"][utt] = f"{' '.join(said[:3])} | {' '.join(said[3:])}"
    return DataDir.write(folder, tables)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tones")
    return [corpus(folder / name, count, seed) for seed, (name, count) in enumerate([("a", 24), ("b", 6), ("c", 8)])]


def test_greedy_by_hand():
    best = [0, 2, 2, 0, 2, 1, 1, 0, 0, 3, 3]
    logits = torch.nn.functional.one_hot(torch.tensor(best), 4).float()
    assert greedy(logits) == [2, 2, 1, 3]
    assert greedy(torch.zeros(0, 4)) == [] and greedy(logits[:1]) == []


def test_head_by_hand():
    layers = torch.randn(2, 3, 5, 4)
    mean, deviation = torch.randn(2, 1, 4), torch.rand(2, 1, 4) + 0.5
    head = Head(mean, deviation, 6)
    with torch.no_grad():
        head.weights.copy_(torch.tensor([0.0, math.log(3)]))
    mixed = sum(w * (layers[k] - mean[k]) / deviation[k] for k, w in enumerate((0.25, 0.75)))
    torch.testing.assert_close(head(layers), mixed @ head.linear.weight.T + head.linear.bias)


def test_training_does_not_see_padding_and_survives_too_many_phones():
    torch.manual_seed(0)
    frames = [torch.randn(2, size, 3) for size in (9, 4, 12)]
    targets = [torch.tensor(one) for one in ([1, 2], [1, 2, 1, 2, 1, 2], [2, 2, 1])]
    recipe = Recipe(steps=5, batch_utterances=3)
    head = train_head(frames, targets, 2, recipe, 0.01, seed=3)
    assert all(torch.isfinite(parameter).all() for parameter in head.parameters())
    again = train_head([one.half() for one in frames], targets, 2, recipe, 0.01, seed=3)
    torch.testing.assert_close(again.linear.weight, head.linear.weight, atol=5e-3, rtol=0)
    other = train_head(frames, targets, 2, recipe, 0.01, seed=4)
    assert not torch.allclose(other.linear.weight, head.linear.weight, atol=1e-2)


def test_the_floor_has_both_frames_of_a_pair():
    wav = torch.randn(2, 4000)
    states, frames = StackedLogMel().hidden_states(wav, torch.tensor([4000, 1199]))
    ((every,),) = LogMel()([wav[0].numpy()])
    assert frames.tolist() == [(4000 - 560) // 320 + 1, 2]
    np.testing.assert_array_equal(states[0, 0, 3].numpy(), np.concatenate((every[6], every[7])))
    assert StackedLogMel().samples_for(2) == 880


def test_tones_are_recognised_and_noise_is_not(sets):
    train, dev, test = (Utterances(data, 100) for data in sets)
    recipe = Recipe(steps=150, batch_utterances=8, learning_rates=(1e-5, 3e-2), seeds=(0, 1))
    found = recognise("log-mel", StackedLogMel(), train, dev, test, recipe)
    assert found["rate"] == 3e-2 and len(found["per"]) == 2 and max(found["per"]) < 15
    assert found["dev"][0] > found["dev"][1] and found["mix"] == [1.0]

    class Deaf(StackedLogMel):
        def hidden_states(self, wav, lengths):
            states, frames = super().hidden_states(wav, lengths)
            return torch.ones_like(states), frames

    assert min(recognise("deaf", Deaf(), train, dev, test, recipe)["per"]) > 60


def test_error_rates_by_hand(sets):
    """A head that says "a" in every frame is right once where "a" is said, one that says nothing never."""
    test = Utterances(sets[2], 100)
    says_a, silent = (Head(torch.zeros(1, 1, 160), torch.ones(1, 1, 160), 4) for _ in range(2))
    with torch.no_grad():
        for head, best in ((says_a, 1), (silent, 0)):
            head.linear.weight.zero_()
            head.linear.bias.copy_(torch.nn.functional.one_hot(torch.tensor(best), 5).float())
    known = {phone: place for place, phone in enumerate("abcd", start=1)}
    without = sum("a" not in phones for phones in test.phones.values())
    expected = [100 * (5 * 8 + without) / (6 * 8), 100]
    encoder, recipe = StackedLogMel(), Recipe()
    assert error_rates([says_a, silent], encoder, test, known, "cpu", recipe) == pytest.approx(expected)
    unknown = {phone: place for phone, place in known.items() if phone != "a"}
    assert error_rates([says_a], encoder, test, unknown, "cpu", recipe) == [100]


def test_the_command(sets, tmp_path, capsys):
    train, dev, test = (str(data.path) for data in sets)
    from transformers import HubertConfig, HubertModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    convolutions = {"conv_dim": [8, 8], "conv_kernel": [40, 10], "conv_stride": [32, 10], "num_feat_extract_layers": 2}
    positions = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
    HubertModel(HubertConfig(**sizes, **convolutions, **positions)).save_pretrained(tmp_path / "hf")
    arguments = ["--models", f"tiny=hf:{tmp_path / 'hf'}", "--train", train, "--dev", dev, "--steps", "5"]
    arguments += ["--seeds", "0", "--learning_rates", "0.01", "--out", str(tmp_path / "out")]
    assert main([*arguments, "--test", test]) == 0
    said = capsys.readouterr().out
    assert "nothing said (chance)" in said and "log-mel" in said and "tiny" in said
    results = json.loads((tmp_path / "out/results.json").read_text())["results"]
    assert {row["where"]["system"] for row in results} == {"log-mel", "tiny"}
    assert "2 layer(s) of 16" in (tmp_path / "out/RESULTS.md").read_text()
    assert main([*arguments, "--test", train]) == 2
    assert "--train and --test share 24 utterances" in capsys.readouterr().err
    assert main([*arguments, "--test", dev]) == 2  # which chooses the rate
    assert "--dev and --test share 6 utterances" in capsys.readouterr().err
    assert main([*arguments, "--test", test, "--models", "tiny"]) == 2
    assert "NAME=SPEC" in capsys.readouterr().err


def test_long_utterances_are_not_cut(sets, tmp_path):
    """The transcript is of the whole: one that is too long for one piece is named, or left out."""
    long = tmp_path / "long.wav"
    soundfile.write(long, 0.1 * np.random.default_rng(0).standard_normal(61 * 16000), 16000)
    names = {"wav.scp": long, "utt2spk": "s", "utt2pronunciation": "a b"}
    tables = {name: sets[1].table(name) | {"x": value} for name, value in names.items()}
    data = DataDir.write(tmp_path / "data", tables)
    with pytest.raises(UserError, match="utterance x: 61 s are longer than 60 s; cut it where its transcript can be"):
        Utterances(data, 100)
    kept = Utterances(data, 100, skip_broken=True)
    assert set(kept.phones) == set(kept.list.lengths) == set(sets[1].utterances)
