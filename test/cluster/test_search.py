"""Nearest centroids by products of low precision, on any machine: rounded to bfloat16 as a CPU with AMX does it."""

import numpy as np
import pytest
import torch

from espnet_ext.cluster.search import Rows, Search


@pytest.fixture
def coarse(monkeypatch):
    """Let products of matrices round their factors to bfloat16; the list has how many were made."""
    calls = []

    def rounded(a, b, out):
        calls.append(a.shape)
        return out.copy_(a.bfloat16().float() @ b.bfloat16().float())

    monkeypatch.setattr(torch, "mm", rounded)
    return calls


def vectors(k, rows=2000, dim=24):
    generator = torch.Generator().manual_seed(k)
    x = torch.randn(rows, dim, generator=generator) + 5
    return x, x[:k] + 0.3 * torch.randn(k, dim, generator=generator)


def squared(x, centres):
    return ((x.numpy().astype(np.float64)[:, None] - centres.numpy()) ** 2).sum(axis=2)


@pytest.mark.parametrize("k", [7, 200])
def test_the_answer_is_that_of_float64(coarse, k):
    x, centres = vectors(k)
    nearest = squared(x, centres).argmin(axis=1)
    search = Search(centres)
    assert (search.nearest(x).numpy() == nearest).all() and coarse
    which = torch.tensor([5, 1999, 5, 0])
    assert search.nearest(x, which).tolist() == nearest[which].tolist()
    rows = Rows.of(x, x.mean(0))
    assert (Search(centres, x.mean(0)).nearest(rows).numpy() == nearest).all()
    # Without the second look it is another one.
    table = Search(centres).table
    plain = torch.mm(Rows.of(x, search.shift).wide, table, out=torch.empty(len(x), table.size(1))).argmin(1)
    assert (plain.numpy() != nearest).any()


def test_slack_costs_no_more_than_it_says(coarse):
    x, centres = vectors(200)
    distance = squared(x, centres)
    for slack in (1e-3, 0.02, 0.5):
        labels = Search(centres).nearest(x, slack=slack).numpy()
        cost = distance[np.arange(len(x)), labels].sum()
        assert distance.min(axis=1).sum() <= cost <= (1 + slack) * distance.min(axis=1).sum()
    assert (labels != distance.argmin(axis=1)).any()  # much slack: some rows are not looked at again
