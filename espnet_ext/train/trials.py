"""Open-set validation data: the dev utterances once each, in batches of like length, and the trials among them."""

from collections.abc import Iterator

import numpy as np
import torch
from espnet2.iterators.abs_iter_factory import AbsIterFactory

from espnet_ext.audio.io import read_audio
from espnet_ext.datadir.trials import Trials


class DevUtterances(torch.utils.data.Dataset):
    """Utterances to embed: item i is ``(utterance, crops float32 (n, samples))``; n is 1 for a whole utterance.

    Args:
        paths: audio file per utterance. rate_hz: rate of the model.
        max_s: a whole utterance longer than this gives its middle part, so that memory stays bounded.
        num_crops, crop_s: that many evenly spaced crops instead of the whole (ESPnet's ``num_eval`` and
            ``target_duration``); 0 takes the whole.
    """

    def __init__(self, paths: dict[str, str], rate_hz: int, max_s: float, num_crops: int = 0, crop_s: float = 3.0):
        self.utterances = list(paths)
        self.paths = list(paths.values())
        self.rate_hz, self.max_samples = rate_hz, round(max_s * rate_hz)
        self.num_crops, self.crop_samples = num_crops, round(crop_s * rate_hz)

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, index: int) -> tuple[str, np.ndarray]:
        wav = read_audio(self.paths[index], self.rate_hz)
        if self.num_crops:
            if len(wav) <= self.crop_samples:
                wav = np.pad(wav, (0, self.crop_samples + 1 - len(wav)), "wrap")
            starts = np.linspace(0, len(wav) - self.crop_samples, self.num_crops).astype(int)
            return self.utterances[index], np.stack([wav[start : start + self.crop_samples] for start in starts])
        start = max(0, (len(wav) - self.max_samples) // 2)
        return self.utterances[index], wav[None, start : start + self.max_samples]


def pad_batch(items: list[tuple[str, np.ndarray]]) -> tuple[list[str], dict[str, torch.Tensor]]:
    """Stack ``DevUtterances`` items: ``speech`` float32 (all crops, samples) and ``speech_lengths`` (all crops,)."""
    lengths = [crops.shape[1] for _, crops in items for _ in crops]
    speech = torch.zeros(len(lengths), max(lengths))
    row = 0
    for _, crops in items:
        speech[row : row + len(crops), : crops.shape[1]] = torch.from_numpy(crops)
        row += len(crops)
    return [utt for utt, _ in items], {"speech": speech, "speech_lengths": torch.tensor(lengths)}


class TrialLoader:
    """What ``validate_one_epoch`` gets: an iterator over batches of dev utterances that also knows the trials.

    Iterating gives ``(utterances, {"speech", "speech_lengths"})``; ``trials`` and ``num_speakers`` (None where
    unknown) belong to the whole set, also where this process embeds only its share.
    """

    def __init__(self, loader, trials: Trials, num_speakers: int | None):
        self.loader, self.trials, self.num_speakers = loader, trials, num_speakers

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator:
        return iter(self.loader)


class TrialIterFactory(AbsIterFactory):
    """Makes a ``TrialLoader`` per epoch; the same batches every time.

    Args:
        dataset: the utterances of the trials. trials, num_speakers: see ``TrialLoader``.
        num_samples: length of each utterance if known, to put like lengths together.
        batch_size: utterances per batch. num_workers: reading processes. share: (rank, world size).
    """

    def __init__(
        self,
        dataset: DevUtterances,
        trials: Trials,
        num_speakers: int | None = None,
        num_samples: dict[str, int] | None = None,
        batch_size: int = 16,
        num_workers: int = 0,
        share: tuple[int, int] = (0, 1),
    ):
        self.dataset, self.trials, self.num_speakers = dataset, trials, num_speakers
        order = range(len(dataset))
        if num_samples:
            order = sorted(order, key=lambda i: -num_samples.get(dataset.utterances[i], 0))
        rank, world = share
        mine = list(order)[rank::world]
        self.batches = [mine[i : i + batch_size] for i in range(0, len(mine), batch_size)]
        self.num_workers = num_workers

    def build_iter(self, epoch: int, shuffle: bool | None = None) -> TrialLoader:
        loader = torch.utils.data.DataLoader(
            self.dataset, batch_sampler=self.batches, num_workers=self.num_workers, collate_fn=pad_batch
        )
        return TrialLoader(loader, self.trials, self.num_speakers)
