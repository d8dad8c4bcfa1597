"""The whole speaker model: ESPnet's weights fit, padding changes nothing, and what a batch of one does."""

import pytest
import torch
from espnet2.spk.encoder import (
    conformer_encoder,
    ecapa_tdnn_encoder,
    rawnet3_encoder,
    resnet_encoder,
    ska_tdnn_encoder,
    xvector_encoder,
)
from espnet2.spk.espnet_model import ESPnetSpeakerModel
from espnet2.spk.loss.aamsoftmax_subcenter_intertopk import ArcMarginProduct_intertopk_subcenter
from espnet2.spk.pooling import chn_attn_stat_pooling, stat_pooling
from espnet2.spk.projector.rawnet3_projector import RawNet3Projector
from espnet2.spk.projector.ska_tdnn_projector import SkaTdnnProjector
from espnet2.spk.projector.xvector_projector import XvectorProjector

from espnet_ext.audio.features import MelFrontend, SincFrontend, UtteranceMVN
from espnet_ext.errors import UserError
from espnet_ext.spk.encoders import EcapaTdnnEncoder, RawNet3Encoder, XvectorEncoder
from espnet_ext.spk.encoders_2d import ResNetEncoder, SkaTdnnEncoder
from espnet_ext.spk.encoders_conformer import MfaConformerEncoder
from espnet_ext.spk.losses import AAMSoftmax, SubcenterTopkAAMSoftmax
from espnet_ext.spk.model import SpeakerModel
from espnet_ext.spk.pooling import ChnAttnStatPooling, StatsPooling

MFA_MODULE = conformer_encoder.MfaConformerEncoder
MFA = {
    "output_size": 512,
    "attention_heads": 8,
    "linear_units": 2048,
    "num_blocks": 6,
    "input_layer": "conv2d2",
    "macaron_style": True,
    "rel_pos_type": "latest",
    "cnn_module_kernel": 15,
}
RES2 = {"model_scale": 8, "ndim": 1024, "output_size": 1536}
# The systems of the ESPnet-SPK paper on 80 features: encoder, ESPnet's encoder, options, pooling, ESPnet's pooling,
# projector, millions of parameters in the encoder.
ATTENTION = (ChnAttnStatPooling, chn_attn_stat_pooling.ChnAttnStatPooling)
STATS = (StatsPooling, stat_pooling.StatsPooling)
PAPER = {
    "xvector": (XvectorEncoder, xvector_encoder.XvectorEncoder, {}, STATS, XvectorProjector, 2.8),
    "ecapa": (EcapaTdnnEncoder, ecapa_tdnn_encoder.EcapaTdnnEncoder, RES2, ATTENTION, RawNet3Projector, 13.27),
    "ecapa512": (
        EcapaTdnnEncoder,
        ecapa_tdnn_encoder.EcapaTdnnEncoder,
        {**RES2, "ndim": 512},
        ATTENTION,
        RawNet3Projector,
        4.81,
    ),
    "mfaconformer": (MfaConformerEncoder, MFA_MODULE, MFA, ATTENTION, RawNet3Projector, 50.0),
    "rawnet3": (RawNet3Encoder, rawnet3_encoder.RawNet3Encoder, RES2, ATTENTION, RawNet3Projector, 14.3),
    "ska": (SkaTdnnEncoder, ska_tdnn_encoder.SkaTdnnEncoder, RES2, ATTENTION, SkaTdnnProjector, 34.4),
    "resnet34": (
        ResNetEncoder,
        resnet_encoder.ResNetEncoder,
        {"resnet_type": "resnet34"},
        STATS,
        RawNet3Projector,
        5.3,
    ),
}


