"""HuBERT's encoder (arXiv 2106.07447), any size; the weights have the names of transformers' HubertModel."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from espnet_ext.errors import UserError
from espnet_ext.ssl.extractor import ConvExtractor
from espnet_ext.ssl.geometry import Geometry
from espnet_ext.train.bfloat16 import convolve


class Encoded(NamedTuple):
    """``last`` (batch, frames, size); ``power`` the mean square of the convolutions' valid outputs, a scalar."""

    last: torch.Tensor
    power: torch.Tensor


class ScaleGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by ``scale``."""

    @staticmethod
    def forward(ctx, x, scale):
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.scale, None


class FeatureProjection(torch.nn.Module):
    """Layer norm, a linear map from the convolutions' channels to the transformer's size, dropout."""

    def __init__(self, in_dim: int, out_dim: int, dropout: float, eps: float):
        super().__init__()
        self.layer_norm = torch.nn.LayerNorm(in_dim, eps=eps)
        self.projection = torch.nn.Linear(in_dim, out_dim)
        self.dropout = torch.nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.projection(self.layer_norm(x)))


class PositionalConv(torch.nn.Module):
    """Relative positions by a wide grouped convolution over time, with as many frames out as in."""

    def __init__(self, size: int, kernel: int, groups: int):
        super().__init__()
        if size % groups:
            raise UserError(
                f"encoder_conf: hidden_size {size} is not a multiple of num_conv_pos_embedding_groups {groups}"
            )
        conv = torch.nn.Conv1d(size, size, kernel, padding=kernel // 2, groups=groups)
        torch.nn.init.normal_(conv.weight, std=math.sqrt(4 / (kernel * size)))
        torch.nn.init.zeros_(conv.bias)
        self.conv = weight_norm(conv, dim=2)
        self.surplus = 1 - kernel % 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = convolve(self.conv, x.transpose(1, 2))
        return F.gelu(y[..., : y.size(-1) - self.surplus]).transpose(1, 2)


class SelfAttention(torch.nn.Module):
    """Multi-head self-attention by PyTorch's fused kernels."""

    def __init__(self, size: int, heads: int, dropout: float):
        super().__init__()
        if size % heads:
            raise UserError(f"encoder_conf: hidden_size {size} is not a multiple of num_attention_heads {heads}")
        self.heads, self.dropout = heads, dropout
        self.k_proj = torch.nn.Linear(size, size)
        self.v_proj = torch.nn.Linear(size, size)
        self.q_proj = torch.nn.Linear(size, size)
        self.out_proj = torch.nn.Linear(size, size)

    def forward(self, x: torch.Tensor, attend: torch.Tensor | None) -> torch.Tensor:
        """(batch, frames, size) -> the same; ``attend`` (batch, 1, 1, frames) is true at valid frames."""
        query, key, value = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=attend, dropout_p=dropout)
        return self.out_proj(y.transpose(1, 2).flatten(2))


class FeedForward(torch.nn.Module):
    """Two linear maps with GELU between them."""

    def __init__(self, size: int, inner: int, inner_dropout: float, dropout: float):
        super().__init__()
        self.intermediate_dense = torch.nn.Linear(size, inner)
        self.output_dense = torch.nn.Linear(inner, size)
        self.intermediate_dropout = torch.nn.Dropout(inner_dropout)
        self.output_dropout = torch.nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output_dropout(self.output_dense(self.intermediate_dropout(F.gelu(self.intermediate_dense(x)))))


class TransformerLayer(torch.nn.Module):
    """Attention and feed-forward, each with a residual; norms behind them (Base) or before them (``norm_first``)."""

    def __init__(self, attention: SelfAttention, feed_forward: FeedForward, dropout: float, eps: float, first: bool):
        super().__init__()
        size = attention.out_proj.out_features
        self.attention, self.feed_forward = attention, feed_forward
        self.layer_norm = torch.nn.LayerNorm(size, eps=eps)
        self.final_layer_norm = torch.nn.LayerNorm(size, eps=eps)
        self.dropout = torch.nn.Dropout(dropout)
        self.norm_first = first

    def forward(self, x: torch.Tensor, attend: torch.Tensor | None) -> torch.Tensor:
        if self.norm_first:
            x = x + self.dropout(self.attention(self.layer_norm(x), attend))
            return x + self.feed_forward(self.final_layer_norm(x))
        x = self.layer_norm(x + self.dropout(self.attention(x, attend)))
        return self.final_layer_norm(x + self.feed_forward(x))


