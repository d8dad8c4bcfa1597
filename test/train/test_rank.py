"""Watching the rank in a training: what is written, and that the training does not notice."""

import csv
import random

import numpy as np
import pytest
import torch
from toy_speakers import write_corpus
from toy_ssl import ssl_options, write_ssl_corpus
from two_processes import train_by_two

from espnet_ext.bin.rank import main as rank
from espnet_ext.bin.train import main
from espnet_ext.datadir import DataDir
from espnet_ext.errors import UserError
from espnet_ext.inference.checkpoints import find_checkpoints
from espnet_ext.metrics.rank import rankme_t
from espnet_ext.ssl.encoder import HubertEncoder
from espnet_ext.ssl.model import HubertPretraining
from espnet_ext.train.checkpoint import optimizer_steps
from espnet_ext.train.rank import RankMonitor, find_encoder, kept_steps, pooled, pooled_layers, undisturbed
from espnet_ext.train.rank_list import RankList, read_ids

CONF = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "conv_dim": [8, 12, 12], "conv_kernel": [10, 8, 5], "conv_stride": [5, 8, 8], "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4, "layerdrop": 0.5,
}  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_ssl_corpus(tmp_path_factory.mktemp("toy rank ä"))


def model():
    torch.manual_seed(0)
    return HubertPretraining(HubertEncoder(**CONF), [5], final_size=8)


def rows_of(folder):
    with open(folder / "rank.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def weights(path):
    return torch.load(path, weights_only=True)


def test_a_training_does_not_notice(corpus, caplog):
    """Check 9, from end to end: the same weights with the hook and without, though dropout and masks are random."""
    plain, watched = corpus / "exp" / "plain", corpus / "exp" / "watched"
    assert main(ssl_options(corpus, plain, "--use_tensorboard", "false")) == 0
    conf = "{num_utterances: 9, every_steps: 3, every_epochs: 2, keep: true}"
    assert main(ssl_options(corpus, watched, "--rank_conf", conf)) == 0
    one, two = weights(plain / "3epoch.pth"), weights(watched / "3epoch.pth")
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)

    stats = torch.load(watched / "checkpoint.pth", weights_only=False)["reporter"]["stats"]
    per_epoch = stats[1]["train"]["total_count"]
    expected = sorted({0, 2 * per_epoch, *range(3, 3 * per_epoch + 1, 3)})
    rows = rows_of(watched)
    assert [int(row["step"]) for row in rows if row["layer"] == "1"] == expected and len(expected) > 3
    assert [row["layer"] for row in rows[:3]] == ["0", "1", "2"] and rows[0]["num_utterances"] == "9"
    assert list(kept_steps(watched).values()) == expected
    assert len(read_ids(watched / "rank_utterances")) == 9
    # The weights that were kept are those whose rank was measured; what was logged is the definition's number.
    state = weights(watched / f"{expected[-1]}step.pth")
    trained = model()
    trained.encoder.load_state_dict({k[8:]: v for k, v in state.items() if k.startswith("encoder.")})
    trained.eval()
    data, sums = DataDir(corpus / "dev"), []
    for utt in read_ids(watched / "rank_utterances"):
        wav = torch.from_numpy(data.audio(utt))[None]
        with torch.no_grad():
            sums.append(trained.encoder.hidden_states(wav, torch.tensor([wav.size(1)]))[0][2, 0].numpy())
    last = next(row for row in rows if row["step"] == str(expected[-1]) and row["layer"] == "2")
    assert float(last["rankme_t"]) == pytest.approx(rankme_t(sums), rel=1e-4)

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(watched / "tensorboard" / "train")).Reload()
    scalars = events.Scalars("rankme_t/layer_2")
    assert [event.step for event in scalars] == expected
    assert scalars[-1].value == pytest.approx(float(last["rankme_t"]), rel=1e-5)