@pytest.mark.parametrize("name", PAPER)
def test_weights_are_named_and_shaped_as_espnets(name):
    encoder, their_encoder, options, (pooling, their_pooling), projector, millions = PAPER[name]
    with torch.device("meta"):  # names, shapes and counts need no numbers
        parts = encoder(80, **options)
        pool = pooling(parts.output_size())
        head = projector(pool.output_size(), 192)
        ours = SpeakerModel(None, None, None, parts, pool, head, SubcenterTopkAAMSoftmax(192, 10))
        twin = their_encoder(80, **options)
        theirs = ESPnetSpeakerModel(
            None,
            None,
            None,
            twin,
            their_pooling(twin.output_size()),
            projector(pool.output_size(), 192),
            ArcMarginProduct_intertopk_subcenter(192, 10),
        )
    shapes = {key: value.shape for key, value in ours.state_dict().items()}
    assert shapes == {key: value.shape for key, value in theirs.state_dict().items()}
    assert sum(p.numel() for p in parts.parameters()) / 1e6 == pytest.approx(millions, rel=0.01)
    if name == "ecapa":
        total = sum(p.numel() for key, p in ours.named_parameters() if not key.startswith("loss")) / 1e6
        assert total == pytest.approx(14.66, abs=0.01)


def small(frontend=None, encoder=None, projector=RawNet3Projector, **parts) -> SpeakerModel:
    torch.manual_seed(0)
    frontend = MelFrontend(n_mels=16) if frontend is None else frontend
    encoder = encoder or EcapaTdnnEncoder(frontend.output_size(), ndim=16, model_scale=4, output_size=24)
    pooling = ChnAttnStatPooling(encoder.output_size())
    head = projector(pooling.output_size(), 8)
    options = {"specaug": None, "normalize": None, "loss": SubcenterTopkAAMSoftmax(8, 5), **parts}
    model = SpeakerModel(frontend=frontend, encoder=encoder, pooling=pooling, projector=head, **options)
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm1d):
            norm.running_mean.normal_(0, 0.3)
            norm.running_var.uniform_(0.5, 2)
    return model.eval()


def difference(model: SpeakerModel, wav: torch.Tensor, samples: torch.Tensor) -> float:
    """Largest difference between embeddings of a batch and of each utterance alone."""
    with torch.no_grad():
        together = model.embed(wav, samples)
        alone = torch.cat([model.embed(one[None, :n]) for one, n in zip(wav, samples, strict=True)])
        shuffled = model.embed(wav.flip(0), samples.flip(0)).flip(0)
    assert together.shape == (len(wav), 8)
    return max((together - alone).abs().max().item(), (together - shuffled).abs().max().item())


SAMPLES = torch.tensor([16000, 9011, 4000, 16000, 2600])


@pytest.mark.parametrize("projector", [RawNet3Projector, SkaTdnnProjector, XvectorProjector])
def test_batch_and_padding_change_nothing(projector):
    assert difference(small(projector=projector), torch.randn(5, 16000), SAMPLES) < 1e-5


def test_espnets_own_frontends_and_normalisers_are_exact_too():
    from espnet2.asr.frontend.asteroid_frontend import AsteroidFrontend
    from espnet2.asr.frontend.default import DefaultFrontend

    for frontend, normalize in (
        (DefaultFrontend(n_mels=16), UtteranceMVN()),
        (AsteroidFrontend(16, 51, 16), None),
        (MelFrontend(n_mels=16, normalize=None), UtteranceMVN(norm_vars=True)),
    ):
        assert difference(small(frontend, normalize=normalize), torch.randn(5, 16000), SAMPLES) < 1e-5


def test_equals_espnets_model_on_a_whole_utterance():
    ours = small(encoder=ResNetEncoder(16, m_channels=4))
    theirs = ESPnetSpeakerModel(ours.frontend, None, None, ours.encoder, ours.pooling, ours.projector, AAMSoftmax(8, 5))
    wav = torch.randn(2, 8000)
    full = torch.tensor([8000, 8000])
    with torch.no_grad():
        theirs.encode_frame = lambda feats: ours.encoder(feats)[0]
        theirs.pooling.forward = lambda x, feat_lengths: type(ours.pooling).forward(ours.pooling, x)
        expected = theirs.eval()(wav, full, extract_embd=True)
        torch.testing.assert_close(ours.embed(wav, full), expected)
        torch.testing.assert_close(ours(wav, full, extract_embd=True), expected)