class Transformer(torch.nn.Module):
    """Positions, layers and the norm; what is padded takes no part in any of them."""

    def __init__(self, layers: Sequence[TransformerLayer], positions: PositionalConv, layerdrop: float, eps: float):
        super().__init__()
        self.pos_conv_embed = positions
        first = layers[0]
        self.layer_norm = torch.nn.LayerNorm(first.layer_norm.normalized_shape, eps=eps)
        self.dropout = torch.nn.Dropout(first.dropout.p)
        self.layers = torch.nn.ModuleList(layers)
        self.layerdrop, self.norm_first = layerdrop, first.norm_first

    def forward(self, x: torch.Tensor, valid: torch.Tensor | None) -> list[torch.Tensor]:
        """(batch, frames, size) -> input of the first layer and output of each, the last after the final norm."""
        attend = None
        if valid is not None:
            x = x * valid[..., None]
            attend = valid[:, None, None]
        x = x + self.pos_conv_embed(x)
        x = self.dropout(x if self.norm_first else self.layer_norm(x))
        states = [x]
        for layer in self.layers:
            y = layer(x, attend)
            if self.training and self.layerdrop > 0:
                # A choice between tensors, not a branch: the graph stays the same for torch.compile, and every weight
                # has a gradient for distributed training.
                y = torch.where(torch.rand((), device=x.device) < self.layerdrop, x, y)
            x = y
            states.append(x)
        if self.norm_first:
            states[-1] = self.layer_norm(x)
        return states