def test_two_processes_measure_once(corpus):
    """The first process measures while the other waits, and the training goes on."""
    output = corpus / "exp" / "two"
    more = ["--max_epoch", "1", "--use_tensorboard", "false", "--rank_conf", "{num_utterances: 4, every_steps: 2}"]
    errors = train_by_two(ssl_options(corpus, output, *more))
    steps = [int(row["step"]) for row in rows_of(output) if row["layer"] == "0"]
    assert steps[:2] == [0, 2] and len(set(steps)) == len(steps) and "RankMe-t" not in errors[1]


@pytest.mark.gpu
def test_on_a_gpu_in_bf16(corpus):
    """Ranks are measured in float32 whatever the training runs in."""
    output = corpus / "exp" / "gpu"
    more = ["--ngpu", "1", "--autocast", "bfloat16", "--rank_conf", "{num_utterances: 9, keep: true}"]
    assert main(ssl_options(corpus, output, *more)) == 0
    options = ["--checkpoints", str(output), "--data", str(corpus / "dev"), "--num_utterances", "9"]
    assert rank([*options, "--out", str(output / "rank")]) == 0
    watched, again = rows_of(output), rows_of(output / "rank")
    for one, other in zip(watched, again, strict=True):
        assert float(one["rankme_t"]) == pytest.approx(float(other["rankme_t"]), rel=1e-2)


def test_going_on_drops_what_came_after_the_checkpoint(corpus):
    folder = corpus / "exp" / "resumed"
    conf = ["--rank_conf", "{num_utterances: 4, every_epochs: 1, keep: true}", "--use_tensorboard", "false"]
    assert main(ssl_options(corpus, folder, *conf, "--max_epoch", "1")) == 0
    steps = list(kept_steps(folder).values())
    (folder / "9999step.pth").write_bytes(b"of a run that was killed")
    text = (folder / "rank.csv").read_text()
    (folder / "rank.csv").write_text(text + text.splitlines()[-1].replace(f"{steps[-1]},", "9999,", 1) + "\n")
    assert main(ssl_options(corpus, folder, *conf, "--max_epoch", "2")) == 0
    assert list(kept_steps(folder).values()) == [0, steps[1], 2 * steps[1]]
    assert sorted({int(row["step"]) for row in rows_of(folder)}) == [0, steps[1], 2 * steps[1]]


def test_steps_are_those_of_the_optimiser(corpus, monkeypatch):
    """Where accum_grad does not divide an epoch's iterations, a gradient is infinite, and the training is resumed."""
    folder, plain, norms = corpus / "exp" / "counted", torch.nn.utils.clip_grad_norm_, []

    def second_is_infinite(*given, **named):
        norms.append(plain(*given, **named) if len(norms) != 1 else torch.tensor(float("inf")))
        return norms[-1]

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", second_is_infinite)
    more = ["--rank_conf", "{num_utterances: 4, every_epochs: 1, keep: true}", "--use_tensorboard", "false"]
    more += ["--batch_bins", "60000", "--accum_grad", "3"]
    for epochs in ("2", "4"):
        assert main(ssl_options(corpus, folder, *more, "--max_epoch", epochs)) == 0
    states = torch.load(folder / "checkpoint.pth", weights_only=False)
    stats, made = states["reporter"]["stats"], int(states["optimizers"][0]["state"][0]["step"])
    iterations = stats[1]["train"]["total_count"]
    assert iterations % 3 and stats[4]["train"]["total_count"] == 4 * iterations
    per_epoch = iterations // 3
    steps = [0, *(epoch * per_epoch - 1 for epoch in (1, 2, 3, 4))]
    assert made == steps[-1] == len(norms) - 1
    assert [int(row["step"]) for row in rows_of(folder) if row["layer"] == "0"] == steps
    assert list(kept_steps(folder).values()) == steps
    found = find_checkpoints([str(folder)])
    assert [(one.step, one.epoch) for one in found[1:]] == list(zip(steps[1:], (1, 2, 3, 4), strict=True))
    # Of a training from before the steps were noted, all is known but the one that was not made.
    for both in stats.values():
        del both["train"]["optim_steps"]
    assert optimizer_steps(stats, 3) == {epoch: epoch * per_epoch for epoch in (1, 2, 3, 4)}


