"""MFA-Conformer made blind to padding; see ``encoders`` for the contract."""

import math

import torch
from espnet.nets.pytorch_backend.conformer.convolution import ConvolutionModule
from espnet.nets.pytorch_backend.conformer.encoder_layer import EncoderLayer
from espnet.nets.pytorch_backend.transformer.attention import LegacyRelPositionMultiHeadedAttention
from espnet.nets.pytorch_backend.transformer.embedding import LegacyRelPositionalEncoding
from espnet2.spk.encoder.conformer_encoder import MfaConformerEncoder as EspnetMfaConformerEncoder

from espnet_ext.errors import UserError, check_choices
from espnet_ext.spk.encoders import Lengths
from espnet_ext.spk.masking import layer_lengths, padding_mask, zero_padding
from espnet_ext.train.bfloat16 import convolve_all

SUBSAMPLING = ("conv2d", "conv2d1", "conv2d2", "conv2d6", "conv2d8")
ATTENTION_OF = {"rel_pos": "rel_selfattn", "abs_pos": "selfattn", "scaled_abs_pos": "selfattn"}


class MfaConformerEncoder(EspnetMfaConformerEncoder):
    """Conformer whose layers' outputs are all concatenated (Zhang et al., Interspeech 2022).

    What was wrong in ESPnet 202511: no masks; absolute positions crash, because each layer's output is taken for a
    pair; ``input_layer: linear`` is built and then refused in the first forward pass. The legacy relative positions
    depend on the padded length, and on the longest utterance seen since the model was loaded; here they depend on
    the utterance's own length only.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int = 256,
        attention_heads: int = 4,
        linear_units: int = 2048,
        num_blocks: int = 6,
        dropout_rate: float = 0.1,
        positional_dropout_rate: float = 0.1,
        attention_dropout_rate: float = 0.0,
        input_layer: str = "conv2d2",
        normalize_before: bool = True,
        macaron_style: bool = False,
        rel_pos_type: str = "legacy",
        pos_enc_layer_type: str = "rel_pos",
        selfattention_layer_type: str | None = None,
        activation_type: str = "swish",
        positionwise_layer_type: str = "linear",
        positionwise_conv_kernel_size: int = 3,
        use_cnn_module: bool = True,
        zero_triu: bool = False,
        cnn_module_kernel: int = 31,
        stochastic_depth_rate: float | list[float] = 0.0,
        layer_drop_rate: float = 0.0,
        max_pos_emb_len: int = 5000,
        padding_idx: int | None = None,
    ):
        expected = ATTENTION_OF.get(pos_enc_layer_type)
        check_choices(
            "encoder_conf of mfaconformer",
            ("input_layer", input_layer, SUBSAMPLING),
            ("rel_pos_type", rel_pos_type, ("legacy", "latest")),
            ("pos_enc_layer_type", pos_enc_layer_type, tuple(ATTENTION_OF)),
            (f"selfattention_layer_type with {pos_enc_layer_type}", selfattention_layer_type, (None, expected)),
            ("positionwise_layer_type", positionwise_layer_type, ("linear", "conv1d", "conv1d-linear")),
        )
        if output_size % attention_heads or cnn_module_kernel % 2 == 0:
            raise UserError(
                "encoder_conf of mfaconformer: output_size must be a multiple of attention_heads and cnn_module_kernel "
                f"odd; got {output_size}, {attention_heads} and {cnn_module_kernel}"
            )
        super().__init__(
            input_size,
            output_size=output_size,
            attention_heads=attention_heads,
            linear_units=linear_units,
            num_blocks=num_blocks,
            dropout_rate=dropout_rate,
            positional_dropout_rate=positional_dropout_rate,
            attention_dropout_rate=attention_dropout_rate,
            input_layer=input_layer,
            normalize_before=normalize_before,
            positionwise_layer_type=positionwise_layer_type,
            positionwise_conv_kernel_size=positionwise_conv_kernel_size,
            macaron_style=macaron_style,
            rel_pos_type=rel_pos_type,
            pos_enc_layer_type=pos_enc_layer_type,
            selfattention_layer_type=expected,
            activation_type=activation_type,
            use_cnn_module=use_cnn_module,
            zero_triu=zero_triu,
            cnn_module_kernel=cnn_module_kernel,
            stochastic_depth_rate=stochastic_depth_rate,
            layer_drop_rate=layer_drop_rate,
            max_pos_emb_len=max_pos_emb_len,
            padding_idx=padding_idx,
        )
        self.max_pos_emb_len = max_pos_emb_len
        self.frame_wise_feed_forward = positionwise_layer_type == "linear"
        self.min_frames = shortest_input(self.embed)

    def forward(self, x: torch.Tensor, lengths: Lengths = None) -> tuple[torch.Tensor, Lengths]:
        """(batch, frames, features) -> (batch, num_blocks * output_size, frames after subsampling)."""
        can_mask = not self.training and self.frame_wise_feed_forward and x.size(1) <= self.max_pos_emb_len
        if lengths is not None and not can_mask:
            return one_by_one(self, x, lengths)
        x, positions, lengths = embed_frames(self.embed, x, lengths, self.max_pos_emb_len)
        pad = padding_mask(lengths, x.size(1))
        outputs = []
        for layer in self.encoders:
            if pad is None:
                x, _ = layer(x if positions is None else (x, positions), None)
                x = x if positions is None else x[0]
            else:
                x = conformer_layer(layer, x, positions, pad)
            outputs.append(x)
        return self.ln(torch.cat(outputs, dim=-1)).transpose(1, 2), lengths


def time_convolutions(embed: torch.nn.Module) -> list[torch.nn.Conv2d]:
    """Return the convolutions over (frames, features) of one of ESPnet's ``Conv2dSubsampling*``."""
    return [layer for layer in embed.conv if isinstance(layer, torch.nn.Conv2d)]


