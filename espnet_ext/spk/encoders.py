"""ESPnet's one-dimensional frame encoders, made blind to padding; their weights keep ESPnet's names.

What was wrong in ESPnet 202511, in all of them: no lengths, so padding leaks in through every convolution, average
and squeeze-excitation, and pooling is told the lengths of the frontend instead of those after subsampling;
``**kwargs`` in the constructor swallows misspelt options.

Each encoder here is called as ``encoder(x, lengths) -> (y, out_lengths)`` with x (batch, frames, features), lengths
(batch,) or None when nothing is padded, y (batch, output_size, out_frames); out_lengths is None for None.
``min_frames`` is the shortest input that gives one output frame.
"""

from collections.abc import Sequence

import torch
from espnet2.spk.encoder.ecapa_tdnn_encoder import EcapaTdnnEncoder as EspnetEcapaTdnnEncoder
from espnet2.spk.encoder.identity_encoder import IdentityEncoder as EspnetIdentityEncoder
from espnet2.spk.encoder.rawnet3_encoder import RawNet3Encoder as EspnetRawNet3Encoder
from espnet2.spk.encoder.xvector_encoder import XvectorEncoder as EspnetXvectorEncoder
from espnet2.spk.layers.ecapa_block import EcapaBlock
from espnet2.spk.layers.rawnet_block import Bottle2neck

from espnet_ext.errors import UserError, check_choices
from espnet_ext.spk.masking import layer_lengths, mean_over_time, padding_mask, zero_padding
from espnet_ext.train.bfloat16 import convolve

Lengths = torch.Tensor | None


class IdentityEncoder(EspnetIdentityEncoder):
    """Hand the frontend's features to the pooling as they are."""

    min_frames = 1

    def forward(self, x: torch.Tensor, lengths: Lengths = None) -> tuple[torch.Tensor, Lengths]:
        """(batch, frames, features) -> (batch, features, frames)."""
        return x.transpose(1, 2), lengths


class XvectorEncoder(EspnetXvectorEncoder):
    """x-vector's five time-delay layers (Snyder et al., ICASSP 2018); six frames are lost at the default paddings."""

    def __init__(
        self,
        input_size: int,
        ndim: int = 512,
        output_size: int = 1500,
        kernel_sizes: Sequence[int] = (5, 3, 3, 1, 1),
        paddings: Sequence[int] = (2, 1, 1, 0, 0),
        dilations: Sequence[int] = (1, 2, 3, 1, 1),
    ):
        if not len(kernel_sizes) == len(paddings) == len(dilations) == 5:
            raise UserError(
                "encoder_conf of xvector: kernel_sizes, paddings and dilations need five numbers each, "
                f"got {len(kernel_sizes)}, {len(paddings)} and {len(dilations)}"
            )
        super().__init__(input_size, ndim, output_size, list(kernel_sizes), list(paddings), list(dilations))
        lost = sum(d * (k - 1) - 2 * p for k, p, d in zip(kernel_sizes, paddings, dilations, strict=True))
        self.min_frames = max(1, 1 + lost)

    def forward(self, x: torch.Tensor, lengths: Lengths = None) -> tuple[torch.Tensor, Lengths]:
        """(batch, frames, features) -> (batch, output_size, frames - 6 at the defaults)."""
        x = x.transpose(1, 2)
        for layer in self.layers:
            if isinstance(layer, torch.nn.Conv1d):
                x, lengths = convolve_alone(layer, x, lengths)
            else:
                x = layer(x)
        return x, lengths


def convolve_alone(conv: torch.nn.Conv1d, x: torch.Tensor, lengths: Lengths) -> tuple[torch.Tensor, Lengths]:
    """Apply a time convolution to (batch, channels, frames) as if every utterance were alone; lengths follow it."""
    if conv.padding[0] > 0:
        x = zero_padding(x, padding_mask(lengths, x.size(-1)))
    lengths = layer_lengths(lengths, conv.kernel_size[0], conv.stride[0], conv.padding[0], conv.dilation[0])
    return convolve(conv, x), lengths


class EcapaTdnnEncoder(EspnetEcapaTdnnEncoder):
    """ECAPA-TDNN's frame layers (Desplanques et al., Interspeech 2020): three SE-Res2 blocks, summed inputs.

    model_scale 1 puts one convolution of full width in the place of Res2Net's ladder: an ablation.
    """

    min_frames = 1

    def __init__(
        self,
        input_size: int,
        block: str = "EcapaBlock",
        model_scale: int = 8,
        ndim: int = 1024,
        output_size: int = 1536,
    ):
        check_choices("encoder_conf of ecapa_tdnn", ("block", block, ("EcapaBlock",)))
        if model_scale != 1:
            check_scale("ecapa_tdnn", ndim, model_scale)
        super().__init__(input_size, block, model_scale, ndim, output_size)
        if model_scale == 1:
            # ESPnet's block then has no convolution over time at all.
            for layer, dilation in ((self.layer1, 2), (self.layer2, 3), (self.layer3, 4)):
                layer.convs.append(torch.nn.Conv1d(ndim, ndim, 3, dilation=dilation, padding=dilation))
                layer.bns.append(torch.nn.BatchNorm1d(ndim))

    def forward(self, x: torch.Tensor, lengths: Lengths = None) -> tuple[torch.Tensor, Lengths]:
        """(batch, frames, features) -> (batch, output_size, frames)."""
        pad = padding_mask(lengths, x.size(1))
        x = self.bn(self.relu(self.conv(zero_padding(x.transpose(1, 2), pad))))
        x1 = ecapa_block(self.layer1, x, pad)
        x2 = ecapa_block(self.layer2, x + x1, pad)
        x3 = ecapa_block(self.layer3, x + x1 + x2, pad)
        return self.relu(self.layer4(torch.cat((x1, x2, x3), dim=1))), lengths


