"""Batches with the speakers spread evenly and every utterance in exactly one of them."""

import numpy as np
from espnet2.samplers.abs_sampler import AbsSampler

from espnet_ext.errors import UserError


class BalancedSampler(AbsSampler):
    """Batches in which no speaker has more than his share, while each utterance is used once per epoch.

    ESPnet's ``CategoryBalancedSampler`` draws utterances and throws away those whose speaker is already in the batch:
    22 % of a corpus at batch 16 and 87 % at batch 128 (40 speakers), and it ignores ``drop_last``. Here a speaker with
    n utterances is dealt evenly over the M batches of an epoch, at most ceil(n / M) to a batch; with equal speakers
    and a batch no larger than their number, all speakers of a batch differ.

    Args:
        utt2spk: speaker of every utterance.
        batch_size: most utterances in a batch; the batches of an epoch differ by one at most, so that there is no
            small last one. With ``drop_last`` all have this size and the remainder, drawn anew per epoch, is left out.
        seed: what ``iter()`` uses; ``generate(seed)`` makes an epoch's batches from its own seed.
        share: (rank, world size) of a distributed training; every process gets its part of each batch.
    """

    def __init__(
        self,
        utt2spk: dict[str, str],
        batch_size: int,
        drop_last: bool = False,
        seed: int = 0,
        share: tuple[int, int] = (0, 1),
    ):
        if not utt2spk:
            raise UserError("there are no utterances to train on")
        self.rank, self.world = share
        if batch_size < 2 * self.world:
            raise UserError(
                f"batch_size: {batch_size} is too small; batch normalisation needs at least 2 utterances in each of "
                f"{self.world} process(es)"
            )
        self.batch_size = batch_size
        self.drop_last = drop_last and len(utt2spk) >= batch_size
        self.seed = seed
        speakers: dict[str, list[str]] = {}
        for utt, speaker in utt2spk.items():
            speakers.setdefault(speaker, []).append(utt)
        self.speakers = list(speakers.values())
        self.num_utterances = len(utt2spk)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(batches={len(self)}, batch_size={self.batch_size}, "
            f"utterances={self.num_utterances}, speakers={len(self.speakers)})"
        )

    def __len__(self) -> int:
        whole, rest = divmod(self.num_utterances, self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self):
        return iter(self.generate(self.seed))

    def generate(self, seed: int) -> list[list[str]]:
        """Return the batches of one epoch: lists of utterance ids."""
        rng = np.random.default_rng(seed % 2**63)
        counts = np.array([len(utts) for utts in self.speakers])
        if self.drop_last:
            spare = self.num_utterances - len(self) * self.batch_size
            counts = counts - np.bincount(
                rng.choice(np.repeat(np.arange(len(counts)), counts), spare, replace=False), minlength=len(counts)
            )
        order = [rng.permutation(len(utts)) for utts in self.speakers]
        sizes = np.diff(np.linspace(0, counts.sum(), len(self) + 1).round().astype(int))
        taken = np.zeros(len(counts), dtype=int)
        batches = []
        for number, size in enumerate(sizes, start=1):
            picks = _deal(counts, taken, number, len(sizes), size, rng)
            batch = [
                self.speakers[speaker][place]
                for speaker in np.flatnonzero(picks)
                for place in order[speaker][taken[speaker] : taken[speaker] + picks[speaker]]
            ]
            taken += picks
            batches.append([batch[i] for i in rng.permutation(len(batch))][self.rank :: self.world])
        return batches


def _deal(counts: np.ndarray, taken: np.ndarray, number: int, batches: int, size: int, rng) -> np.ndarray:
    """Return how many utterances of each speaker go into batch ``number`` of ``batches``.

    The speakers that lag furthest behind their even share ``counts * number / batches`` come first, ties by lot; what
    a speaker has left must still fit into the batches to come at ``ceil(counts / batches)`` each.
    """
    cap = -(-counts // batches)
    left = counts - taken
    picks = np.maximum(left - cap * (batches - number), 0)
    lag = counts * (number / batches) - taken
    while (room := size - picks.sum()) > 0:
        open_ = np.flatnonzero(picks < np.minimum(cap, left))
        # Equal lags differ in the last bits only; the lot decides among them and is too small to decide otherwise.
        key = (lag - picks)[open_] + 1e-6 * rng.random(len(open_))
        best = open_ if room >= len(open_) else open_[np.argpartition(-key, room)[:room]]
        picks[best] += 1
    return picks