@pytest.mark.parametrize(
    "conf, said",
    [
        ("{num_utterance: 3}", "did you mean num_utterances?"),
        ("{pool: max}", "pool must be sum or mean"),
        ("{num_utterances: 1}", "at least 2"),
        ("{data: nowhere}", "nowhere: no such data directory"),
        ("{utt_list: nowhere}", "nowhere: no list of utterances"),
    ],
)
def test_mistakes_are_one_line(corpus, conf, said, capsys):
    output = corpus / "exp" / "mistake"
    assert main(ssl_options(corpus, output, "--rank_conf", conf)) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert said in last and not (output / "checkpoint.pth").exists()


def test_a_model_without_layers(corpus):
    with pytest.raises(UserError, match="no encoder with layers"):
        find_encoder(torch.nn.Linear(2, 2))


def test_measuring_leaves_no_trace(corpus, tmp_path):
    """Parameters, buffers, modes (of parts too), gradients, random states and the next loss."""
    net = model().train()
    net.encoder.feature_extractor.eval()
    wav = torch.randn(2, 6000)
    units, mask = torch.randint(5, (2, net.encoder.geometry.frames(6000), 1)), None
    mask = torch.rand(units.shape[:2]) < 0.5
    net(wav, units, mask)[0].backward()

    def state():
        values = [*net.state_dict().values(), *(p.grad for p in net.parameters() if p.grad is not None)]
        return [value.clone() for value in values], [module.training for module in net.modules()]

    def next_numbers(measure):
        torch.manual_seed(3), np.random.seed(3), random.seed(3)
        measure()
        return float(net(wav, units, mask)[0].detach()), np.random.rand(), random.random(), float(torch.rand(()))

    before, expected = state(), next_numbers(lambda: None)
    monitor = RankMonitor(tmp_path, data=str(corpus / "dev"), num_utterances=5)
    assert next_numbers(lambda: monitor.measure(net, 0, 1)) == expected
    assert len(rows_of(tmp_path)) == 3
    after = state()
    assert all(torch.equal(a, b) for a, b in zip(before[0], after[0], strict=True)) and before[1] == after[1]


def test_modes_come_back_after_an_error():
    net = model().train()
    with pytest.raises(ValueError), undisturbed(net):
        assert not net.encoder.training
        raise ValueError
    assert net.encoder.training


def test_pooling_and_padding(corpus):
    """Check 7: batches, and more padding, change nothing."""
    hidden = torch.randn(2, 5, 3)
    frames = torch.tensor([5, 2])
    hidden[1, 2:] = float("nan")
    expected = torch.stack((hidden[0].double().sum(0), hidden[1, :2].double().sum(0)))
    torch.testing.assert_close(pooled(hidden, frames), expected)
    torch.testing.assert_close(pooled(hidden, frames, "mean"), expected / frames[:, None])

    encoder = model().eval().encoder
    utterances = RankList(DataDir(corpus / "dev"), "dev")

    def vectors(batches):
        found = {}
        for utts, layers in pooled_layers(encoder.hidden_states, batches):
            found |= {utt: np.stack([rows[place] for rows in layers]) for place, utt in enumerate(utts)}
        return found

    alone, together = vectors(utterances.batches(0.1)), vectors(utterances.batches(30))
    padded = vectors((u, torch.nn.functional.pad(w, (0, 3000)), n) for u, w, n in utterances.batches(2.0))
    assert len(alone) == len(utterances) == 16 and sum(1 for _ in utterances.batches(30)) == 1
    for utt in alone:
        scale = np.abs(alone[utt]).max()
        np.testing.assert_allclose(together[utt], alone[utt], atol=1e-5 * scale)
        np.testing.assert_allclose(padded[utt], alone[utt], atol=1e-5 * scale)