def shortest_input(embed: torch.nn.Module) -> int:
    """Return the smallest number of frames of which the subsampling makes one."""
    frames = 1
    for conv in reversed(time_convolutions(embed)):
        frames = (frames - 1) * conv.stride[0] + conv.kernel_size[0]
    return frames


def embed_frames(
    embed: torch.nn.Module, x: torch.Tensor, lengths: Lengths, max_len: int
) -> tuple[torch.Tensor, torch.Tensor | None, Lengths]:
    """Subsample x (batch, frames, features) and add positions.

    Returns (batch, frames', size), the relative positions if there are any, and the lengths in frames'.
    """
    for conv in time_convolutions(embed):
        # The convolutions add no padding of their own, so every valid output saw valid frames only.
        lengths = layer_lengths(lengths, conv.kernel_size[0], conv.stride[0])
    x = convolve_all(embed.conv, x.unsqueeze(1)).transpose(1, 2).flatten(2)
    linear, positional = embed.out if isinstance(embed.out, torch.nn.Sequential) else (embed.out, embed.pos_enc)
    x = linear(x)
    if isinstance(positional, LegacyRelPositionalEncoding):
        table = legacy_positions(x, max_len)
        return positional.dropout(x * positional.xscale), positional.dropout(table), lengths
    x = positional(x)
    return (*x, lengths) if isinstance(x, tuple) else (x, None, lengths)


