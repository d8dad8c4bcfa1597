"""A speaker model in a form that ONNX can hold: waveform in, embedding out, real arithmetic only."""

import torch
import torch.nn.functional as F
from espnet2.asr.frontend.asteroid_frontend import AsteroidFrontend
from espnet2.asr.frontend.melspec_torch import MelSpectrogramTorch

from espnet_ext.spk.model import SpeakerModel


class ConvolutionMel(torch.nn.Module):
    """The mel frontend with its Fourier transform written as a convolution: ONNX has no complex numbers.

    Same numbers as ``MelFrontend`` for utterances without padding, to the rounding of float32.
    """

    def __init__(self, frontend: MelSpectrogramTorch):
        super().__init__()
        spectrogram = frontend.transform.spectrogram
        n_fft, self.hop = spectrogram.n_fft, spectrogram.hop_length
        left = (n_fft - spectrogram.win_length) // 2  # torch.stft centres the window in the transform
        window = F.pad(spectrogram.window.double(), (left, n_fft - spectrogram.win_length - left))
        angle = 2 * torch.pi / n_fft * torch.outer(torch.arange(n_fft // 2 + 1), torch.arange(n_fft)).double()
        basis = torch.cat((torch.cos(angle), torch.sin(angle))) * window
        self.register_buffer("basis", basis.unsqueeze(1).float())  # (2 bins, 1, n_fft)
        self.register_buffer("filters", frontend.transform.mel_scale.fb)  # (bins, n_mels)
        self.register_buffer("emphasis", frontend.flipped_filter if frontend.preemp else None)
        self.half, self.log, self.centre = n_fft // 2, frontend.log, frontend.normalize == "mn"

    def forward(self, speech: torch.Tensor, _lengths: torch.Tensor | None = None) -> tuple[torch.Tensor, None]:
        """(batch, samples) -> (batch, frames, n_mels)."""
        x = speech.unsqueeze(1)
        if self.emphasis is not None:
            x = F.conv1d(F.pad(x, (1, 0), "reflect"), self.emphasis)
        x = F.conv1d(F.pad(x, (self.half, self.half), "reflect"), self.basis, stride=self.hop)
        real, imaginary = x.chunk(2, dim=1)
        x = (real.square() + imaginary.square()).transpose(1, 2) @ self.filters
        x = torch.log(x + 1e-6) if self.log else x
        return (x - x.mean(dim=1, keepdim=True) if self.centre else x), None


class OnnxModel(torch.nn.Module):
    """What is exported; its input is (batch, samples) at the model's rate or (batch, frames, features), unpadded."""

    def __init__(self, model: SpeakerModel):
        super().__init__()
        frontend = model.frontend
        if isinstance(frontend, MelSpectrogramTorch):
            frontend = ConvolutionMel(frontend)
        self.takes_waveform = frontend is None or isinstance(frontend, (ConvolutionMel, AsteroidFrontend))
        self.frontend = frontend if self.takes_waveform else None
        # Of FrontendLengthPooling the plain one inside is exported, and the export refused where the two differ.
        self.pooling = getattr(model.pooling, "pooling", model.pooling)
        self.normalize, self.encoder, self.projector = model.normalize, model.encoder, model.projector

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Give embeddings (batch, size), not normalised."""
        x = input if self.frontend is None else self.frontend(input, None)[0]
        if self.normalize is not None:
            x, _ = self.normalize(x, None)
        frames, _ = self.encoder(x, None)
        pooled = self.pooling(frames, None)
        return pooled if self.projector is None else self.projector(pooled)
