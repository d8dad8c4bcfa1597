"""How samples become frames: plain arithmetic that data loading, label making and models share."""

from collections.abc import Sequence
from dataclasses import dataclass

from espnet_ext.errors import UserError

RATE_HZ = 16000


@dataclass(frozen=True)
class Geometry:
    """Kernels and strides (samples) of convolutions without padding.

    HuBERT's give one frame per 320 samples (50 Hz), each of which sees 400 samples; frame t sees the samples from
    320 t on.
    """

    kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)

    @classmethod
    def of(cls, kernels: Sequence[int], strides: Sequence[int]) -> "Geometry":
        """Return the geometry of two lists (from YAML)."""
        if len(kernels) != len(strides) or min([*kernels, *strides], default=0) < 1:
            raise UserError(
                f"encoder_conf: conv_kernel and conv_stride need one number from 1 on per layer; they are {[*kernels]} "
                f"and {[*strides]}"
            )
        return cls(tuple(kernels), tuple(strides))

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        hop = 1
        for stride in self.strides:
            hop *= stride
        return hop

    @property
    def field(self) -> int:
        """Samples that one frame sees: the shortest utterance that has a frame."""
        return self.samples_for(1)

    def frames(self, samples):
        """Return the number of frames of that many samples (an int, or an integer array or tensor); never below 0."""
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            samples = (samples - kernel) // stride + 1
        return max(0, samples) if isinstance(samples, int) else samples.clip(min=0)

    def samples_for(self, frames: int) -> int:
        """Return the smallest number of samples that gives ``frames`` (at least 1)."""
        for kernel, stride in zip(reversed(self.kernels), reversed(self.strides), strict=True):
            frames = (frames - 1) * stride + kernel
        return frames


def label_step(rate_hz: float, hop: int, where: str) -> int:
    """Return how many labels of ``rate_hz`` lie between two frames that are ``hop`` samples apart.

    The label of frame t is number floor(t * rate_hz * hop / 16000) (arXiv 2106.07447 as fairseq does it); a rate at
    which this is no whole number of labels per frame is refused: crops would not stay aligned.
    """
    step = rate_hz * hop / RATE_HZ
    if step < 1 or step != round(step):
        raise UserError(
            f"{where}: labels at {rate_hz:g} Hz do not go with frames every {hop} samples ({RATE_HZ / hop:g} Hz); "
            f"make labels at {RATE_HZ / hop:g} Hz or a multiple of it"
        )
    return round(step)
