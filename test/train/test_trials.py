"""Open-set validation: each utterance is read and embedded once, and the numbers are those of a plain loop."""

import logging

import numpy as np
import pytest
import torch

from espnet_ext.datadir.trials import Trials
from espnet_ext.metrics.detection import eer
from espnet_ext.train import trials as module
from espnet_ext.train.trainer import embed_all, repeat_short, trial_statistics
from espnet_ext.train.trials import DevUtterances, TrialIterFactory

LENGTHS = {"a": 900, "b": 400, "c": 1600, "d": 700, "e": 1000}


@pytest.fixture
def reads(monkeypatch):
    """Replace reading by noise of the right length, and count."""
    seen = []

    def read(path, rate_hz):
        seen.append(path)
        return wave(path)

    monkeypatch.setattr(module, "read_audio", read)
    return seen


def wave(utt: str) -> np.ndarray:
    return np.random.default_rng(ord(utt)).standard_normal(LENGTHS[utt]).astype(np.float32)


class MeanModel:
    """Embeds by simple statistics of the valid part."""

    def embed(self, speech, lengths):
        rows = [(w[:n].mean(), w[:n].std(), w[n // 2]) for w, n in zip(speech, lengths, strict=True)]
        return torch.tensor(rows)


def trials() -> Trials:
    return Trials(["a", "a", "b", "c", "c"], ["b", "c", "d", "d", "e"], np.array([1, 0, 0, 1, 0], dtype=np.int8))


def test_each_utterance_once_in_batches_of_like_length(reads):
    dataset = DevUtterances({utt: utt for utt in LENGTHS}, 1000, max_s=1.2)
    loader = TrialIterFactory(dataset, trials(), num_samples=LENGTHS, batch_size=2).build_iter(1)
    batches = list(loader)
    assert sorted(reads) == sorted(LENGTHS)
    assert [utts for utts, _ in batches] == [["c", "e"], ["a", "d"], ["b"]]
    assert batches[0][1]["speech_lengths"].tolist() == [1200, 1000]  # c gives its middle part
    assert np.array_equal(batches[0][1]["speech"][0].numpy(), wave("c")[200:1400])
    assert batches[0][1]["speech"][1, 1000:].abs().sum() == 0


def test_crops_are_espnets(reads):
    dataset = DevUtterances({"c": "c", "b": "b"}, 1000, 20, num_crops=3, crop_s=0.5)
    wav = wave("c")
    assert np.array_equal(dataset[0][1], np.stack([wav[0:500], wav[550:1050], wav[1100:1600]]))
    assert dataset[1][1].shape == (3, 500)  # shorter than a crop: repeated


def test_processes_share_the_utterances(reads):
    dataset = DevUtterances({utt: utt for utt in LENGTHS}, 1000, 20)
    seen = []
    for rank in range(2):
        factory = TrialIterFactory(dataset, trials(), num_samples=LENGTHS, share=(rank, 2))
        seen += [utt for utts, _ in factory.build_iter(1) for utt in utts]
    assert sorted(seen) == sorted(LENGTHS)


@pytest.mark.parametrize("num_crops", [0, 3])
def test_scores_are_mean_cosines_over_pairs_of_crops(reads, num_crops):
    dataset = DevUtterances({utt: utt for utt in LENGTHS}, 1000, 20, num_crops, crop_s=0.3)
    embeddings = embed_all(MeanModel(), TrialIterFactory(dataset, trials(), batch_size=2).build_iter(1), "cpu")
    assert all(np.allclose(np.linalg.norm(v, axis=1), 1, atol=1e-6) for v in embeddings.values())
    listed = trials()
    scores = np.array(
        [
            np.mean([e @ t for e in embeddings[a] for t in embeddings[b]])
            for a, b in zip(listed.enroll, listed.test, strict=True)
        ]
    )
    stats = trial_statistics(embeddings, listed)
    assert stats["eer"] == pytest.approx(100 * eer(scores, listed.labels))
    assert stats["n_trials"] == 5
    assert stats["trg_mean"] == pytest.approx(scores[listed.labels == 1].mean(), abs=1e-6)
    assert stats["nontrg_mean"] == pytest.approx(scores[listed.labels == 0].mean(), abs=1e-6)  # ESPnet: a deviation
    assert stats["nontrg_std"] == pytest.approx(scores[listed.labels == 0].std(), abs=1e-6)


def test_a_broken_model_counts_as_chance(caplog):
    with caplog.at_level(logging.WARNING):
        stats = trial_statistics({utt: np.full((1, 3), np.nan) for utt in "abcde"}, trials())
    assert stats["eer"] == 50.0 and "not finite" in caplog.text


def test_utterances_too_short_for_the_model_are_repeated():
    batch = {"speech": torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 0.0]]), "speech_lengths": torch.tensor([3, 2])}
    longer = repeat_short(batch, 5)
    assert longer["speech"].tolist() == [[1, 2, 3, 1, 2], [4, 5, 4, 5, 4]]
    assert longer["speech_lengths"].tolist() == [5, 5]
    assert repeat_short(batch, 2) is batch
