"""Parts of heads on pretrained encoders: light ones (arXiv 2402.00340's question) and SUPERB's x-vector, the baseline.

A head is what stands behind the layer mix of the frontend: an encoder (``identity``, ``linear``, or a network), a
pooling, a projector and a loss. Encoders and projectors here are called as those of ``encoders`` and of ESPnet.
"""

import torch
from espnet2.asr.encoder.abs_encoder import AbsEncoder
from espnet2.spk.projector.abs_projector import AbsProjector

from espnet_ext.errors import UserError
from espnet_ext.spk.encoders import Lengths, convolve_alone


class LinearEncoder(AbsEncoder):
    """One linear map per frame: the projection of a light head, which makes the pooling behind it small."""

    min_frames = 1

    def __init__(self, input_size: int, output_size: int = 128):
        super().__init__()
        _positive("encoder_conf of linear", output_size=output_size)
        self._output_size = output_size
        self.linear = torch.nn.Linear(input_size, output_size)

    def output_size(self) -> int:
        """Return the number of features per frame."""
        return self._output_size

    def forward(self, x: torch.Tensor, lengths: Lengths = None) -> tuple[torch.Tensor, Lengths]:
        """(batch, frames, features) -> (batch, output_size, frames)."""
        return self.linear(x).transpose(1, 2), lengths


class SuperbXvectorEncoder(AbsEncoder):
    """The frame layers of SUPERB's speaker verification model: a projection, then five time-delay layers.

    As in s3prl's ``sv_voxceleb1``: Linear(D -> ndim), then context and dilation (5, 1), (3, 2), (3, 3), (1, 1), (1, 1)
    with ReLU, no batch norm (the ``xvector`` of ESPnet has it) and no padding, so 14 frames are lost.
    """

    min_frames = 15
    CONTEXTS, DILATIONS = (5, 3, 3, 1, 1), (1, 2, 3, 1, 1)

    def __init__(self, input_size: int, ndim: int = 512, output_size: int = 1500):
        super().__init__()
        _positive("encoder_conf of superb_xvector", ndim=ndim, output_size=output_size)
        self._output_size = output_size
        self.connector = torch.nn.Linear(input_size, ndim)
        sizes = [ndim] * 4 + [output_size]
        self.layers = torch.nn.ModuleList(
            torch.nn.Conv1d(ndim, size, context, dilation=dilation)
            for size, context, dilation in zip(sizes, self.CONTEXTS, self.DILATIONS, strict=True)
        )

    def output_size(self) -> int:
        """Return the number of features per frame."""
        return self._output_size

    def forward(self, x: torch.Tensor, lengths: Lengths = None) -> tuple[torch.Tensor, Lengths]:
        """(batch, frames, features) -> (batch, output_size, frames - 14)."""
        x = self.connector(x).transpose(1, 2)
        for layer in self.layers:
            x, lengths = convolve_alone(layer, x, lengths)
            x = x.relu()
        return x, lengths


class LinearProjector(AbsProjector):
    """The embedding layer of a light head: an optional batch norm, then an optional linear layer.

    output_size: size of the embedding, None leaves the linear layer out; affine: false gives the batch norm no weights,
    which the linear layer behind it does not miss. ESPnet's ``rawnet3`` is this with all three.
    """

    def __init__(self, input_size: int, output_size: int | None = 192, batch_norm: bool = False, affine: bool = True):
        super().__init__()
        if output_size is not None:
            _positive("projector_conf of linear", output_size=output_size)
        self._output_size = input_size if output_size is None else output_size
        self.bn = torch.nn.BatchNorm1d(input_size, affine=affine) if batch_norm else torch.nn.Identity()
        self.fc = torch.nn.Identity() if output_size is None else torch.nn.Linear(input_size, output_size)

    def output_size(self) -> int:
        """Return the size of the embedding."""
        return self._output_size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, input_size) -> (batch, output_size)."""
        return self.fc(self.bn(x))


class SuperbProjector(AbsProjector):
    """SUPERB's two utterance layers: the loss sees both, the embedding is taken after the first one and its ReLU."""

    def __init__(self, input_size: int, output_size: int = 512):
        super().__init__()
        _positive("projector_conf of superb", output_size=output_size)
        self._output_size = output_size
        self.fc = torch.nn.Linear(input_size, output_size)
        #: What only the loss needs; left out when the head is counted as it is used.
        self.loss_layers = torch.nn.Sequential(torch.nn.Linear(output_size, output_size), torch.nn.ReLU())

    def output_size(self) -> int:
        """Return the size of the embedding, and of what the loss sees."""
        return self._output_size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, input_size) -> the embedding (batch, output_size), nowhere negative."""
        return self.fc(x).relu()


def _positive(where: str, **sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise UserError(f"{where}: {name} must be at least 1, got {size}")
