"""Mel and sinc filterbanks and mean-variance normalisation that treat each utterance as if it were alone."""

import torch
import torch.nn.functional as F
from espnet2.asr.frontend.asteroid_frontend import AsteroidFrontend
from espnet2.asr.frontend.melspec_torch import MelSpectrogramTorch
from espnet2.layers.utterance_mvn import UtteranceMVN as EspnetUtteranceMVN
from torchaudio.transforms import MelScale

from espnet_ext.errors import UserError, check_choices


class MelFrontend(MelSpectrogramTorch):
    """Log mel filterbank of ESPnet's ``melspec_torch`` with true lengths.

    What was wrong in ESPnet 202511: every utterance was given the padded length, the last frames of a short one
    looked at padding instead of its own reflection, its mean included padding, and by default there was neither a
    logarithm nor a mean subtraction; and the filters were laid out for 16 kHz whatever the rate, so that at 8 kHz an
    ``f_max`` of 3800 meant 1900 Hz. Numbers for an unpadded utterance at 16 kHz are ESPnet's, as are buffers' names.

    rate_hz: sampling rate of the audio; preemp: pre-emphasis with 0.97; win_length, hop_length, n_fft in samples (None:
    25 ms, 10 ms, and 512 or the power of two that holds the window); f_min, f_max in Hz (f_max None: 95 % of half the
    rate); log: log(x + 1e-6); normalize: "mn" subtracts each bin's mean over the utterance's valid frames, None does
    not.
    """

    ignores_padding = True

    def __init__(
        self,
        preemp: bool = True,
        n_fft: int | None = None,
        log: bool = True,
        win_length: int | None = None,
        hop_length: int | None = None,
        f_min: int = 20,
        f_max: int | None = None,
        n_mels: int = 80,
        window_fn: str = "hamming",
        mel_scale: str = "htk",
        normalize: str | None = "mn",
        rate_hz: int = 16000,
    ):
        win_length = win_length or round(0.025 * rate_hz)
        hop_length = hop_length or round(0.010 * rate_hz)
        n_fft = n_fft or max(512, 1 << (win_length - 1).bit_length())
        f_max = f_max or round(0.475 * rate_hz)
        if not f_min < f_max <= rate_hz / 2:
            raise UserError(
                f"frontend_conf of melspec_torch: f_max must be from f_min ({f_min} Hz) to half the sampling rate "
                f"({rate_hz / 2:g} Hz), got {f_max}"
            )
        check_choices(
            "frontend_conf of melspec_torch",
            ("window_fn", window_fn, ("hann", "hamming")),
            ("normalize", normalize, ("mn", None)),
            ("mel_scale", mel_scale, ("htk", "slaney")),
        )
        super().__init__(
            preemp, n_fft, log, win_length, hop_length, f_min, min(f_max, 8000), n_mels, window_fn, mel_scale, normalize
        )
        if rate_hz != 16000:
            self.transform.mel_scale = MelScale(n_mels, rate_hz, f_min, f_max, n_fft // 2 + 1, None, mel_scale)
        self.n_fft = n_fft
        self.win_length = win_length
        self.hop_length = hop_length

    def forward(
        self, input: torch.Tensor, input_length: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features (batch, frames, n_mels), zero in padding, and lengths (batch,) = 1 + samples // hop_length.

        input: (batch, samples); input_length: (batch,) in samples, None when nothing is padded.
        """
        with torch.autocast(input.device.type, enabled=False):
            x = input.float()
            if self.preemp:
                x = emphasize(x, self.flipped_filter)
            width = self.n_fft // 2
            if input_length is None:
                input_length = torch.full((x.size(0),), x.size(1), dtype=torch.long, device=x.device)
                x = F.pad(x.unsqueeze(1), (width, width), "reflect").squeeze(1)
            else:
                x = reflect_ends(x, input_length, width)
            x = self._power_spectrum(x)
            x = self.transform.mel_scale(x)
            if self.log:
                x = torch.log(x + 1e-6)
            lengths = torch.div(input_length, self.hop_length, rounding_mode="floor") + 1
            valid = (torch.arange(x.size(-1), device=x.device)[None] < lengths[:, None]).unsqueeze(1)
            if self.normalize == "mn":
                x = x - masked_mean(x, valid)
            return (x * valid).transpose(1, 2), lengths

    def samples_for(self, num_frames: int) -> int:
        """Return the smallest number of samples that gives ``num_frames``; the reflection needs n_fft // 2 + 1."""
        return max((num_frames - 1) * self.hop_length, self.n_fft // 2 + 1)

    def _power_spectrum(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, samples with both ends reflected) -> (batch, n_fft // 2 + 1, frames)."""
        spectrum = torch.stft(
            x,
            self.n_fft,
            self.hop_length,
            self.win_length,
            self.transform.spectrogram.window,
            center=False,
            return_complex=True,
        )
        return spectrum.abs().square()


def emphasize(x: torch.Tensor, taps: torch.Tensor) -> torch.Tensor:
    """Return ``taps[0] x[t - 1] + taps[1] x[t]`` of x (batch, samples), where x[-1] is x[1]; taps: (1, 1, 2).

    The numbers are those of ESPnet's convolution, for whose single channel oneDNN lays out sixteen.
    """
    before = torch.cat((x[:, 1:2], x[:, :-1]), dim=1)
    return taps[0, 0, 1] * x + taps[0, 0, 0] * before


def reflect_ends(x: torch.Tensor, lengths: torch.Tensor, width: int) -> torch.Tensor:
    """Extend x (batch, samples) by ``width`` samples at both ends, each utterance mirrored at its own last sample.

    Returns (batch, samples + 2 width); what lies further behind an utterance's end is of no meaning.
    """
    position = torch.arange(-width, x.size(1) + width, device=x.device).abs()[None]
    last = lengths[:, None] - 1
    position = torch.where(position > last, 2 * last - position, position).clamp(min=0)
    return x.gather(1, position)


class SincFrontend(AsteroidFrontend):
    """RawNet3's learned sinc filterbank (ESPnet's ``asteroid_frontend``): log |filters|, minus its mean over time.

    What was wrong in ESPnet 202511: the waveform's normalisation and the mean over time included padding.
    """

    ignores_padding = True

    def forward(
        self, input: torch.Tensor, input_length: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features (batch, frames, filters), zero in padding, and their lengths (batch,).

        input: (batch, samples); input_length: (batch,) in samples, None when nothing is padded.
        """
        with torch.autocast(input.device.type, enabled=False):
            x = emphasize(input.float(), self.flipped_filter).unsqueeze(1)
            if input_length is None:
                input_length = torch.full((x.size(0),), x.size(2), dtype=torch.long, device=x.device)
            valid = (torch.arange(x.size(2), device=x.device)[None] < input_length[:, None]).unsqueeze(1)
            centred = x - masked_mean(x, valid)
            deviation = (masked_mean(centred.square(), valid) + self.norm.eps).sqrt()
            x = centred / deviation * self.norm.weight[:, None] + self.norm.bias[:, None]
            x = torch.log(torch.abs(self.conv(x)) + self.log_term)
            lengths = torch.div(input_length - self.sinc_kernel_size, self.sinc_stride, rounding_mode="floor") + 1
            valid = (torch.arange(x.size(2), device=x.device)[None] < lengths[:, None]).unsqueeze(1)
            return ((x - masked_mean(x, valid)) * valid).transpose(1, 2), lengths

    def samples_for(self, num_frames: int) -> int:
        """Return the smallest number of samples that gives ``num_frames``."""
        return (num_frames - 1) * self.sinc_stride + self.sinc_kernel_size


class UtteranceMVN(EspnetUtteranceMVN):
    """Subtract each feature's mean over the utterance, and divide by its deviation if ``norm_vars``.

    What was wrong in ESPnet 202511: subtracting the mean makes padded frames minus the mean, and the variance then
    counts them; the input tensor is overwritten.
    """

    def forward(self, x: torch.Tensor, ilens: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return normalised x (batch, frames, features), zero in padding, and ``ilens`` (batch,), None for whole."""
        if ilens is None:
            valid = x.new_ones(x.size(0), 1, x.size(1), dtype=torch.bool)
        else:
            valid = (torch.arange(x.size(1), device=x.device)[None] < ilens[:, None]).unsqueeze(1)
        y = x.transpose(1, 2)
        centred = y - masked_mean(y, valid)
        y = centred if self.norm_means else y
        if self.norm_vars:
            y = y / masked_mean(centred.square(), valid).sqrt().clamp(min=self.eps)
        return (y * valid).transpose(1, 2), ilens


def masked_mean(x: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Return the mean of x (batch, channels, time) over what is ``valid`` (batch, 1, time): (batch, channels, 1)."""
    return (x * valid).sum(dim=-1, keepdim=True) / valid.sum(dim=-1, keepdim=True)
