"""From an utterance's path and its units to what the model trains on: aligned crops, and a mask for every one."""

import zlib
from collections.abc import Sequence

import numpy as np

from espnet_ext.audio.io import audio_info, read_audio
from espnet_ext.errors import UserError
from espnet_ext.ssl.geometry import RATE_HZ, Geometry, label_step
from espnet_ext.ssl.masking import mask_spans
from espnet_ext.ssl.units import UnitFolder, read_units

# A label maker and the encoder may disagree by one frame at the end (other toolkits' features); more is a mistake.
TOLERANCE = 1


class UnitPreprocessor:
    """Crops of waveform and units that stay aligned, and span masks.

    Args:
        folders: where the units of ``units0``, ``units1``, … come from; their streams are joined.
        geometry: of the encoder.
        train: random crops and masks; else the beginning of the utterance, and a mask that depends on its name alone,
            so that losses of different epochs compare.
        max_s: length of a crop, seconds; longer utterances are cropped, shorter ones stay whole.
        mask_prob, mask_length, mask_min_spans: see ``mask_spans``.
    """

    def __init__(
        self,
        folders: Sequence[UnitFolder],
        geometry: Geometry,
        train: bool = True,
        max_s: float = 15.625,
        mask_prob: float = 0.8,
        mask_length: int = 10,
        mask_min_spans: int = 2,
    ):
        self.folders, self.geometry, self.train = list(folders), geometry, train
        self.max_samples = round(max_s * RATE_HZ)
        if self.max_samples < geometry.field:
            raise UserError(f"preprocessor_conf: max_s {max_s} is shorter than one frame ({geometry.field} samples)")
        if not 0 < mask_prob <= 1 or mask_length < 1 or mask_min_spans < 0:
            raise UserError(
                "preprocessor_conf: mask_prob should lie in (0, 1], mask_length be at least 1, mask_min_spans at "
                f"least 0; they are {mask_prob}, {mask_length}, {mask_min_spans}"
            )
        self.mask = {"prob": mask_prob, "length": mask_length, "min_spans": mask_min_spans}
        self.steps = [label_step(folder.rate_hz, geometry.hop, str(folder.path)) for folder in self.folders]

    def __call__(self, uid: str, data: dict[str, str | np.ndarray]) -> dict[str, np.ndarray]:
        """Return ``speech`` float32 (samples,), ``units`` int64 (frames, streams) and ``mask`` (frames,), 0 or 1.

        data: ``speech`` is a path (or samples at 16 kHz), ``units0``, ``units1``, … are entries of ``units.scp`` (or
        arrays (labels, streams)). The draw depends on numpy's global state, which ESPnet seeds per epoch and worker,
        and on the utterance.
        """
        drawn = np.random.randint(2**31) if self.train else 0
        rng = np.random.default_rng([drawn, zlib.crc32(uid.encode())])
        speech = data["speech"]
        samples = self._num_samples(uid, speech) if isinstance(speech, str) else len(speech)
        frames = self.geometry.frames(samples)
        if frames < 1:
            raise UserError(
                f"utterance {uid}: {samples} samples are shorter than one frame ({self.geometry.field} samples); "
                "leave it out of the data"
            )
        labels = [self._labels(uid, data[f"units{place}"], place) for place in range(len(self.folders))]
        frames = self._common_frames(uid, samples, frames, labels)
        wanted = min(frames, self.geometry.frames(self.max_samples))
        first = int(rng.integers(frames - wanted + 1)) if self.train else 0
        start = first * self.geometry.hop
        stop = start + (min(self.max_samples, samples - start) if wanted < frames else samples - start)
        stop = min(stop, start + self.geometry.samples_for(wanted) + self.geometry.hop - 1)
        if isinstance(speech, str):
            cut = {} if (start, stop) == (0, samples) else {"start_s": start / RATE_HZ, "end_s": stop / RATE_HZ}
            wav = read_audio(speech, RATE_HZ, **cut)
        else:
            wav = np.asarray(speech[start:stop], dtype=np.float32)
        units = [
            ids[first * step : (first + wanted - 1) * step + 1 : step]
            for ids, step in zip(labels, self.steps, strict=True)
        ]
        return {
            "speech": wav,
            "units": np.concatenate(units, axis=1).astype(np.int64),
            "mask": mask_spans(wanted, rng, **self.mask).astype(np.int64),  # ESPnet's dataset takes no bool
        }

    @staticmethod
    def _num_samples(uid: str, path: str) -> int:
        info = audio_info(path)
        if info.rate_hz != RATE_HZ:
            raise UserError(f"utterance {uid}: {path} has {info.rate_hz} Hz, not {RATE_HZ}; run the format stage")
        return info.num_samples

    def _labels(self, uid: str, entry: str | np.ndarray, place: int) -> np.ndarray:
        folder = self.folders[place]
        ids = read_units(entry) if isinstance(entry, str) else entry
        if ids.shape[1] != len(folder.streams):
            raise UserError(f"{folder.scp}: utterance {uid} has {ids.shape[1]} streams, not {len(folder.streams)}")
        for column, stream in enumerate(folder.streams):
            if len(ids) and ids[:, column].max() >= stream.num_units:
                raise UserError(
                    f"{folder.scp}: utterance {uid} has unit {ids[:, column].max()} in stream {stream.name}, which has "
                    f"{stream.num_units} units"
                )
        return ids

    def _common_frames(self, uid: str, samples: int, frames: int, labels: list[np.ndarray]) -> int:
        """Return how many frames have labels in every stream; ``UserError`` where they are too few or too many."""
        common = frames
        for ids, step, folder in zip(labels, self.steps, self.folders, strict=True):
            there = -(-len(ids) // step)
            if abs(there - frames) > TOLERANCE:
                raise UserError(
                    f"{folder.scp}: utterance {uid} has {len(ids)} labels at {folder.rate_hz:g} Hz, but its {samples} "
                    f"samples are {frames} frames; make the units again from the same audio: make_units"
                )
            common = min(common, there)
        if common < 1:
            raise UserError(f"{folder.scp}: utterance {uid} has no labels")
        return common


class UnitCollator:
    """Batches of the items of ``UnitPreprocessor``.

    Args:
        geometry: of the encoder.
        drop_padding: cut every item to the frames of the shortest at a random place, as fairseq does (``pad_audio:
            false``), instead of padding to the longest. Attention then needs no mask, which a GPU's fastest kernels do
            not take.
    """

    def __init__(self, geometry: Geometry, drop_padding: bool = False):
        self.geometry, self.drop_padding = geometry, drop_padding

    def __call__(self, items: Sequence[tuple[str, dict[str, np.ndarray]]]):
        """Return ``(utterances, batch)``, what is short padded: speech by zeros, units by -1, mask by False.

        ``speech`` (batch, samples), ``units`` (batch, frames, streams), ``mask`` (batch, frames), and, where utterances
        are padded, ``speech_lengths`` (batch,).
        """
        import torch

        names, data = [utt for utt, _ in items], [item for _, item in items]
        if self.drop_padding and len({len(item["speech"]) for item in data}) > 1:
            frames = min(len(item["units"]) for item in data)
            data = [self._cut(item, frames) for item in data]
        batch = {}
        for name, fill in (("speech", 0.0), ("units", -1), ("mask", 0)):
            arrays = [torch.from_numpy(np.ascontiguousarray(item[name])) for item in data]
            batch[name] = torch.nn.utils.rnn.pad_sequence(arrays, batch_first=True, padding_value=fill)
        batch["mask"] = batch["mask"].bool()
        lengths = [len(item["speech"]) for item in data]
        if len(set(lengths)) > 1:
            batch["speech_lengths"] = torch.tensor(lengths)
        return names, batch

    def _cut(self, item: dict[str, np.ndarray], frames: int) -> dict[str, np.ndarray]:
        first = np.random.randint(len(item["units"]) - frames + 1)
        start = first * self.geometry.hop
        mask = item["mask"][first : first + frames].copy()
        mask[-1] &= not mask.all()  # never wholly hidden
        return {
            "speech": item["speech"][start : start + self.geometry.samples_for(frames)],
            "units": item["units"][first : first + frames],
            "mask": mask,
        }
