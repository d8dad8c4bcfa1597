"""From an utterance's path and speaker to what the model trains on: a crop of fixed length and a class number."""

import zlib
from collections.abc import Sequence

import numpy as np

from espnet_ext.audio.augment import Augmenter, change_speed, random_crop, read_crop
from espnet_ext.datadir.tables import read_scp
from espnet_ext.errors import UserError


class SpeakerPreprocessor:
    """Random crop, speed, reverberation and noise for training on speaker labels.

    ESPnet's ``SpkPreprocessor`` decodes whole files, fails without ``noise_info`` and on numpy >= 2.4, and takes the
    sampling rate of files for granted; here a path is opened once and only the crop is decoded and resampled.

    Args:
        spk2utt: file with one line per speaker; the class number is the line, from 0.
        target_duration: length of a crop, seconds; shorter utterances are repeated.
        sample_rate: rate of the crops in Hz.
        speed_factors: each utterance is played at one of these speeds, drawn evenly. Speaker i at the k-th factor is
            class ``k * speakers + i``: another speed is another voice (arXiv 2401.17230, section 3).
        noise_info, noise_apply_prob, rir_scp, rir_apply_prob: see ``Augmenter``.
        num_eval, short_noise_thres: read from ESPnet's configurations; ``num_eval`` is used by the validation.
    """

    def __init__(
        self,
        spk2utt: str,
        target_duration: float = 3.0,
        sample_rate: int = 16000,
        speed_factors: Sequence[float] = (1.0,),
        noise_info: Sequence | None = None,
        noise_apply_prob: float | None = None,
        rir_scp: str | None = None,
        rir_apply_prob: float | None = None,
        num_eval: int = 0,
        short_noise_thres: float = 0.5,
    ):
        self.speakers = {speaker: number for number, speaker in enumerate(read_scp(spk2utt))}
        self.spk2utt = spk2utt
        self.rate_hz = sample_rate
        self.crop_samples = round(target_duration * sample_rate)
        self.speed_factors = [float(factor) for factor in speed_factors]
        if self.crop_samples < 1:
            raise UserError(f"target_duration: {target_duration} s is not a length; 3.0 is usual")
        if not self.speed_factors or not all(0.5 <= factor <= 2 for factor in self.speed_factors):
            raise UserError(
                f"speed_factors: {list(speed_factors)} should be speeds from 0.5 to 2, for example [1.0, 0.9, 1.1]"
            )
        self.augment = Augmenter(noise_info, noise_apply_prob, rir_scp, rir_apply_prob, sample_rate)

    def __call__(self, uid: str, data: dict[str, str | np.ndarray]) -> dict[str, np.ndarray]:
        """Return ``data`` with a crop in place of ``speech`` and a class number in place of ``spk_labels``.

        ``speech`` is a path, or float ``(samples,)`` at the model's rate; ``spk_labels`` is a speaker. The
        crop is float32 ``(crop,)``, the class int64 ``(1,)``. The draw depends on numpy's global
        state, which ESPnet seeds per epoch and worker, and on the utterance.
        """
        rng = np.random.default_rng([np.random.randint(2**31), zlib.crc32(uid.encode())])
        choice = int(rng.integers(len(self.speed_factors)))
        speed = self.speed_factors[choice]
        speech = data["speech"]
        if isinstance(speech, str):
            crop = read_crop(speech, self.crop_samples, self.rate_hz, rng, speed)
        else:
            speech = speech.mean(axis=1) if speech.ndim == 2 else speech
            crop = random_crop(change_speed(speech.astype(np.float32), speed), self.crop_samples, rng)
        speaker = data["spk_labels"]
        if speaker not in self.speakers:
            raise UserError(
                f"{self.spk2utt}: no line for speaker {speaker!r} of utterance {uid!r}; make it from utt2spk"
            )
        label = choice * len(self.speakers) + self.speakers[speaker]
        return {**data, "speech": self.augment(crop, rng), "spk_labels": np.array([label], dtype=np.int64)}