def test_training_step_of_every_batch_size():
    model = small().train()
    for batch in (3, 1):
        model.zero_grad()
        wav, labels = torch.randn(batch, 8000), torch.arange(batch)[:, None]
        loss, stats, weight = model(wav, torch.full((batch,), 8000), labels)
        loss.backward()
        assert loss.isfinite().all() and weight == batch and set(stats) == {"loss", "accuracy"}
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    assert all(module.training for module in model.modules())


def test_a_batch_of_one_does_not_move_the_statistics():
    model = small().train()
    before = model.projector.bn.running_mean.clone()
    model(torch.randn(1, 8000), None, torch.tensor([0]))
    torch.testing.assert_close(model.projector.bn.running_mean, before)


def test_without_labels_or_loss_training_says_so():
    with pytest.raises(UserError, match="spk_labels"):
        small()(torch.randn(2, 8000))
    with pytest.raises(UserError, match="loss"):
        small(loss=None)(torch.randn(2, 8000), None, torch.tensor([0, 1]))


def test_too_short_is_refused_in_one_line():
    model = small(encoder=RawNet3Encoder(16, ndim=16, model_scale=4, output_size=24))
    assert model.min_samples == 14 * 160
    with torch.no_grad():
        model.embed(torch.randn(1, model.min_samples))
        for wav, samples in (
            (torch.randn(1, model.min_samples - 1), None),
            (torch.randn(2, 16000), torch.tensor([16000, 2000])),
        ):
            with pytest.raises(UserError, match="too short for this model, which needs 2240"):
                model.embed(wav, samples)


def test_features_instead_of_waveforms():
    encoder = EcapaTdnnEncoder(16, ndim=16, model_scale=4, output_size=24)
    model = SpeakerModel(None, None, None, encoder, StatsPooling(24), None, None).eval()
    feats = torch.randn(3, 50, 16)
    samples = torch.tensor([50, 20, 33])
    with torch.no_grad():
        together = model.embed(feats, samples)
        for row, one, n in zip(together, feats, samples, strict=True):
            torch.testing.assert_close(row, model.embed(one[None, :n])[0], rtol=1e-5, atol=1e-5)


def test_collect_feats_gives_true_lengths():
    collected = small().collect_feats(torch.randn(2, 8000), torch.tensor([8000, 4000]), None)
    assert collected["feats_lengths"].tolist() == [51, 26]
    assert collected["feats"].shape == (2, 51, 16)


def test_bfloat16_stays_near():
    model, wav = small(), torch.randn(3, 16000)
    with torch.no_grad():
        full = model.embed(wav)
        with torch.autocast("cpu", torch.bfloat16):
            half = model.embed(wav)
    assert torch.nn.functional.cosine_similarity(full, half.float()).min() > 0.99


@pytest.mark.gpu
def test_batch_and_padding_change_nothing_on_a_gpu():
    for model in (small(), small(encoder=ResNetEncoder(16, m_channels=4)), small(SincFrontend(16, 51, 16))):
        wav = torch.randn(5, 16000)
        with torch.no_grad():
            here = model.embed(wav, SAMPLES)
        assert difference(model.cuda(), wav.cuda(), SAMPLES.cuda()) < 1e-5
        with torch.no_grad():
            torch.testing.assert_close(model.embed(wav.cuda(), SAMPLES).cpu(), here, rtol=1e-4, atol=1e-4)
        assert torch.backends.cudnn.allow_tf32 and torch.backends.cudnn.enabled


def test_exports_without_masks():
    model = small()
    with torch.no_grad():
        program = torch.export.export(
            Embed(model),
            (torch.randn(2, 8000),),
            dynamic_shapes={"wav": {0: torch.export.Dim("b"), 1: torch.export.Dim("n", min=400)}},
        )
        for shape in ((2, 8000), (3, 12345)):
            wav = torch.randn(shape)
            torch.testing.assert_close(program.module()(wav), model.embed(wav), rtol=1e-5, atol=1e-5)


class Embed(torch.nn.Module):
    """What an export sees: waveforms in, embeddings out."""

    def __init__(self, model: SpeakerModel):
        super().__init__()
        self.model = model

    def forward(self, wav: torch.Tensor) -> torch.Tensor:
        """Embed whole utterances of one length."""
        return self.model.embed(wav)
