"""Balanced batches: nothing is dropped, nobody is crowded, every epoch differs and can be repeated."""

from collections import Counter

import numpy as np
import pytest

from espnet_ext.errors import UserError
from espnet_ext.train.sampler import BalancedSampler


def corpus(counts) -> dict[str, str]:
    return {f"s{speaker}-{i}": f"s{speaker}" for speaker, count in enumerate(counts) for i in range(count)}


@pytest.mark.parametrize("batch_size", [16, 32, 40, 64, 128])
def test_every_utterance_once_where_espnet_drops_most(batch_size, tmp_path):
    utt2spk = corpus([10] * 40)
    batches = BalancedSampler(utt2spk, batch_size).generate(1)
    assert sorted(utt for batch in batches for utt in batch) == sorted(utt2spk)
    most = -(-10 // len(batches))  # 1 as long as there are at least as many speakers as places in a batch
    assert all(max(Counter(utt2spk[utt] for utt in batch).values()) <= most for batch in batches)
    assert max(map(len, batches)) - min(map(len, batches)) <= 1

    from espnet2.samplers.category_balanced_sampler import CategoryBalancedSampler

    by_speaker: dict[str, list[str]] = {}
    for utt, speaker in utt2spk.items():
        by_speaker.setdefault(speaker, []).append(utt)
    (tmp_path / "category2utt").write_text("".join(f"{s} {' '.join(utts)}\n" for s, utts in by_speaker.items()))
    theirs = list(CategoryBalancedSampler(batch_size, category2utt_file=str(tmp_path / "category2utt")))
    assert sum(map(len, theirs)) < 400  # the fault that this class mends is still there


def test_unequal_speakers_are_spread_evenly():
    rng = np.random.default_rng(0)
    for trial in range(60):
        counts = rng.integers(1, 40, size=rng.integers(2, 50))
        utt2spk = corpus(counts)
        batches = BalancedSampler(utt2spk, int(rng.integers(2, 90))).generate(trial)
        assert sorted(utt for batch in batches for utt in batch) == sorted(utt2spk)
        for batch in batches:
            for speaker, number in Counter(utt2spk[utt] for utt in batch).items():
                assert number <= -(-counts[int(speaker[1:])] // len(batches))


def test_drop_last_leaves_out_a_remainder_that_changes():
    utt2spk = corpus([7, 9, 5, 12])  # 33 = 4 * 8 + 1
    sampler = BalancedSampler(utt2spk, 8, drop_last=True)
    left_out = set()
    for seed in range(10):
        batches = sampler.generate(seed)
        assert [len(batch) for batch in batches] == [8] * 4 == [8] * len(sampler)
        left_out |= set(utt2spk) - {utt for batch in batches for utt in batch}
    assert len(left_out) > 1


def test_epochs_differ_and_repeat():
    sampler = BalancedSampler(corpus([10] * 12), 6, seed=3)
    assert sampler.generate(1) == sampler.generate(1) != sampler.generate(2)
    assert list(sampler) == sampler.generate(3)
    pairs = Counter()
    for seed in range(30):
        for batch in sampler.generate(seed):
            speakers = sorted(utt.split("-")[0] for utt in batch)
            pairs.update((a, b) for i, a in enumerate(speakers) for b in speakers[i + 1 :])
    assert len(pairs) == 12 * 11 // 2  # any two speakers meet sooner or later


def test_processes_share_each_batch():
    utt2spk = corpus([6] * 10)
    whole = BalancedSampler(utt2spk, 8).generate(5)
    shares = [BalancedSampler(utt2spk, 8, share=(rank, 2)).generate(5) for rank in range(2)]
    assert [sorted(a + b) for a, b in zip(*shares, strict=True)] == [sorted(batch) for batch in whole]


def test_no_small_last_batch():
    assert [len(batch) for batch in BalancedSampler(corpus([3] * 11), 16).generate(0)] == [11, 11, 11]


@pytest.mark.parametrize(("counts", "batch_size"), [([], 4), ([3, 3], 1)])
def test_impossible_batches_are_one_line(counts, batch_size):
    with pytest.raises(UserError):
        BalancedSampler(corpus(counts), batch_size)
