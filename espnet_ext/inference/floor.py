"""The floor of a speaker table: statistics of MFCCs, what any trained model has to beat."""

from collections.abc import Iterator, Sequence

import numpy as np

from espnet_ext.audio.io import AudioError, is_silent
from espnet_ext.audio.mfcc import mean_and_deviation, mfcc
from espnet_ext.errors import UserError
from espnet_ext.inference.clips import Clip
from espnet_ext.inference.plan import crops, repeat_to, windows


class MfccFloor:
    """Mean and standard deviation over time of the MFCCs of an utterance, in the place of an embedding.

    The cepstra of audio beyond a minute are made minute by minute, so that memory stays small.
    """

    model_id = "mfcc mean deviation 1"
    rate_hz = 16000
    max_window_s = 60.0

    def stream(
        self, clips: Sequence[Clip], num_crops: int = 0, crop_s: float = 8.0, skip_broken: bool = False
    ) -> Iterator[tuple[int, np.ndarray | None, UserError | None]]:
        """As ``SpeakerEmbedder.stream``, one clip at a time: vectors of twice the number of cepstra."""
        for index, clip in enumerate(clips):
            try:
                vector = self._crops(clip, num_crops, crop_s) if num_crops else self._whole(clip)
                yield index, vector, None
            except UserError as error:
                if not skip_broken:
                    raise
                yield index, None, error

    def _whole(self, clip: Clip) -> np.ndarray:
        spans = windows(clip.num_samples, round(self.max_window_s * self.rate_hz))
        wavs = (clip.read(start, stop) for start, stop in spans)
        cepstra = [mfcc(wav, self.rate_hz) for wav in wavs if not is_silent(wav)]
        if not cepstra:
            raise AudioError(f"{clip.name}: silent (below -80 dB), there is nothing to embed")
        return mean_and_deviation(np.concatenate(cepstra))

    def _crops(self, clip: Clip, num_crops: int, crop_s: float) -> np.ndarray:
        crop = round(crop_s * self.rate_hz)
        wav = clip.read()
        if is_silent(wav):
            raise AudioError(f"{clip.name}: silent (below -80 dB), there is nothing to embed")
        wav = repeat_to(wav, crop + 1) if len(wav) < crop else wav
        spans = crops(len(wav), num_crops, crop)
        return np.stack([mean_and_deviation(mfcc(wav[start:stop], self.rate_hz)) for start, stop in spans])
