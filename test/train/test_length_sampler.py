"""Batches of like length: nothing lost, nothing twice, nothing too large, other company in every epoch."""

import numpy as np
import pytest

from espnet_ext.errors import UserError
from espnet_ext.train.length_sampler import LengthSampler


def lengths(count=200, seed=0):
    rng = np.random.default_rng(seed)
    return {f"u{i:03d}": int(n) for i, n in enumerate(rng.integers(8_000, 96_000, count))}


def test_every_utterance_once_and_no_batch_too_large():
    table = lengths()
    sampler = LengthSampler(table, 400_000)
    epochs = [sampler.generate(seed) for seed in range(5)]
    for batches in epochs:
        assert len(batches) == len(sampler)
        assert sorted(utt for batch in batches for utt in batch) == sorted(table)
        sizes = [max(table[utt] for utt in batch) * len(batch) for batch in batches]
        assert max(sizes) <= 400_000
        padding = sum(sizes) / sum(table.values())
        assert padding < 1.15
    assert {frozenset(batch) for batch in epochs[0]} != {frozenset(batch) for batch in epochs[1]}
    assert sampler.generate(3) == epochs[3] and list(sampler) == sampler.generate(0)


def test_validation_keeps_its_batches():
    table = lengths()
    sampler = LengthSampler(table, 400_000, shuffle=False)
    batches = sampler.generate(0)
    assert batches == sampler.generate(1)
    padded = sum(max(table[utt] for utt in batch) * len(batch) for batch in batches)
    assert sampler.padding() == pytest.approx(1 - sum(table.values()) / padded) and 0 < sampler.padding() < 0.15
    kept = sum(min(table[utt] for utt in batch) * len(batch) for batch in batches)
    assert sampler.surplus() == pytest.approx(1 - kept / sum(table.values())) and 0 < sampler.surplus() < 0.15


def test_processes_share_every_batch():
    table = lengths(31)
    shares = [LengthSampler(table, 300_000, share=(rank, 3)) for rank in range(3)]
    for parts in zip(*(one.generate(7) for one in shares), strict=True):
        assert all(parts)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    together = [utt for one in shares for batch in one.generate(7) for utt in batch]
    assert sorted(together) == sorted(table)


def test_what_cannot_be():
    with pytest.raises(UserError, match="raise batch_bins, or lower max_s"):
        LengthSampler(lengths(), 50_000)
    with pytest.raises(UserError, match="2 utterances cannot be shared by 3 processes"):
        LengthSampler(lengths(2), 300_000, share=(0, 3))
    with pytest.raises(UserError, match="no utterances"):
        LengthSampler({}, 50_000)