class HubertEncoder(torch.nn.Module):
    """HuBERT's encoder. Keys, defaults and weight names are those of transformers' ``HubertConfig`` (Base).

    Args:
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size: the transformer.
        conv_dim, conv_kernel, conv_stride, conv_bias: the convolutions, one number per layer.
        feat_extract_norm: ``group`` (Base) or ``layer`` (Large).
        do_stable_layer_norm: norms before attention and feed-forward (Large).
        num_conv_pos_embeddings, num_conv_pos_embedding_groups: the positional convolution's kernel and groups.
        hidden_dropout, attention_dropout, activation_dropout, feat_proj_dropout: after attention and feed-forward, of
            the attention weights, inside feed-forward, after the projection of the convolutions' output.
        layerdrop: probability that a layer is left out of a training step.
        feature_grad_mult: gradients of the convolutions are multiplied by this.
        layer_norm_eps: of all layer norms but those of the convolutions.
        conv_init: what the first convolution starts from: ``random`` (the paper), or ``bands``, band passes from 60 to
            7600 Hz, for trainings of minutes.
    """

    frames_past_end = False

    def __init__(
        self,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        intermediate_size: int = 3072,
        conv_dim: Sequence[int] = (512,) * 7,
        conv_kernel: Sequence[int] = (10, 3, 3, 3, 3, 2, 2),
        conv_stride: Sequence[int] = (5, 2, 2, 2, 2, 2, 2),
        conv_bias: bool = False,
        feat_extract_norm: str = "group",
        do_stable_layer_norm: bool = False,
        num_conv_pos_embeddings: int = 128,
        num_conv_pos_embedding_groups: int = 16,
        hidden_dropout: float = 0.1,
        attention_dropout: float = 0.1,
        activation_dropout: float = 0.0,
        feat_proj_dropout: float = 0.1,
        layerdrop: float = 0.05,
        feature_grad_mult: float = 0.1,
        layer_norm_eps: float = 1e-5,
        conv_init: str = "random",
    ):
        super().__init__()
        if num_hidden_layers < 1:
            raise UserError(f"encoder_conf: num_hidden_layers must be at least 1; got {num_hidden_layers}")
        self.geometry = Geometry.of(conv_kernel, conv_stride)
        self.feature_grad_mult = feature_grad_mult
        self.feature_extractor = ConvExtractor(
            conv_dim, conv_kernel, conv_stride, conv_bias, feat_extract_norm, conv_init
        )
        self.feature_projection = FeatureProjection(conv_dim[-1], hidden_size, feat_proj_dropout, layer_norm_eps)
        layers = [
            TransformerLayer(
                SelfAttention(hidden_size, num_attention_heads, attention_dropout),
                FeedForward(hidden_size, intermediate_size, activation_dropout, hidden_dropout),
                hidden_dropout,
                layer_norm_eps,
                do_stable_layer_norm,
            )
            for _ in range(num_hidden_layers)
        ]
        positions = PositionalConv(hidden_size, num_conv_pos_embeddings, num_conv_pos_embedding_groups)
        self.encoder = Transformer(layers, positions, layerdrop, layer_norm_eps)
        self.masked_spec_embed = torch.nn.Parameter(torch.empty(hidden_size).uniform_())
        for module in self.modules():
            if isinstance(module, torch.nn.Linear):
                torch.nn.init.normal_(module.weight, std=0.02)
                torch.nn.init.zeros_(module.bias)
        self.num_layers = num_hidden_layers + 1

    def output_size(self) -> int:
        """Return the number of features per frame."""
        return self.masked_spec_embed.numel()

    def samples_for(self, num_frames: int) -> int:
        """Return the smallest number of samples that gives ``num_frames``."""
        return self.geometry.samples_for(num_frames)

    def forward(
        self, wav: torch.Tensor, lengths: torch.Tensor | None = None, mask: torch.Tensor | None = None
    ) -> Encoded:
        """Encode waveforms (batch, samples) of ``lengths`` (batch,) (None: all whole).

        Frames where ``mask`` (batch, frames) is true are replaced by the mask embedding before the transformer. Output
        behind an utterance's own frames is of no meaning; what is padded, and how much, changes nothing else.
        """
        states, power, _ = self._encode(wav, lengths, mask)
        return Encoded(states[-1], power)

    def hidden_states(self, wav: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return all layers (layers + 1, batch, frames, size) and lengths (batch,) in frames.

        0 is the input of the first transformer layer, i the output of layer i; the last one comes after the final norm
        where there is one (``do_stable_layer_norm``).
        """
        states, frames = self.layers(wav, lengths)
        return torch.stack(states), frames

    def layers(self, wav: torch.Tensor, lengths: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """As ``hidden_states``, in a list, which saves a copy of everything."""
        padded = bool((lengths < wav.size(1)).any())
        states, _, _ = self._encode(wav, lengths if padded else None, None)
        return states, self.geometry.frames(lengths)

    def forget_after(self, layer: int) -> None:
        """Drop what only layers beyond ``layer`` need, for good."""
        # The last one of all passes the final norm, where there is one: then one more is left than is needed.
        del self.encoder.layers[layer + self.encoder.norm_first :]

    def _encode(self, wav, lengths, mask):
        valid = frames = None
        if lengths is not None:
            frames = self.geometry.frames(lengths)
            # Whatever a caller left behind the end, NaN included, must not come back through 0 * x.
            wav = wav.masked_fill(torch.arange(wav.size(1), device=wav.device) >= lengths[:, None], 0.0)
        x = self.feature_extractor(wav, lengths)
        if self.training and self.feature_grad_mult != 1.0:
            x = ScaleGradient.apply(x, self.feature_grad_mult)
        power = x.float().square()
        if frames is None:
            power = power.mean()
        else:
            valid = torch.arange(x.size(1), device=x.device) < frames[:, None]
            power = (power.mean(dim=-1) * valid).sum() / frames.sum()
        x = self.feature_projection(x)
        if mask is not None:
            x = torch.where(mask[..., None], self.masked_spec_embed.to(x.dtype), x)
        return self.encoder(x, valid), power, frames
