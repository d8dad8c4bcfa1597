"""Every encoder with every pooling: ESPnet's numbers when nothing is padded, and padding changes nothing."""

import itertools

import pytest
import torch
from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder as AsrEBranchformerEncoder
from espnet2.spk.encoder import (
    conformer_encoder,
    ecapa_tdnn_encoder,
    identity_encoder,
    rawnet3_encoder,
    resnet_encoder,
    ska_tdnn_encoder,
    xvector_encoder,
)
from espnet2.spk.pooling import chn_attn_stat_pooling, mean_pooling, stat_pooling

from espnet_ext.errors import UserError
from espnet_ext.spk.encoders import EcapaTdnnEncoder, IdentityEncoder, RawNet3Encoder, XvectorEncoder
from espnet_ext.spk.encoders_2d import ResNetEncoder, SkaTdnnEncoder
from espnet_ext.spk.encoders_branchformer import EBranchformerEncoder
from espnet_ext.spk.encoders_conformer import MfaConformerEncoder, legacy_positions
from espnet_ext.spk.pooling import ChnAttnStatPooling, MeanPooling, StatsPooling

MELS = 16
MFA = {"output_size": 16, "attention_heads": 2, "linear_units": 32, "num_blocks": 2, "cnn_module_kernel": 7}
MFA_MODULE = conformer_encoder.MfaConformerEncoder
# name: (ours, ESPnet's, options, output frames for n input frames)
ENCODERS = {
    "identity": (IdentityEncoder, identity_encoder.IdentityEncoder, {}, lambda n: n),
    "xvector": (XvectorEncoder, xvector_encoder.XvectorEncoder, {"ndim": 16, "output_size": 24}, lambda n: n - 6),
    "ecapa_tdnn": (
        EcapaTdnnEncoder,
        ecapa_tdnn_encoder.EcapaTdnnEncoder,
        {"ndim": 16, "model_scale": 4, "output_size": 24},
        lambda n: n,
    ),
    "rawnet3": (
        RawNet3Encoder,
        rawnet3_encoder.RawNet3Encoder,
        {"ndim": 16, "model_scale": 4, "output_size": 24},
        lambda n: n // 15,
    ),
    "resnet18": (
        ResNetEncoder,
        resnet_encoder.ResNetEncoder,
        {"m_channels": 4, "resnet_type": "resnet18"},
        lambda n: -(-n // 8),
    ),
    "resnet50": (
        ResNetEncoder,
        resnet_encoder.ResNetEncoder,
        {"m_channels": 4, "resnet_type": "resnet50"},
        lambda n: -(-n // 8),
    ),
    "ska_tdnn": (
        SkaTdnnEncoder,
        ska_tdnn_encoder.SkaTdnnEncoder,
        {"ndim": 16, "model_scale": 4, "ska_dim": 8, "output_size": 24},
        lambda n: -(-n // 2),
    ),
    "mfa_legacy": (MfaConformerEncoder, MFA_MODULE, MFA, lambda n: (n - 1) // 2 - 2),
    "mfa_latest": (
        MfaConformerEncoder,
        MFA_MODULE,
        {**MFA, "rel_pos_type": "latest", "macaron_style": True, "zero_triu": True},
        lambda n: (n - 1) // 2 - 2,
    ),
    "mfa_conv2d8_post_norm": (
        MfaConformerEncoder,
        MFA_MODULE,
        {**MFA, "input_layer": "conv2d8", "normalize_before": False},
        lambda n: (((n - 1) // 2 - 1) // 2 - 1) // 2,
    ),
    "mfa_conv1d": (
        MfaConformerEncoder,
        MFA_MODULE,
        {**MFA, "positionwise_layer_type": "conv1d", "use_cnn_module": False},
        lambda n: (n - 1) // 2 - 2,
    ),
}
EBF = {
    "output_size": 16,
    "attention_heads": 2,
    "cgmlp_linear_units": 24,
    "cgmlp_conv_kernel": 7,
    "linear_units": 24,
    "num_blocks": 2,
    "use_ffn": True,
    "macaron_ffn": True,
    "merge_conv_kernel": 7,
    "input_layer": "conv2d2",
}


class WholeAsr(AsrEBranchformerEncoder):
    """ESPnet's ASR encoder called as its speaker encoders are: whole utterances in, frames last."""

    def forward(self, x):
        """(batch, frames, features) -> (batch, size, frames)."""
        return super().forward(x, torch.tensor([x.size(1)] * len(x)))[0].transpose(1, 2)


ENCODERS["e_branchformer"] = (
    lambda size, **options: EBranchformerEncoder(size, **options, aggregate_layer=False),
    WholeAsr,
    EBF,
    lambda n: (n - 1) // 2 - 2,
)
POOLINGS = {
    "mean": (MeanPooling, mean_pooling.MeanPooling),
    "stats": (StatsPooling, stat_pooling.StatsPooling),
    "chn_attn_stat": (ChnAttnStatPooling, chn_attn_stat_pooling.ChnAttnStatPooling),
}


def trained_looking(module: torch.nn.Module) -> torch.nn.Module:
    """Give batch norms random statistics, so that a padded frame is anything but zero, and switch to evaluation."""
    for norm in module.modules():
        if isinstance(norm, torch.nn.modules.batchnorm._BatchNorm):
            norm.running_mean.normal_(0, 0.5)
            norm.running_var.uniform_(0.5, 2)
            torch.nn.init.normal_(norm.bias, 0, 0.5)
    return module.eval()


def build(name: str) -> tuple[torch.nn.Module, torch.nn.Module]:
    torch.manual_seed(0)
    ours, theirs, options, _ = ENCODERS[name]
    encoder = trained_looking(ours(MELS, **options))
    twin = theirs(MELS, **options).eval()
    twin.load_state_dict(encoder.state_dict())  # strict: the names are ESPnet's
    return encoder, twin


@pytest.mark.parametrize("name", ENCODERS)
@torch.no_grad()
def test_equals_espnet_when_nothing_is_padded(name):
    encoder, twin = build(name)
    x = torch.randn(3, 61, MELS)
    y, lengths = encoder(x.clone())
    expected = twin(x.clone())
    assert lengths is None
    assert encoder.output_size() == y.size(1)
    assert y.shape == (3, encoder.output_size(), ENCODERS[name][3](61))
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "pooling"), list(itertools.product(ENCODERS, POOLINGS)))
@torch.no_grad()
def test_padding_and_batch_change_nothing(name, pooling):
    encoder, _ = build(name)
    pool = trained_looking(POOLINGS[pooling][0](encoder.output_size()))
    lengths = torch.tensor([83, 47, 90, 31])
    x = 5 * torch.randn(4, 90, MELS)  # what lies behind an utterance's end is noise, not zero
    frames, frame_lengths = encoder(x, lengths)
    together = pool(frames, frame_lengths)
    for index, n in enumerate(lengths.tolist()):
        alone = pool(encoder(x[index : index + 1, :n])[0], None)[0]
        assert frame_lengths[index] == ENCODERS[name][3](n)
        assert (together[index] - alone).abs().max() < 1e-5 * max(1, alone.abs().max())


@pytest.mark.parametrize("name", ENCODERS)
@torch.no_grad()
def test_min_frames_is_the_shortest_input(name):
    encoder, _ = build(name)
    x = torch.randn(2, encoder.min_frames, MELS)
    assert encoder(x)[0].size(2) == 1
    if encoder.min_frames > 1:
        with pytest.raises(RuntimeError):
            encoder(x[:, 1:])


@pytest.mark.parametrize("name", ENCODERS)
@torch.no_grad()
def test_bfloat16_on_a_cpu_is_float32_but_for_rounding(name):
    """Also where few features or frames are left: there torch 2.11 answers with anything (see train.bfloat16)."""
    encoder, _ = build(name)
    for frames in (encoder.min_frames, 2 * encoder.min_frames + 1, 90):
        x = torch.randn(3, frames, MELS)
        exact = encoder(x)[0]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = encoder(x)[0].float()
        assert (exact - rounded).norm() < 0.05 * exact.norm(), frames


def test_padding_reached_espnets_embeddings():
    """The fault that all this mends: the same utterance, alone and padded, apart in ESPnet's own classes."""
    for name in ("ecapa_tdnn", "resnet18", "rawnet3"):
        _, twin = build(name)
        x = torch.cat((torch.randn(1, 45, MELS), torch.zeros(1, 45, MELS)), dim=1)
        pool = POOLINGS["stats"][1](twin.output_size())
        with torch.no_grad():
            alone, padded = pool(twin(x[:, :45].clone())), pool(twin(x), torch.tensor([45]))
        assert (alone - padded).abs().max() > 5e-4, name


@pytest.mark.parametrize("name", [name for name in ENCODERS if name != "identity"])
def test_trains_with_padding(name):
    encoder = build(name)[0].train()
    y, lengths = encoder(torch.randn(3, 64, MELS), torch.tensor([64, 50, 40]))
    MeanPooling(y.size(1))(y, lengths).square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in encoder.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


@pytest.mark.parametrize("name", ["ecapa_tdnn", "rawnet3", "mfa_legacy", "e_branchformer"])
def test_compiles_in_one_graph(name):
    encoder = build(name)[0]
    x = torch.randn(2, 61, MELS)
    compiled = torch.compile(encoder, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x)[0], encoder(x)[0])


@torch.no_grad()
def test_absolute_positions_work():
    """ESPnet's encoder crashes here: it takes each layer's output for a pair."""
    for kind in ("abs_pos", "scaled_abs_pos"):
        encoder = trained_looking(MfaConformerEncoder(MELS, **MFA, pos_enc_layer_type=kind))
        x = torch.randn(2, 60, MELS)
        y, lengths = encoder(x, torch.tensor([60, 31]))
        torch.testing.assert_close(y[1:, :, : lengths[1]], encoder(x[1:, :31])[0], rtol=1e-5, atol=1e-5)
    theirs = MFA_MODULE(
        MELS, **MFA, rel_pos_type="latest", pos_enc_layer_type="abs_pos", selfattention_layer_type="selfattn"
    )
    with pytest.raises(IndexError):
        theirs.eval()(x)


@torch.no_grad()
def test_a_long_utterance_leaves_legacy_positions_alone():
    options = {**MFA, "max_pos_emb_len": 40}  # so that long is not slow
    encoder, twin = MfaConformerEncoder(MELS, **options).eval(), MFA_MODULE(MELS, **options).eval()
    twin.load_state_dict(encoder.state_dict())
    x = torch.randn(1, 60, MELS)
    before, expected = encoder(x)[0], twin(x)
    long = torch.randn(2, 200, MELS)
    lengths = torch.tensor([200, 60])
    together, frame_lengths = encoder(long, lengths)
    torch.testing.assert_close(together[1:, :, : frame_lengths[1]], encoder(long[1:, :60])[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(encoder(x)[0], before, rtol=0, atol=0)
    torch.testing.assert_close(before, expected, rtol=1e-5, atol=1e-5)
    twin(long[:1])
    assert (twin(x) - expected).abs().max() > 1e-4  # ESPnet's answer has changed


@torch.no_grad()
def test_branchformer_concatenates_its_layers():
    encoder = EBranchformerEncoder(MELS, **EBF).eval()
    x, lengths = torch.randn(2, 60, MELS), torch.tensor([60, 37])
    y, frames = encoder(x, lengths)
    assert y.size(1) == encoder.output_size() == 32 and encoder.after_norm.weight.shape == (32,)
    torch.testing.assert_close(y[1:, :, : frames[1]], encoder(x[1:, :37])[0], rtol=1e-5, atol=1e-5)
    dropped = EBranchformerEncoder(MELS, **EBF, layer_drop_rate=1.0).train()(x)[0]
    torch.testing.assert_close(dropped[:, :16], dropped[:, 16:])  # every layer dropped: its input twice


def test_legacy_positions_count_down_from_the_table():
    table = legacy_positions(torch.zeros(1, 3, 4), 10)
    assert table.shape == (1, 3, 4)
    position = torch.tensor([9.0, 8.0, 7.0])
    torch.testing.assert_close(table[0, :, 0], position.sin())
    torch.testing.assert_close(table[0, :, 3], (position / 100).cos())


@pytest.mark.parametrize(
    ("cls", "options", "says"),
    [
        (EcapaTdnnEncoder, {"ndim": 20}, "multiple of model_scale"),
        (EcapaTdnnEncoder, {"block": "Other"}, "block"),
        (XvectorEncoder, {"paddings": [1, 2]}, "five numbers"),
        (RawNet3Encoder, {"ndim": 20}, "multiple of model_scale"),
        (SkaTdnnEncoder, {"skablock": "x"}, "skablock"),
        (ResNetEncoder, {"resnet_type": "resnet20"}, "resnet18, resnet34"),
        (ResNetEncoder, {"num_blocks": [1, 2]}, "four numbers"),
        (MfaConformerEncoder, {"input_layer": "linear"}, "input_layer must be conv2d"),
        (
            MfaConformerEncoder,
            {"pos_enc_layer_type": "abs_pos", "selfattention_layer_type": "rel_selfattn"},
            "selfattn",
        ),
        (MfaConformerEncoder, {"cnn_module_kernel": 8}, "odd"),
        (EBranchformerEncoder, {"input_layer": "linear"}, "input_layer must be conv2d"),
        (EBranchformerEncoder, {"merge_conv_kernel": 4}, "odd"),
    ],
)
def test_wrong_options_are_refused_in_one_line(cls, options, says):
    with pytest.raises(UserError, match=says) as caught:
        cls(MELS, **options)
    assert "\n" not in str(caught.value)


def test_misspelt_options_are_not_swallowed():
    for ours, _, _, _ in ENCODERS.values():
        with pytest.raises(TypeError, match="ndimm"):
            ours(MELS, ndimm=3)
    ecapa_tdnn_encoder.EcapaTdnnEncoder(MELS, ndimm=3)  # ESPnet takes it


def test_ska_refuses_an_odd_number_of_features():
    with pytest.raises(UserError, match="multiple of 4"):
        SkaTdnnEncoder(18)


@torch.no_grad()
def test_resnet_with_features_not_a_multiple_of_eight():
    encoder = ResNetEncoder(20, num_blocks=[1, 1, 1, 1], m_channels=4).eval()
    assert encoder(torch.randn(1, 16, 20))[0].size(1) == encoder.output_size() == 3 * 32
