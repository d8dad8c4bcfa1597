"""Units of whole data directories: features and nearest centroids in one pass; and fitting those centroids."""

import functools
import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from espnet_ext.audio.io import AudioError
from espnet_ext.cluster.random_projection import MEASURED, RandomProjection, random_projection
from espnet_ext.cluster.residual import Codebook, residual_kmeans
from espnet_ext.datadir import DataDir
from espnet_ext.errors import UserError
from espnet_ext.inference.clips import Clip, FileClip
from espnet_ext.inference.plan import plan_batches
from espnet_ext.ssl.features import identity_of, make_features
from espnet_ext.ssl.geometry import RATE_HZ
from espnet_ext.ssl.quantizer import DESCRIPTION, ENCODER, Quantizer, check_counts
from espnet_ext.ssl.units import write_units

log = logging.getLogger(__name__)

# Settings of ``UnitFit`` that the other quantizer knows nothing of.
_FOREIGN = {"kmeans": ("quantizer", "projection_size"), "random_projection": ("iterations", "restarts")}


class FrameReader:
    """Features of clips, batch by batch; a long clip goes through in windows that share no frame.

    features: see ``make_features``. batch_s: seconds of padded audio at a time. max_window_s: an encoder sees no more
    than this at once, so that memory is bounded.
    """

    rate_hz = RATE_HZ

    def __init__(self, features, batch_s: float = 60.0, max_window_s: float = 60.0):
        self.features = features
        self.batch_samples = round(batch_s * RATE_HZ)
        self.window_frames = max(1, (round(max_window_s * RATE_HZ) - features.field) // features.hop + 1)

    def num_frames(self, num_samples: int) -> int:
        """Return how many frames that many samples give."""
        return max(0, 1 + (num_samples - self.features.field) // self.features.hop)

    def frames(self, clips: Sequence[Clip]) -> Iterator[tuple[int, list | None, UserError | None]]:
        """Yield ``(place, frames (T, D) per layer, None)`` or ``(place, None, what is wrong)``, in another order."""
        for batch in plan_batches([clip.num_samples for clip in clips], self.batch_samples):
            yield from self._batch(clips, batch)

    def _batch(self, clips, batch):
        wavs, there = [], []
        for place in batch:
            clip = clips[place]
            try:
                if self.num_frames(clip.num_samples) < 1:
                    raise AudioError(
                        f"{clip.name}: {clip.num_samples} samples are shorter than one frame ({self.features.field})"
                    )
                if self.num_frames(clip.num_samples) > self.window_frames:
                    yield place, self._long(clip), None
                    continue
                wavs.append(clip.read())
                there.append(place)
            except UserError as error:
                yield place, None, error
        for place, wav, layers in zip(there, wavs, self.features(wavs) if wavs else [], strict=True):
            if len(layers[0]) != self.num_frames(len(wav)):
                raise UserError(
                    f"{clips[place].name}: {len(layers[0])} frames where {self.num_frames(len(wav))} were expected "
                    f"from {len(wav)} samples; labels would not lie on the encoder's frames"
                )
            yield place, layers, None

    def _long(self, clip: Clip) -> list:
        hop, field = self.features.hop, self.features.field
        total = self.num_frames(clip.num_samples)
        parts = []
        for first in range(0, total, self.window_frames):
            count = min(self.window_frames, total - first)
            wav = clip.read(first * hop, (first + count - 1) * hop + field)
            parts.append(self.features([wav])[0])
        return [_joined([part[layer] for part in parts]) for layer in range(len(parts[0]))]


def _joined(parts: list):
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    import torch

    return torch.cat(parts)


class UnitLabeler:
    """Units of clips, for ``espnet_ext.inference.extract``: nothing but the ids leaves the pass."""

    rate_hz = RATE_HZ
    write = staticmethod(write_units)

    def __init__(self, quantizer: Quantizer, features, batch_s: float = 60.0):
        ours, theirs = ((one.hop, one.field, len(one.layers)) for one in (features, quantizer))
        if ours != theirs:
            raise UserError(
                f"centroids of {', '.join(quantizer.names)}, {quantizer.field} samples every {quantizer.hop}, do not "
                f"go with features of {', '.join(features.names)}, {features.field} every {features.hop}; give "
                "--features the encoder that they were fitted to"
            )
        self.quantizer, self.reader = quantizer, FrameReader(features, batch_s)

    def stream(
        self, clips: Sequence[Clip], num_crops: int = 0, crop_s: float = 8.0, skip_broken: bool = False
    ) -> Iterator[tuple[int, np.ndarray | None, UserError | None]]:
        """Yield ``(place, units (T, streams) uint16, None)``, or what is wrong with a clip where broken ones may be."""
        for place, frames, error in self.reader.frames(clips):
            units = None
            if frames is not None and not _are_finite(frames):
                error = UserError(f"{clips[place].name}: its features hold NaN or infinity; has the encoder diverged?")
            elif frames is not None:
                units = self._assign(frames)
            if error is not None and not skip_broken:
                raise error
            yield place, units, error

    def _assign(self, frames: list) -> np.ndarray:
        try:
            return self.quantizer.assign(frames)
        except UserError as error:
            raise UserError(f"{error}; give --features the encoder that the centroids were fitted to") from None


def _are_finite(layers: list) -> bool:
    """Tell whether arrays or tensors hold no NaN and no infinity."""
    return all(bool((np.isfinite(x) if isinstance(x, np.ndarray) else x.isfinite()).all()) for x in layers)


def sample_frames(data: DataDir, reader: FrameReader, max_frames: int, seed: int) -> tuple[list[np.ndarray], int]:
    """Return at least ``max_frames`` frames (N, D) per layer, or all there are, of utterances drawn by ``seed``.

    The second value is the number of utterances. Broken ones are left out with a warning: the label stage names them.
    """
    order = np.random.default_rng(seed).permutation(len(data.utterances))
    clips, total = [], 0
    for place in order:
        utt = data.utterances[place]
        entry, start_s, end_s = data.source(utt)
        try:
            clip = FileClip(entry, RATE_HZ, start_s, end_s, None, data.allow_commands)
        except UserError as error:
            log.warning("left out: utterance %s: %s", utt, error)
            continue
        clips.append(clip)
        total += reader.num_frames(clip.num_samples)
        if total >= max_frames:
            break
    found: dict[int, list[np.ndarray]] = {}
    for place, layers, error in reader.frames(clips):
        if error is not None:
            log.warning("left out: %s", error)
            continue
        found[place] = [layer if isinstance(layer, np.ndarray) else layer.cpu().numpy() for layer in layers]
        if not _are_finite(found[place]):
            raise UserError(f"{clips[place].name}: its features hold NaN or infinity; take an encoder that works")
    if not found:
        raise UserError(f"{data.path}: no utterance with a frame to fit centroids to")
    # In the order of the draw, so that the fit does not depend on how batches were made.
    used = [found[place] for place in sorted(found)]
    return [np.concatenate([layers[at] for layers in used]) for at in range(len(used[0]))], len(used)


@dataclass(frozen=True)
class UnitFit:
    """What decides the centroids of units; fitted to a sample of frames of ``data``.

    features: see ``make_features``. layers: of an encoder. num_units: per layer, or one number for all of them. levels:
    of residual k-means, or codebooks of random projections. quantizer: which of the two, of ``quantizer.KINDS``.
    projection_size: numbers per code of a random projection. The rest is for ``sample_frames`` and ``kmeans``.
    """

    data: DataDir
    features: str
    layers: tuple[int, ...]
    num_units: tuple[int, ...]
    levels: int = 1
    max_frames: int = 500_000
    seed: int = 0
    iterations: int = 50
    restarts: int = 1
    quantizer: str = "kmeans"
    projection_size: int = 16

    @functools.cached_property
    def key(self) -> str:
        """Sixteen hexadecimal digits that stand for the settings, the encoder, the utterances and their files."""
        foreign = ("data", *_FOREIGN[self.quantizer])
        settings = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in foreign}
        digest = hashlib.sha256(json.dumps([settings, identity_of(self.features)]).encode())
        self.data.stamp(digest)
        return digest.hexdigest()[:16]

    def finished(self, out: str | Path) -> Quantizer | None:
        """Return the centroids in the folder ``out`` where they are these, whole, else None."""
        try:
            found = Quantizer.load(out)
        except UserError:
            return None
        if found.facts.get("key") != self.key:
            return None
        log.info("%s is finished; nothing to do", out)
        return found

    def run(self, out: str | Path, device: str = "cpu", batch_s: float = 60.0) -> Quantizer:
        """Fit, and write the folder ``out``; what it held before is no centroids any more from the beginning."""
        features = make_features(self.features, self.layers, device)
        names, counts = features.names, self.num_units
        check_counts(self.layers, counts, self.quantizer, self.max_frames)
        (Path(out) / DESCRIPTION).unlink(missing_ok=True)
        sample, utterances = sample_frames(self.data, FrameReader(features, batch_s), self.max_frames, self.seed)
        books, errors = [], {}
        for place, count in enumerate(counts * (len(names) // len(counts))):
            name, frames = names[place], sample[place]
            books.append(self._book(frames, count, features.layers[place], device))
            errors[name] = [round(value, 6) for value in books[-1].errors]
            log.info("%s: %d frames, %d units, mean squared distance %s", name, len(frames), count, errors[name])
            self._tell_unused(name, books[-1], len(frames), count)
        facts = {"key": self.key, "data": str(self.data.path), "utterances": utterances, "frames": len(sample[0])}
        facts |= {"seed": self.seed, "mean_squared_distance": errors, ENCODER: identity_of(self.features)}
        quantizer = Quantizer(self.features, features.hop, features.field, names, features.layers, books, facts)
        quantizer.save(out)
        return quantizer

    def _book(self, frames: np.ndarray, count: int, layer: int | None, device: str) -> Codebook | RandomProjection:
        if self.quantizer == "random_projection":
            seed = (self.seed, layer or 0)  # a layer's own: the same codes for all would cut them alike
            return random_projection(frames, count, self.levels, self.projection_size, seed, device)
        options = {"iterations": self.iterations, "restarts": self.restarts, "seed": self.seed, "device": device}
        return residual_kmeans(frames, count, self.levels, **options)

    def _tell_unused(self, name: str, book: Codebook | RandomProjection, frames: int, count: int) -> None:
        for level, unused in enumerate(book.facts["unused"]):
            if self.quantizer == "random_projection":
                measured, used = min(frames, MEASURED), count - unused
                log.info("%s: %d frames meet %d of %d units (codebook %d)", name, measured, used, count, level)
            elif unused:
                log.warning(
                    "%s: %d of %d units (level %d) have no frame: fewer frames differ than there are units; ask "
                    "for fewer, or look for silence in %s", name, unused, count, level, self.data.path,
                )  # fmt: skip
