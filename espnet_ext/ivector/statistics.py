"""Baum-Welch statistics of utterances: how many frames each Gaussian answers for, and their sum."""

from collections.abc import Sequence

import numpy as np
import torch

from espnet_ext.ivector.gmm import CPU_BLOCK, GPU_BLOCK, Aligner, second_order


def statistics(
    aligner: Aligner, utterances: Sequence[np.ndarray], second: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return n (U, C) and f (U, C, F), float64 on the mixture's device, of features (T, F) each, T >= 1.

    n_uc = sum_t gamma_tc, f_uc = sum_t gamma_tc x_t, not centred. ``second`` (C, F (F + 1) / 2), packed as
    ``gmm.products``, is increased by sum_t gamma_tc x_t x_t'. Frames are aligned in the mixture's dtype.
    """
    gmm = aligner.gmm
    n = torch.zeros(len(utterances), len(gmm), dtype=torch.float64, device=gmm.means.device)
    f = n.new_zeros(len(utterances), *gmm.means.shape)
    block = CPU_BLOCK if gmm.means.device.type == "cpu" else GPU_BLOCK
    for pieces in _batches([len(x) for x in utterances], block):
        x = np.concatenate([utterances[index][start:stop] for index, start, stop in pieces])
        x = torch.from_numpy(x).to(gmm.means)
        gamma, _ = aligner(x)
        first = 0
        for index, start, stop in pieces:
            part = slice(first, first + stop - start)
            n[index] += gamma[part].sum(0, dtype=torch.float64)
            f[index] += gamma[part].T @ x[part]
            first = part.stop
        if second is not None:
            second += second_order(gamma, gmm, x)
    return n, f


def _batches(lengths: Sequence[int], block: int) -> list[list[tuple[int, int, int]]]:
    """Pieces (utterance, first frame, frame behind the last) that go through the aligner together, ``block`` frames.

    Short utterances are gathered, a long one is cut.
    """
    batches: list[list[tuple[int, int, int]]] = []
    filled = block
    for index, length in enumerate(lengths):
        for start in range(0, length, block):
            stop = min(start + block, length)
            if filled + stop - start > block:
                batches.append([])
                filled = 0
            batches[-1].append((index, start, stop))
            filled += stop - start
    return batches
