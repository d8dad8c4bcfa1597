"""i-vectors of audio of any kind, in the place of a trained speaker model's embeddings."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from espnet_ext.audio.io import AudioError
from espnet_ext.errors import UserError
from espnet_ext.inference.clips import Clip, as_clip

#: Frames of the utterances that are aligned and solved together.
BATCH_FRAMES = 16384


class IvectorExtractor:
    """A trained i-vector extractor.

        extractor = IvectorExtractor.from_pretrained("exp/ivector")
        vector = extractor("hello.flac")            # float32 (R,)

    Audio is a path (any format, rate and channel count) or an array with its rate. The vector does not depend on what
    else is in the batch. Post-processing, none of which needs a label: ``subtract_mean`` and ``whiten`` (PCA; it
    subtracts the mean too) by the moments of the extractor's own training set, then ``length_norm``.
    ``posterior_scale`` and ``min_posterior``: None takes the training's.
    """

    def __init__(
        self,
        arrays: dict[str, np.ndarray],
        device: str = "cpu",
        posterior_scale: float | None = None,
        min_posterior: float | None = None,
        subtract_mean: bool = False,
        whiten: bool = False,
        length_norm: bool = False,
        batch_frames: int = BATCH_FRAMES,
    ):
        import torch

        from espnet_ext.ivector.extractor import TotalVariability
        from espnet_ext.ivector.features import FeatureConfig
        from espnet_ext.ivector.gmm import Aligner, Gmm

        config = json.loads(str(arrays["config"]))
        self.features = FeatureConfig.from_json(str(arrays["features"]))
        self.rate_hz = self.features.rate_hz
        self.scale = config["posterior_scale"] if posterior_scale is None else posterior_scale
        floor = config["min_posterior"] if min_posterior is None else min_posterior
        if self.scale <= 0 or not 0 <= floor < 1:
            raise UserError("--posterior_scale must be above 0, --min_posterior at least 0 and below 1")
        tensors = {name: torch.from_numpy(value) for name, value in arrays.items() if value.dtype.kind == "f"}
        gmm = Gmm(*(tensors[name].to(device) for name in ("weights", "ubm_means", "ubm_covariances")))
        self.aligner = Aligner(gmm, config["num_selected"], floor)
        self.model = TotalVariability(*(tensors[name].to(device) for name in ("means", "covariances", "t")))
        self.length_norm, self.batch_frames = length_norm, batch_frames
        mean = tensors["vector_mean"]
        self.shift = mean if subtract_mean or whiten else torch.zeros_like(mean)
        self.transform = _whitening(tensors["vector_covariance"]) if whiten else None

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str = "cpu", **options: Any) -> "IvectorExtractor":
        """Load the folder that ``train_ivector_extractor`` wrote, or its ``ivector.npz``; ``options`` as above.

        Errors: ``UserError`` for a file that is missing or broken, or a device that is not there.
        """
        from espnet_ext.ivector.rounds import load
        from espnet_ext.options import check_device

        return cls(load(model_file(folder)), check_device(device), **options)

    def __call__(self, audio: Any, rate_hz: int | None = None) -> np.ndarray:
        """Return the i-vector of one path or array (``rate_hz``: its rate, None for the extractor's): float32 (R,)."""
        return self.embed([audio], rate_hz)[0]

    def embed(self, audios: Sequence[Any], rate_hz: int | None = None) -> np.ndarray:
        """Return the i-vectors of many paths or arrays: float32 (N, R)."""
        if not audios:
            raise UserError("there is nothing to embed: the list of audios is empty")
        clips = [as_clip(audio, rate_hz, self.rate_hz) for audio in audios]
        done = {index: vector for index, vector, _ in self.stream(clips)}
        return np.stack([done[index] for index in range(len(clips))])

    def stream(
        self, clips: Sequence[Clip], num_crops: int = 0, crop_s: float = 8.0, skip_broken: bool = False
    ) -> Iterator[tuple[int, np.ndarray | None, UserError | None]]:
        """As ``SpeakerEmbedder.stream``; an i-vector is of the whole utterance, there are no crops."""
        if num_crops:
            raise UserError("an i-vector is of a whole utterance; leave --num_crops at 0")
        waiting: list[tuple[int, np.ndarray]] = []
        for index, clip in enumerate(clips):
            try:
                waiting.append((index, self.features(clip.read(), clip.name)))
            except UserError as error:
                if not skip_broken:
                    raise
                yield index, None, error
            if sum(len(x) for _, x in waiting) >= self.batch_frames:
                yield from self._solve(waiting)
                waiting = []
        if waiting:
            yield from self._solve(waiting)

    def _solve(self, waiting: list[tuple[int, np.ndarray]]) -> Iterator[tuple[int, np.ndarray, None]]:
        """The i-vectors of utterances' features (T, F)."""
        from espnet_ext.ivector.statistics import statistics

        n, f = statistics(self.aligner, [x for _, x in waiting])
        n, f = self.scale * n, self.scale * f
        # Frames are aligned in float64, so that what lies at min_posterior does not depend on the batch.
        vectors = self.model.posterior(n.float(), self.model.centre(n, f).float()).w.cpu() - self.shift
        if self.transform is not None:
            vectors = vectors @ self.transform
        if self.length_norm:
            vectors = vectors / vectors.norm(dim=1, keepdim=True)
        for (index, _), vector in zip(waiting, vectors.float().numpy(), strict=True):
            if not np.isfinite(vector).all():
                raise AudioError(f"utterance {index}: its i-vector is not finite; train the extractor again")
            yield index, vector, None


def model_file(folder: str | Path) -> Path:
    """The extractor's file in the folder, or the file itself."""
    from espnet_ext.ivector.training import FILE

    path = Path(folder)
    return path / FILE if path.is_dir() or path.suffix != ".npz" else path


def identity(folder: str | Path) -> str:
    """Changes whenever the extractor does."""
    path = model_file(folder)
    if not path.is_file():
        raise UserError(f"{path}: no such extractor; train_ivector_extractor makes it")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _whitening(covariance):
    """The transform (R, R) after which vectors of ``covariance`` have unit variance along its principal axes."""
    import torch

    values, vectors = torch.linalg.eigh(covariance)
    return vectors.flip(1) / values.flip(0).clamp(min=1e-10 * float(values[-1])).sqrt()