def test_diverged_weights_are_said_by_utterance_and_layer(corpus):
    encoder = model().eval().encoder
    with torch.no_grad():
        encoder.encoder.layers[1].final_layer_norm.weight[:] = float("inf")
    utterances = RankList(DataDir(corpus / "dev"), "dev")
    with pytest.raises(UserError, match="layer 2 of utterance s.* holds NaN or infinity"):
        list(pooled_layers(encoder.hidden_states, utterances.batches()))


def test_list(tmp_path):
    data = write_corpus(tmp_path / "a b", range(3), utterances=3, duration_s=0.4)
    everything = RankList(data, "x")
    assert list(everything.lengths) == data.utterances
    few = RankList(data, "x", num_utterances=4)
    assert list(few.lengths) == [data.utterances[place] for place in (0, 3, 5, 8)]
    assert few.checksum != everything.checksum == RankList(data, "y").checksum
    chosen = RankList(data, "x", utterances=["s02-00", "s00-01"])
    assert list(chosen.lengths) == ["s00-01", "s02-00"]
    short = RankList(data, "x", max_s=0.3)
    assert short.num_cut == 9 and set(short.lengths.values()) == {4800} and short.seconds == pytest.approx(2.7)
    for _, wav, lengths in short.batches(0.7):
        assert wav.shape[1] == 4800 and len(wav) <= 2 and lengths.tolist() == [4800] * len(wav)
    np.testing.assert_array_equal(wav[-1], data.audio("s02-02")[:4800])
    long = write_corpus(tmp_path / "long", range(1), utterances=2, duration_s=20.1)
    assert RankList(long, "x").num_cut == 2
    whole = RankList(long, "x", max_s=None)
    assert whole.num_cut == 0 and all(n == long.num_samples(utt) > 320_000 for utt, n in whole.lengths.items())
    with pytest.raises(UserError, match="no utterance 'zz'"):
        RankList(data, "x", utterances=["s00-00", "zz"])
    with pytest.raises(UserError, match="1 utterance.s.; a rank needs at least 2"):
        RankList(data, "x", utterances=["s00-00"])


def test_segments(tmp_path):
    """A list over parts of recordings reads those parts, and no more of them than ``max_s``."""
    whole = write_corpus(tmp_path / "whole", range(2), utterances=1, duration_s=1.0)
    segments = {"x0": "s00-00 0.1 0.5", "x1": "s01-00 0.25 -1", "x2": "s00-00 0.5 1.0"}
    tables = {"wav.scp": whole.wav_scp, "segments": segments, "utt2spk": dict.fromkeys(segments, "x")}
    data = DataDir.write(tmp_path / "parts", tables)
    for max_s, longest in ((20.0, 12000), (0.45, 7200)):
        found = {}
        for utts, wav, lengths in RankList(data, "x", max_s=max_s).batches():
            found |= {utt: row[:n].numpy() for utt, row, n in zip(utts, wav, lengths.tolist(), strict=True)}
        assert len(found["x1"]) == longest and len(found["x0"]) == 6400
        for utt, wav in found.items():
            np.testing.assert_array_equal(wav, data.audio(utt)[: len(wav)])


def test_broken_audio(tmp_path):
    data = write_corpus(tmp_path, range(2), utterances=2, duration_s=0.4)
    (tmp_path / "wav" / "s00-01.wav").write_bytes(b"RIFF")
    with pytest.raises(UserError, match="utterance s00-01: .*--skip_broken true"):
        list(RankList(data, "x").batches())
    left = RankList(data, "x", skip_broken=True)
    assert list(left.broken) == ["s00-01"] and len(left) == 3
    assert left.checksum == RankList(data, "x", utterances=["s00-00", "s01-00", "s01-01"]).checksum
    with pytest.raises(UserError, match="shorter than one frame"):
        list(RankList(data, "x", utterances=["s00-00", "s01-00"], min_samples=9000).batches())
    for name in ("s00-00", "s01-00"):
        (tmp_path / "wav" / f"{name}.wav").unlink()
    with pytest.raises(UserError, match="a rank needs at least 2"):
        RankList(DataDir(tmp_path), "x", skip_broken=True)
