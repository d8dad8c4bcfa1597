"""ESPnet's encoders that convolve over frequency and time, made blind to padding; see ``encoders`` for the contract."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from espnet2.spk.encoder.resnet_encoder import ResNetEncoder as EspnetResNetEncoder
from espnet2.spk.encoder.ska_tdnn_encoder import SkaTdnnEncoder as EspnetSkaTdnnEncoder
from espnet2.spk.layers.resnet_block import BasicBlock, Bottleneck

from espnet_ext.errors import UserError, check_choices
from espnet_ext.spk.encoders import Lengths, check_scale, squeeze_excite
from espnet_ext.spk.masking import layer_lengths, padding_mask, zero_padding
from espnet_ext.train.bfloat16 import convolve, convolve_all

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnet221", "resnet293")


def halved(size: torch.Tensor | int) -> torch.Tensor | int:
    """Return the size after a convolution with kernel 3, stride 2, padding 1."""
    return layer_lengths(size, 3, 2, 1) if isinstance(size, torch.Tensor) else (size - 1) // 2 + 1


class ResNetEncoder(EspnetResNetEncoder):
    """Residual network over (frequency, time), as in WeSpeaker; features and frames are halved three times.

    In ESPnet 202511 ``num_blocks`` from YAML (a list) is refused, and a feature size that is no multiple of 8 gives
    an output of another size than announced.
    """

    min_frames = 1

    def __init__(
        self,
        input_size: int,
        num_blocks: Sequence[int] = (2, 2, 2, 2),
        m_channels: int = 32,
        resnet_type: str | None = None,
    ):
        check_choices("encoder_conf of resnet", ("resnet_type", resnet_type, (None, *RESNETS)))
        if len(num_blocks) != 4 or min(num_blocks) < 1:
            raise UserError(f"encoder_conf of resnet: num_blocks needs four numbers from 1, got {list(num_blocks)}")
        super().__init__(input_size, BasicBlock, tuple(num_blocks), m_channels, resnet_type)
        # in_planes has become the number of channels that come out of the last block.
        self._output_size = self.in_planes * halved(halved(halved(input_size)))

    def forward(self, x: torch.Tensor, lengths: Lengths = None) -> tuple[torch.Tensor, Lengths]:
        """(batch, frames, features) -> (batch, channels * features / 8, frames / 8, rounded up)."""
        pad = padding_mask(lengths, x.size(1))
        x = F.relu(self.bn1(self.conv1(zero_padding(x.transpose(1, 2).unsqueeze(1), pad))))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in stage:
                x, lengths = residual_block(block, x, lengths)
        # Feature by feature, all channels of each: the order that ESPnet's weights after the encoder expect.
        return x.transpose(1, 2).flatten(1, 2), lengths


def residual_block(block: BasicBlock | Bottleneck, x: torch.Tensor, lengths: Lengths) -> tuple[torch.Tensor, Lengths]:
    """Apply one residual block to (batch, channels, features, frames); its one strided convolution halves lengths."""
    y = x
    stages = [(block.conv1, block.bn1), (block.conv2, block.bn2)]
    if isinstance(block, Bottleneck):
        stages.append((block.conv3, block.bn3))
    for index, (conv, norm) in enumerate(stages):
        if conv.kernel_size[1] > 1:
            y = zero_padding(y, padding_mask(lengths, y.size(-1)))
        y = norm(convolve(conv, y))
        if conv.stride[1] == 2:
            lengths = None if lengths is None else halved(lengths)
        if index < len(stages) - 1:
            y = F.relu(y)
    return F.relu(y + convolve_all(block.shortcut, x)), lengths


class SkaTdnnEncoder(EspnetSkaTdnnEncoder):
    """SKA-TDNN (Mun et al., SLT 2022): selective-kernel attention over frequency and channel, then SK-Res2 blocks."""

    min_frames = 1

    def __init__(
        self,
        input_size: int,
        block: str = "Bottle2neck",
        ndim: int = 1024,
        model_scale: int = 8,
        skablock: str = "ResBlock",
        ska_dim: int = 128,
        output_size: int = 1536,
    ):
        check_choices(
            "encoder_conf of ska_tdnn", ("block", block, ("Bottle2neck",)), ("skablock", skablock, ("ResBlock",))
        )
        if input_size % 4:
            raise UserError(
                f"ska_tdnn needs a number of features that is a multiple of 4 (n_mels: 80), got {input_size}"
            )
        check_scale("ska_tdnn", ndim, model_scale)
        super().__init__(input_size, block, ndim, model_scale, skablock, ska_dim, output_size)

    def forward(self, x: torch.Tensor, lengths: Lengths = None) -> tuple[torch.Tensor, Lengths]:
        """(batch, frames, features) -> (batch, output_size, frames / 2, rounded up)."""
        pad = padding_mask(lengths, x.size(1))
        x = zero_padding(x.transpose(1, 2).unsqueeze(1), pad)
        x = self.frt_bn1(self.relu(self.frt_conv1(x)))
        for block in (self.frt_block1, self.frt_block2):
            y = block.bn1(block.relu(block.conv1(zero_padding(x, pad))))
            y = selective_kernels(block.skfwse, block.skfwse.convs, y, pad, axis=2)
            y = selective_kernels(block.skcwse, block.skcwse.convs, y, pad, axis=1)
            x = block.relu(y + x)
        x = self.frt_bn2(self.relu(self.frt_conv2(zero_padding(x, pad))))

        lengths = None if lengths is None else halved(lengths)
        pad = padding_mask(lengths, x.size(-1))
        x = self.bn1(self.relu(self.conv1(zero_padding(x.flatten(1, 2), pad))))
        x1 = selective_block(self.layer1, x, pad)
        x2 = selective_block(self.layer2, x + x1, pad)
        x3 = selective_block(self.layer3, x + x1 + x2, pad)
        return self.relu(self.layer4(torch.cat((x1, x2, x3), dim=1))), lengths


def selective_kernels(
    attention: torch.nn.Module,
    convolutions: Sequence[torch.nn.Module],
    x: torch.Tensor,
    pad: torch.Tensor | None,
    axis: int,
) -> torch.Tensor:
    """Mix the outputs of several kernel sizes by attention along ``axis`` (1 channel, 2 frequency).

    U = sum_k conv_k(x); S = mean of U over the other axes, valid frames only; Z = relu(fc S); a = softmax over k of
    fc_k Z; V = sum_k a_k conv_k(x). x: (batch, channels, frames) or (batch, channels, frequency, frames).
    """
    x = zero_padding(x, pad)
    branches = [conv(x) for conv in convolutions]
    total = zero_padding(sum(branches), pad)
    others = [dim for dim in range(1, total.dim()) if dim != axis]
    mean = total.mean(dim=others)
    if pad is not None:
        mean = mean * (total.size(-1) / (~pad).sum(dim=-1))
    squeezed = attention.relu(attention.fc(mean))
    weights = torch.stack([fc(squeezed) for fc in attention.fcs]).softmax(dim=0)
    shape = [x.size(0)] + [-1 if dim == axis else 1 for dim in range(1, total.dim())]
    return sum(weight.reshape(shape) * branch for weight, branch in zip(weights, branches, strict=True))


def selective_block(block: torch.nn.Module, x: torch.Tensor, pad: torch.Tensor | None) -> torch.Tensor:
    """SK-Res2 block: 1x1, ladder of selective kernels (one attention for all), 1x1, squeeze-excitation, plus input."""
    y = block.bn1(block.relu(block.conv1(x)))
    groups = torch.split(y, block.width, 1)
    outputs = []
    for index, convolutions in enumerate(block.skconvs):
        group = groups[index] if index == 0 else outputs[-1] + groups[index]
        outputs.append(selective_kernels(block.skse, convolutions, group, pad, axis=1))
    y = block.bn3(block.relu(block.conv3(torch.cat((*outputs, groups[block.nums]), dim=1))))
    return squeeze_excite(block.se.se, y, pad) + x