def check_scale(encoder: str, ndim: int, model_scale: int) -> None:
    """Refuse a width that Res2Net cannot split: ESPnet rounds it down, and fails in the first forward pass."""
    if model_scale < 2 or ndim % model_scale:
        raise UserError(
            f"encoder_conf of {encoder}: ndim ({ndim}) must be a multiple of model_scale ({model_scale}), "
            "and model_scale at least 2"
        )


def res2_convolutions(block: torch.nn.Module, x: torch.Tensor, pad: torch.Tensor | None) -> torch.Tensor:
    """Run the Res2Net ladder of ``block`` (its ``convs`` and ``bns``): each group is added to the one before it.

    The last group has no convolution and is handed on, unless there is but one group.
    """
    groups = torch.split(x, block.width, 1)
    outputs = []
    for index, (conv, norm) in enumerate(zip(block.convs, block.bns, strict=True)):
        group = groups[index] if index == 0 else outputs[-1] + groups[index]
        outputs.append(norm(block.relu(conv(zero_padding(group, pad)))))
    return torch.cat((*outputs, *groups[len(outputs) :]), dim=1)


def squeeze_excite(se: torch.nn.Sequential, x: torch.Tensor, pad: torch.Tensor | None) -> torch.Tensor:
    """Scale the channels of ``x`` by a gate computed from their mean over valid frames (``se[0]`` is that mean)."""
    gate = mean_over_time(x, pad)
    for layer in se[1:]:
        gate = layer(gate)
    return x * gate


def ecapa_block(block: EcapaBlock, x: torch.Tensor, pad: torch.Tensor | None) -> torch.Tensor:
    """SE-Res2 block: 1x1, Res2 ladder, 1x1, squeeze-excitation, plus the input."""
    y = block.bn1(block.relu(block.conv1(x)))
    y = res2_convolutions(block, y, pad)
    y = block.bn3(block.relu(block.conv3(y)))
    return squeeze_excite(block.se.se, y, pad) + x


class RawNet3Encoder(EspnetRawNet3Encoder):
    """RawNet3's frame layers (Jung et al., Interspeech 2022): three Res2 blocks with AFMS, pooled by 5 and by 3.

    ESPnet pools with the frontend's lengths, 15 times too long, so that every padded frame counts.
    """

    min_frames = 15

    def __init__(
        self,
        input_size: int,
        block: str = "Bottle2neck",
        model_scale: int = 8,
        ndim: int = 1024,
        output_size: int = 1536,
    ):
        check_choices("encoder_conf of rawnet3", ("block", block, ("Bottle2neck",)))
        check_scale("rawnet3", ndim, model_scale)
        super().__init__(input_size, block, model_scale, ndim, output_size)

    def forward(self, x: torch.Tensor, lengths: Lengths = None) -> tuple[torch.Tensor, Lengths]:
        """(batch, frames, features) -> (batch, output_size, frames // 15)."""
        x1, lengths1 = rawnet_block(self.layer1, x.transpose(1, 2), lengths)
        x2, lengths = rawnet_block(self.layer2, x1, lengths1)
        x1 = max_pool(x1, self.mp3.kernel_size)
        x3, lengths = rawnet_block(self.layer3, x1 + x2, lengths)
        return self.relu(self.layer4(torch.cat((x1, x2, x3), dim=1))), lengths


def rawnet_block(block: Bottle2neck, x: torch.Tensor, lengths: Lengths) -> tuple[torch.Tensor, Lengths]:
    """Res2 block with residual, then pooling by maximum (whole windows only), then AFMS: (x + alpha) * gate(mean)."""
    y = block.bn1(block.relu(block.conv1(x)))
    y = res2_convolutions(block, y, padding_mask(lengths, x.size(-1)))
    y = block.bn3(block.relu(block.conv3(y))) + block.residual(x)
    if block.mp:
        y = max_pool(y, block.mp.kernel_size)
        lengths = layer_lengths(lengths, block.mp.kernel_size, block.mp.stride)
    afms = block.afms
    mean = mean_over_time(y, padding_mask(lengths, y.size(-1))).squeeze(-1)
    return (y + afms.alpha) * afms.sig(afms.fc(mean)).unsqueeze(-1), lengths


def max_pool(x: torch.Tensor, width: int) -> torch.Tensor:
    """Take the maximum over each whole window of ``width`` frames, as ``MaxPool1d(width)``.

    Written out because the export of MaxPool1d (torch 2.11) fixes the number of frames.
    """
    frames = x.size(-1) // width
    return x[..., : frames * width].unflatten(-1, (frames, width)).amax(dim=-1)
