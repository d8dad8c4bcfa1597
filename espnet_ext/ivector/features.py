"""Features of an i-vector system: cepstra, their differences, sliding mean subtraction, voiced frames only."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields

import numpy as np

from espnet_ext.audio.cepstra import add_deltas, energy_vad, sliding_mean_subtraction
from espnet_ext.audio.io import AudioError
from espnet_ext.audio.mfcc import kaldi_mfcc
from espnet_ext.errors import UserError


@dataclass(frozen=True)
class FeatureConfig:
    """What decides the features; the defaults are those of Speaker-IPL (arXiv 2409.10791) and Kaldi's recipes."""

    rate_hz: int = 16000  # sampling rate; 25 ms frames every 10 ms
    num_ceps: int = 20  # cepstra, the first one the frame's log energy
    num_mels: int = 40  # mel filters
    f_min_hz: float = 50.0  # lower end of the first filter
    f_max_hz: float = 7500.0  # upper end of the last filter
    delta_order: int = 2  # 0: cepstra alone, 1: and their slope, 2: and the slope's slope
    cmn_window: int = 300  # frames whose mean is subtracted from the one in their middle; 0: none
    vad_threshold: float = 5.5  # voiced: log energy of 16-bit samples above this …
    vad_mean_scale: float = 0.5  # … plus this times the utterance's mean log energy, …
    vad_context: int = 2  # … in the frames from so many before to so many behind, …
    vad_proportion: float = 0.12  # … in at least this part of them

    def __post_init__(self):
        kaldi_mfcc(np.zeros(self.rate_hz // 10), **self._cepstra)  # says what does not go together
        whole = (self.delta_order, self.cmn_window, self.vad_context)
        if min(whole) < 0 or not 0 <= self.vad_proportion <= 1:
            raise UserError("features: orders, windows and contexts must not be negative, a proportion lies in 0 … 1")

    @property
    def _cepstra(self) -> dict:
        names = ("rate_hz", "num_ceps", "num_mels", "f_min_hz", "f_max_hz")
        return {name: getattr(self, name) for name in names}

    @property
    def dim(self) -> int:
        """Number of features per frame, F."""
        return self.num_ceps * (self.delta_order + 1)

    def __call__(self, wav: np.ndarray, name: str = "the audio") -> np.ndarray:
        """Return the features (voiced frames, F) float32 of ``wav`` (samples,) in [-1, 1] at ``rate_hz``.

        Errors: ``AudioError`` that calls the audio ``name`` where no frame is voiced.
        """
        cepstra = kaldi_mfcc(wav, **self._cepstra)
        voiced = energy_vad(
            cepstra[:, 0], self.vad_threshold, self.vad_mean_scale, self.vad_context, self.vad_proportion
        )
        if not voiced.any():
            raise AudioError(
                f"{name}: none of its {len(voiced)} frames is voiced; lower --vad_threshold, or it is no speech"
            )
        return sliding_mean_subtraction(add_deltas(cepstra, self.delta_order), self.cmn_window)[voiced]

    def to_json(self) -> str:
        """One line from which ``from_json`` makes the same again."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "FeatureConfig":
        """The features that ``to_json`` described."""
        return cls(**json.loads(text))

    @property
    def identity(self) -> str:
        """Changes whenever the features would."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]


def add_feature_options(parser) -> None:
    """Give an ``argparse`` parser one option for every field of ``FeatureConfig``."""
    group = parser.add_argument_group("features")
    helps = {
        "rate_hz": "sampling rate",
        "num_ceps": "cepstra, log energy included",
        "num_mels": "mel filters",
        "f_min_hz": "lower end of the filters",
        "f_max_hz": "upper end of the filters",
        "delta_order": "differences over time: 0, 1 or 2",
        "cmn_window": "frames of the sliding mean that is subtracted; 0: none",
        "vad_threshold": "voiced: log energy above this, 16-bit samples",
        "vad_mean_scale": "plus this times the utterance's mean log energy",
        "vad_context": "in the frames so many before and behind",
        "vad_proportion": "in at least this part of them",
    }
    for field in fields(FeatureConfig):
        group.add_argument(f"--{field.name}", type=field.type, default=field.default, help=helps[field.name])


def features_from(args) -> FeatureConfig:
    """The features that the options of ``add_feature_options`` ask for."""
    return FeatureConfig(**{field.name: getattr(args, field.name) for field in fields(FeatureConfig)})
