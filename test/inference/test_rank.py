"""What ranks and probes remember of earlier runs, how long a small list takes, what detail tells of speakers."""

import time

import numpy as np
import pytest
import soundfile
import torch
from tiny_hubert import TINY
from toy_speakers import voice, write_corpus
from toy_ssl import add_phones

from espnet_ext.cluster.residual import residual_kmeans
from espnet_ext.datadir import DataDir, read_scp, write_scp
from espnet_ext.inference.checkpoints import Checkpoint
from espnet_ext.inference.probe_data import ProbeData
from espnet_ext.inference.rank import RankSettings, measure_ranks, rank_rows
from espnet_ext.inference.rank_study import probe_rows, speaker_accuracy
from espnet_ext.ssl.encoder import HubertEncoder
from espnet_ext.ssl.features import LogMel
from espnet_ext.ssl.hugging_face import write_folder
from espnet_ext.train.rank_list import RankList


@pytest.fixture
def place(tmp_path):
    """Training and test data with phones, and a random encoder."""
    for name, speakers in (("train", range(4)), ("test", range(4, 8))):
        add_phones(write_corpus(tmp_path / name, speakers, utterances=3, duration_s=0.5))
    torch.manual_seed(0)
    write_folder(HubertEncoder(**TINY), TINY, tmp_path / "hf")
    return tmp_path


def test_other_audio_of_the_same_length_is_measured_again(place):
    """A list's checksum is its names and lengths; what is remembered rests on the files."""
    checkpoints = [Checkpoint("one", f"hf:{place / 'hf'}")]

    def ranks():
        lists = [RankList(DataDir(place / "test"), "test")]
        return [row["rankme_t"] for row in rank_rows(checkpoints, lists, RankSettings(), "cpu", place / "out")]

    before = ranks()
    assert ranks() == before and len(list((place / "out/checkpoints").iterdir())) == 1
    path = read_scp(place / "test/wav.scp")["s04-00"]
    samples = len(soundfile.read(path)[0])
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(samples), 16000)
    assert RankList(DataDir(place / "test"), "test").lengths["s04-00"] == samples
    assert ranks() != before


def test_other_labels_are_probed_again(place):
    """Phones that were aligned anew, or mended speakers, are not scored by what was found with the old ones."""

    def scores(*probes):
        lists = [RankList(DataDir(place / name), name) for name in ("train", "test")]
        data = ProbeData(*lists, probes)
        (*_, last) = probe_rows([Checkpoint("one", f"hf:{place / 'hf'}")], data, "cpu", place / "out", 30.0, 0)
        return [last[probe] for probe in probes]

    before = scores("phone", "speaker")
    assert scores("phone", "speaker") == before and len(list((place / "out/checkpoints").iterdir())) == 1
    phones = read_scp(place / "test/utt2phones")
    write_scp(place / "test/utt2phones", dict.fromkeys(phones, "unheard:0:0.4"))
    assert scores("phone", "speaker") == [0.0, before[1]]
    write_scp(place / "test/utt2phones", phones)
    speakers = DataDir(place / "train").utt2spk
    shifted = dict(zip(speakers, [*list(speakers.values())[1:], "s00"], strict=True))
    write_scp(place / "train/utt2spk", shifted)
    assert scores("phone", "speaker")[0] == before[0]
    assert len(list((place / "out/checkpoints").iterdir())) == 3


def test_two_hundred_utterances_take_seconds(tmp_path):
    """Check 10 of the specification: 200 utterances, 3 layers, a tiny encoder, under a minute."""
    utterances = RankList(write_corpus(tmp_path, range(50), utterances=4, duration_s=0.5), "dev")
    encoder = HubertEncoder(**TINY | {"num_hidden_layers": 2}).eval()
    start = time.perf_counter()
    rows = measure_ranks(encoder, utterances, RankSettings(), "cpu")
    assert time.perf_counter() - start < 60
    assert len(rows) == 3 and {row["num_utterances"] for row in rows} == {200}


def test_more_levels_tell_speakers_no_worse():
    """Log-mel energies out of the sums of their centroids: with four levels of 8 at least as good as with one."""
    utterances = [(speaker, number) for speaker in range(8) for number in range(6)]
    frames = [LogMel()([voice(*utterance, 0.5)])[0][0] for utterance in utterances]
    book = residual_kmeans(np.concatenate(frames), 8, 4, seed=0)
    speakers = {f"{speaker}-{number}": str(speaker) for speaker, number in utterances}
    held_out = {utt for utt in speakers if utt[-1] in "45"}
    found = {}
    for levels in (1, 4):
        means = [book.decode(book.assign(one)[:, :levels]).mean(axis=0) for one in frames]
        vectors = {utt: np.tile(mean, 2) for utt, mean in zip(speakers, means, strict=True)}  # its first half is used
        found[levels] = speaker_accuracy(vectors, speakers, held_out)
    assert found[4] >= found[1] > 100 / 8 and found[4] > 90, found