def one_by_one(encoder: torch.nn.Module, x: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Run ``encoder`` on each utterance alone: where no masked layers exist (training with padding, rare options)."""
    alone = [encoder(one[None, :n])[0][0].T for one, n in zip(x, lengths.tolist(), strict=True)]
    sizes = torch.tensor([len(one) for one in alone], device=lengths.device)
    return torch.nn.utils.rnn.pad_sequence(alone, batch_first=True).transpose(1, 2), sizes


def legacy_positions(x: torch.Tensor, max_len: int) -> torch.Tensor:
    """Return the (1, frames, size) sinusoids that ESPnet's legacy relative encoding gives a freshly loaded model.

    They count down from max(max_len, frames) - 1. ESPnet keeps the longest table ever needed, so that one long
    utterance changes the embeddings of all later ones; this is computed anew.
    """
    frames, size = x.size(1), x.size(2)
    longest = max(max_len, frames) if isinstance(frames, int) else torch.sym_max(max_len, frames)  # symbolic in exports
    position = longest - 1 - torch.arange(frames, device=x.device, dtype=torch.float32)
    rate = torch.exp(torch.arange(0, size, 2, dtype=torch.float32, device=x.device) * -(math.log(10000.0) / size))
    angle = position[:, None] * rate
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)[None].to(x.dtype)


def conformer_layer(
    layer: EncoderLayer, x: torch.Tensor, positions: torch.Tensor | None, pad: torch.Tensor
) -> torch.Tensor:
    """Apply a conformer layer in evaluation mode to (batch, frames, size) with ``pad`` (batch, 1, frames)."""

    def residual(x: torch.Tensor, norm: torch.nn.Module, function, scale: float = 1.0) -> torch.Tensor:
        if layer.normalize_before:
            return x + scale * function(norm(x))
        return norm(x + scale * function(x))

    if layer.feed_forward_macaron is not None:
        x = residual(x, layer.norm_ff_macaron, layer.feed_forward_macaron, layer.ff_scale)
    x = residual(x, layer.norm_mha, lambda y: attend(layer.self_attn, y, positions, pad))
    if layer.conv_module is not None:
        x = residual(x, layer.norm_conv, lambda y: convolution(layer.conv_module, y, pad))
    x = residual(x, layer.norm_ff, layer.feed_forward, layer.ff_scale)
    return x if layer.conv_module is None else layer.norm_final(x)


def attend(
    attention: torch.nn.Module, x: torch.Tensor, positions: torch.Tensor | None, pad: torch.Tensor
) -> torch.Tensor:
    """Self-attention of x (batch, frames, size) over valid frames, with any of ESPnet's kinds of positions."""
    if positions is None:
        return attention(x, x, x, ~pad)
    if isinstance(attention, LegacyRelPositionMultiHeadedAttention):
        return legacy_attention(attention, x, positions, pad)
    return attention(x, x, x, positions, ~pad)


def convolution(module: ConvolutionModule, x: torch.Tensor, pad: torch.Tensor) -> torch.Tensor:
    """Apply the convolution module to (batch, frames, size): the depthwise kernel meets zeros in padding."""
    x = torch.nn.functional.glu(module.pointwise_conv1(x.transpose(1, 2)), dim=1)
    x = module.activation(module.norm(module.depthwise_conv(zero_padding(x, pad))))
    return module.pointwise_conv2(x).transpose(1, 2)


def legacy_attention(
    attention: LegacyRelPositionMultiHeadedAttention, x: torch.Tensor, positions: torch.Tensor, pad: torch.Tensor
) -> torch.Tensor:
    """Self-attention with ESPnet's legacy relative positions, as if each utterance were alone.

    For an utterance of n frames the legacy shift gives the score of query i and key j a position term
    (q_i + v) . p[n - 1 - i + j] for j <= i, 0 for j = i + 1, and (q_{i+1} + v) . p[j - i - 2] beyond. The row p[k]
    itself stands for position max_len - 1 - k whatever n is, so only the index has to follow n.
    """
    q, k, v = attention.forward_qkv(x, x, x)
    p = attention.linear_pos(positions).view(1, -1, attention.h, attention.d_k).transpose(1, 2)
    content = torch.matmul(q + attention.pos_bias_u[:, None], k.transpose(-2, -1))
    by_position = torch.matmul(q + attention.pos_bias_v[:, None], p.transpose(-2, -1))

    frames = x.size(1)
    query = torch.arange(frames, device=x.device)[None, :, None]
    key = torch.arange(frames, device=x.device)[None, None, :]
    lengths = (~pad).sum(dim=-1, keepdim=True)
    behind = (lengths - 1 - query + key).clamp(0, frames - 1)
    ahead = (key - query - 2).clamp(min=0).expand_as(behind)
    heads = (-1, attention.h, -1, -1)
    past = by_position.gather(-1, behind[:, None].expand(*heads))
    future = by_position.roll(-1, dims=2).gather(-1, ahead[:, None].expand(*heads))
    shifted = torch.where(key <= query, past, torch.where(key == query + 1, 0.0, future))
    return attention.forward_attention(v, (content + shifted) / math.sqrt(attention.d_k), ~pad)
