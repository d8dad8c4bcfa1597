"""Batches of like length and of about as much audio each."""

import numpy as np
from espnet2.samplers.abs_sampler import AbsSampler

from espnet_ext.errors import UserError

# Utterances whose lengths differ by no more than this share may swap places from epoch to epoch.
JITTER = 0.1


class LengthSampler(AbsSampler):
    """Batches whose padded size is at most ``batch_samples``, made anew every epoch; each utterance once per epoch.

    ESPnet's samplers put the same utterances together in every epoch. Here their order by length is shaken a little
    first, while the sizes of the batches stay, so that the number of batches is the same in every epoch.

    Args:
        lengths: samples of every utterance as the model gets it (crops: at most a crop).
        batch_samples: most samples in a batch, padding included, over all processes.
        min_size: a batch has at least this many utterances where there are so many.
        shuffle: False keeps the order by length, the same in every epoch (validation).
        seed: what ``iter()`` uses; ``generate(seed)`` makes an epoch's batches from its own seed.
        share: (rank, world size) of a distributed training; every process gets its part of each batch.
    """

    def __init__(
        self,
        lengths: dict[str, int],
        batch_samples: int,
        min_size: int = 1,
        shuffle: bool = True,
        seed: int = 0,
        share: tuple[int, int] = (0, 1),
    ):
        self.rank, self.world = share
        self.shuffle, self.seed = shuffle, seed
        self.utterances = sorted(lengths, key=lambda utt: (lengths[utt], utt))
        self.lengths = np.array([lengths[utt] for utt in self.utterances])
        if not len(self.lengths):
            raise UserError("there are no utterances to train on")
        if len(self.utterances) < self.world:
            raise UserError(
                f"{len(self.utterances)} utterances cannot be shared by {self.world} processes; give more data (to the "
                "dev set as well), or fewer processes"
            )
        if self.lengths[-1] > batch_samples:
            raise UserError(
                f"batch_bins: {batch_samples} samples are less than the longest utterance or crop "
                f"({self.lengths[-1]}); raise batch_bins, or lower max_s"
            )
        self.sizes = self._sizes(batch_samples, max(min_size, self.world))

    def _sizes(self, batch_samples: int, min_size: int) -> list[int]:
        """Return how many utterances each batch has, from the shortest on; after a shake none is much longer."""
        spread = 1 + JITTER if self.shuffle else 1.0
        sizes = [0]
        for length in np.minimum(self.lengths * spread, self.lengths[-1]):
            if sizes[-1] >= min_size and (sizes[-1] + 1) * length > batch_samples:
                sizes.append(0)
            sizes[-1] += 1
        # The last one may be too small for all processes to have a share.
        if len(sizes) > 1 and sizes[-1] < min_size:
            sizes[-2:] = [sizes[-2] + sizes[-1]]
        return sizes

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self):
        return iter(self.generate(self.seed))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(batches={len(self)}, utterances={len(self.utterances)})"

    def padding(self) -> float:
        """Return which share of an epoch's batches is padding, 0 to 1, as the order by length gives it."""
        longest = self.lengths[np.cumsum(self.sizes) - 1]
        return float(1 - self.lengths.sum() / (longest * self.sizes).sum())

    def surplus(self) -> float:
        """Return which share of the audio lies beyond the shortest of its batch, 0 to 1, as ``padding`` does."""
        shortest = self.lengths[np.cumsum([0, *self.sizes[:-1]])]
        return float(1 - (shortest * self.sizes).sum() / self.lengths.sum())

    def generate(self, seed: int) -> list[list[str]]:
        """Return the batches of one epoch: lists of utterance ids."""
        order = np.arange(len(self.utterances))
        if self.shuffle:
            rng = np.random.default_rng(seed % 2**63)
            order = np.argsort(self.lengths * (1 + JITTER * rng.random(len(order))), kind="stable")
        ends = np.cumsum(self.sizes)
        batches = [
            [self.utterances[place] for place in order[end - size : end]][self.rank :: self.world]
            for end, size in zip(ends, self.sizes, strict=True)
        ]
        if self.shuffle:
            return [batches[place] for place in rng.permutation(len(batches))]
        return batches
