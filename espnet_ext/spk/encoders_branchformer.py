"""E-Branchformer for speakers, blind to padding; see ``encoders`` for the contract."""

import torch
from espnet.nets.pytorch_backend.transformer.layer_norm import LayerNorm
from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder as EspnetEBranchformerEncoder
from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoderLayer
from espnet2.asr.layers.cgmlp import ConvolutionalGatingMLP

from espnet_ext.errors import UserError, check_choices
from espnet_ext.spk.encoders import Lengths
from espnet_ext.spk.encoders_conformer import (
    ATTENTION_OF,
    SUBSAMPLING,
    attend,
    embed_frames,
    one_by_one,
    shortest_input,
)
from espnet_ext.spk.masking import padding_mask, zero_padding


class EBranchformerEncoder(EspnetEBranchformerEncoder):
    """E-Branchformer (Kim et al., SLT 2022) whose layers' outputs are concatenated, as in ESPnet's speaker branch.

    ESPnet 202511 has it for ASR only; names of weights and options are those of its speaker branch. There and in ASR
    the gating and merging convolutions see padding. ``aggregate_layer: false`` takes the last layer alone.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int = 256,
        attention_heads: int = 4,
        attention_layer_type: str | None = None,
        pos_enc_layer_type: str = "rel_pos",
        rel_pos_type: str = "latest",
        cgmlp_linear_units: int = 2048,
        cgmlp_conv_kernel: int = 31,
        use_linear_after_conv: bool = False,
        gate_activation: str = "identity",
        num_blocks: int = 12,
        dropout_rate: float = 0.1,
        positional_dropout_rate: float = 0.1,
        attention_dropout_rate: float = 0.0,
        input_layer: str = "conv2d2",
        zero_triu: bool = False,
        layer_drop_rate: float = 0.0,
        max_pos_emb_len: int = 5000,
        use_ffn: bool = False,
        macaron_ffn: bool = False,
        ffn_activation_type: str = "swish",
        linear_units: int = 2048,
        positionwise_layer_type: str = "linear",
        merge_conv_kernel: int = 3,
        aggregate_layer: bool = True,
    ):
        expected = ATTENTION_OF.get(pos_enc_layer_type)
        check_choices(
            "encoder_conf of e_branchformer",
            ("input_layer", input_layer, SUBSAMPLING),
            ("pos_enc_layer_type", pos_enc_layer_type, tuple(ATTENTION_OF)),
            ("attention_layer_type", attention_layer_type, (None, expected)),
            ("rel_pos_type", rel_pos_type, ("latest", "legacy")),
        )
        if output_size % attention_heads or cgmlp_conv_kernel % 2 == 0 or merge_conv_kernel % 2 == 0:
            raise UserError(
                "encoder_conf of e_branchformer: output_size must be a multiple of attention_heads, and the kernels "
                f"odd; got {output_size}, {attention_heads}, {cgmlp_conv_kernel} and {merge_conv_kernel}"
            )
        super().__init__(
            input_size,
            output_size=output_size,
            attention_heads=attention_heads,
            attention_layer_type=expected,
            pos_enc_layer_type=pos_enc_layer_type,
            rel_pos_type=rel_pos_type,
            cgmlp_linear_units=cgmlp_linear_units,
            cgmlp_conv_kernel=cgmlp_conv_kernel,
            use_linear_after_conv=use_linear_after_conv,
            gate_activation=gate_activation,
            num_blocks=num_blocks,
            dropout_rate=dropout_rate,
            positional_dropout_rate=positional_dropout_rate,
            attention_dropout_rate=attention_dropout_rate,
            input_layer=input_layer,
            zero_triu=zero_triu,
            layer_drop_rate=layer_drop_rate,
            max_pos_emb_len=max_pos_emb_len,
            use_ffn=use_ffn,
            macaron_ffn=macaron_ffn,
            ffn_activation_type=ffn_activation_type,
            linear_units=linear_units,
            positionwise_layer_type=positionwise_layer_type,
            merge_conv_kernel=merge_conv_kernel,
            use_flash_attn=False,
        )
        self.max_pos_emb_len = max_pos_emb_len
        self.aggregate_layer = aggregate_layer
        if aggregate_layer:
            self._output_size = num_blocks * output_size
            self.after_norm = LayerNorm(self._output_size)
        self.min_frames = shortest_input(self.embed)

    def forward(self, x: torch.Tensor, lengths: Lengths = None) -> tuple[torch.Tensor, Lengths]:
        """(batch, frames, features) -> (batch, output size, frames after subsampling)."""
        if lengths is not None and (self.training or x.size(1) > self.max_pos_emb_len):
            return one_by_one(self, x, lengths)
        x, positions, lengths = embed_frames(self.embed, x, lengths, self.max_pos_emb_len)
        pad = padding_mask(lengths, x.size(1))
        outputs = []
        for layer in self.encoders:
            # A dropped layer hands on its input, which keeps the number of concatenated outputs.
            if not (self.training and self.layer_drop_rate > 0 and torch.rand(1).item() < self.layer_drop_rate):
                if pad is None:
                    x, _ = layer(x if positions is None else (x, positions), None)
                    x = x if positions is None else x[0]
                else:
                    x = branchformer_layer(layer, x, positions, pad)
            outputs.append(x)
        frames = torch.cat(outputs, dim=-1) if self.aggregate_layer else x
        return self.after_norm(frames).transpose(1, 2), lengths


def branchformer_layer(
    layer: EBranchformerEncoderLayer, x: torch.Tensor, positions: torch.Tensor | None, pad: torch.Tensor
) -> torch.Tensor:
    """Apply a layer in evaluation mode to (batch, frames, size) with ``pad`` (batch, 1, frames)."""
    if layer.feed_forward_macaron is not None:
        x = x + layer.ff_scale * layer.feed_forward_macaron(layer.norm_ff_macaron(x))
    branches = torch.cat(
        (attend(layer.attn, layer.norm_mha(x), positions, pad), gated_mlp(layer.cgmlp, layer.norm_mlp(x), pad)), dim=-1
    )
    merged = layer.depthwise_conv_fusion(zero_padding(branches.transpose(1, 2), pad)).transpose(1, 2)
    x = x + layer.merge_proj(branches + merged)
    if layer.feed_forward is not None:
        x = x + layer.ff_scale * layer.feed_forward(layer.norm_ff(x))
    return layer.norm_final(x)


def gated_mlp(module: ConvolutionalGatingMLP, x: torch.Tensor, pad: torch.Tensor) -> torch.Tensor:
    """Apply the convolutional gating MLP to (batch, frames, size): its kernel meets zeros in padding."""
    unit = module.csgu
    content, gate = module.channel_proj1(x).chunk(2, dim=-1)
    gate = unit.conv(zero_padding(unit.norm(gate).transpose(1, 2), pad)).transpose(1, 2)
    gate = gate if unit.linear is None else unit.linear(gate)
    return module.channel_proj2(content * unit.act(gate))
