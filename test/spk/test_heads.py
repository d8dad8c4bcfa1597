"""Heads on pretrained encoders: SUPERB's numbers, padding, a frozen encoder, and the counts of the specification."""

import math
from argparse import Namespace

import pytest
import torch
from corpora import ROOT

from espnet_ext.bin.head_parameters import main as head_parameters
from espnet_ext.errors import UserError
from espnet_ext.spk.encoders import EcapaTdnnEncoder, IdentityEncoder
from espnet_ext.spk.heads import LinearEncoder, LinearProjector, SuperbProjector, SuperbXvectorEncoder
from espnet_ext.spk.losses import AAMSoftmax, AMSoftmax
from espnet_ext.spk.model import SpeakerModel
from espnet_ext.spk.parameters import count_head, count_weights
from espnet_ext.spk.pooling import AttnStatPooling, ChnAttnStatPooling, MeanPooling, StatsPooling
from espnet_ext.tasks.spk import SpeakerTask, count_config

CONF = ROOT / "egs2/voxceleb/spk1/conf"
# Parameters of the specification without layer weights: (768 features, 1024 features).
COUNTS = {
    "light": (147_648, 196_800),
    "stats": (295_104, 393_408),
    "attention": (692_544, 923_200),
    "light_attention": (115_585, 148_353),
}
XVECTOR = {768: (6_110_185, 5_847_529), 1024: (6_241_269, 5_978_613)}
LAYERS = {768: 13, 1024: 25}


@pytest.mark.parametrize("dim", LAYERS)
def test_counts_of_the_specification(dim):
    baseline = count_config(str(CONF / "train_ssl_xvector.yaml"), dim, LAYERS[dim])
    assert (baseline.train, baseline.test) == XVECTOR[dim]
    for name, counts in COUNTS.items():
        head = count_config(str(CONF / f"train_ssl_{name}.yaml"), dim, LAYERS[dim])
        assert head.layer_weights == LAYERS[dim]
        assert head.train == head.test == counts[dim > 768] + LAYERS[dim], name
    light = count_config(str(CONF / "train_ssl_light.yaml"), dim, LAYERS[dim]).less_than(baseline)
    assert light[0] == pytest.approx({768: 0.9758, 1024: 0.9685}[dim], abs=5e-5)
    if dim == 768:
        assert min(light) > 0.97
    assert count_config(str(CONF / "train_ssl_zero_shot.yaml"), dim, LAYERS[dim]).train == 0


def test_counts_of_other_sizes_and_of_batch_norms():
    parts = IdentityEncoder(1024), MeanPooling(1024), LinearProjector(1024, 144)
    assert count_head(*parts).train == 147_600
    after = torch.nn.BatchNorm1d(192)  # "a BN after the last layer adds 384"
    parts = IdentityEncoder(768), ChnAttnStatPooling(768), LinearProjector(1536, 192, batch_norm=True)
    assert count_head(*parts).train + sum(p.numel() for p in after.parameters()) == 692_928


def test_command_prints_heads_side_by_side(capsys):
    configs = [str(CONF / f"train_ssl_{name}.yaml") for name in ("light", "xvector")]
    assert head_parameters([*configs, "--baseline", configs[1]]) == 0
    told = capsys.readouterr().out
    for word in ("147,661", "6,110,185", "5,847,529", "-97.58 %", "6,241,269", "train_ssl_light"):
        assert word in told
    assert head_parameters([*configs, "--upstream", "768"]) == 2
    assert "768x13" in capsys.readouterr().err


def superb(**sizes):
    """s3prl's own module with random weights, and ours with the same."""
    theirs = pytest.importorskip("s3prl.downstream.sv_voxceleb1.model")
    options = {"agg_dim": 36, "dropout_p": 0.0, "batch_norm": False}
    model = theirs.Model(24, 36, "SP", "XVector", "UtteranceExtractor", options)
    connector = torch.nn.Linear(20, 24)
    encoder, projector = SuperbXvectorEncoder(20, 24, 36), SuperbProjector(72, 24)
    encoder.connector.load_state_dict(connector.state_dict())
    for layer, tdnn in zip(encoder.layers, model.framelevel_feature_extractor.module, strict=True):
        layer.bias.data.copy_(tdnn.kernel.bias.data)
        # unfold lines a window up as (context, feature).
        layer.weight.data.copy_(tdnn.kernel.weight.data.unflatten(1, (layer.kernel_size[0], 24)).transpose(1, 2))
    extractor = model.utterancelevel_feature_extractor
    projector.fc.load_state_dict(extractor.linear1.state_dict())
    projector.loss_layers[0].load_state_dict(extractor.linear2.state_dict())
    ours = SpeakerModel(None, None, None, encoder, StatsPooling(36), projector, AMSoftmax(24, 5))
    return theirs, connector, model, ours


@torch.no_grad()
def test_xvector_head_equals_s3prls_in_training_and_in_use(monkeypatch):
    from espnet_ext import compat

    compat.prepare()
    torch.manual_seed(0)
    theirs, connector, model, ours = superb()
    # s3prl divides the variance by N - 1, all of ours by N; and our deviation of a channel that the ReLU keeps at zero
    # is sqrt(machine epsilon), where the square root still has a slope.
    monkeypatch.setattr(theirs.torch, "std", lambda x, dim: x.std(dim=dim, unbiased=False))
    feats, label = 3 * torch.randn(4, 60, 20), torch.tensor([0, 4, 2, 2])
    mask = torch.zeros(4, 46)
    torch.testing.assert_close(ours.eval().embed(feats), model.inference(connector(feats), mask), rtol=1e-4, atol=1e-3)
    objective = theirs.AMSoftmaxLoss(24, 5)
    ours.loss.weight.copy_(objective.W.T)
    loss, stats, _ = ours.train()(feats, None, label)
    torch.testing.assert_close(loss[0], objective(model(connector(feats), mask), label), rtol=1e-3, atol=0)
    assert loss.item() == stats["loss"].item()


def test_am_softmax_equals_hand_values():
    loss = AMSoftmax(2, 3)
    with torch.no_grad():
        loss.weight.copy_(torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]]))
    # Cosines of (3, 4) with the three centres: 0.6, 0.8, -0.6; s = 30, m = 0.4.
    value, accuracy, predicted = loss(torch.tensor([[3.0, 4.0]]), torch.tensor([0]))
    expected = -math.log(math.exp(30 * 0.2) / (math.exp(30 * 0.2) + math.exp(30 * 0.8) + math.exp(-30 * 0.6)))
    assert value.item() == pytest.approx(expected, rel=1e-5) == pytest.approx(18.0, abs=1e-3)
    assert accuracy == 0 and predicted.tolist() == [1]
    value = loss(torch.tensor([[3.0, 4.0]]), torch.tensor([1]))[0]
    expected = -math.log(math.exp(30 * 0.4) / (math.exp(30 * 0.4) + math.exp(30 * 0.6) + math.exp(-30 * 0.6)))
    assert value.item() == pytest.approx(expected, rel=1e-5)
    loss.set_margin(0.0)
    expected = math.log(1 + math.exp(30 * (0.6 - 0.8)) + math.exp(30 * (-0.6 - 0.8)))
    assert loss(torch.tensor([[3.0, 4.0]]), torch.tensor([1]))[0].item() == pytest.approx(expected, rel=1e-4)
    assert set(loss.state_dict()) == {"weight"}
    with pytest.raises(UserError, match="margin"):
        AMSoftmax(2, 3, margin=2.0)


def heads(dim):
    """Every part of the family: encoder, pooling, projector."""
    yield "light", IdentityEncoder(dim), MeanPooling(dim), LinearProjector(dim, 8, batch_norm=True, affine=False)
    yield "stats", IdentityEncoder(dim), StatsPooling(dim), LinearProjector(2 * dim, None)
    yield "attention", IdentityEncoder(dim), ChnAttnStatPooling(dim), LinearProjector(2 * dim, 8, batch_norm=True)
    yield "light_attention", LinearEncoder(dim, 6), AttnStatPooling(6), LinearProjector(12, None, batch_norm=True)
    plain = EcapaTdnnEncoder(dim, model_scale=1, ndim=16, output_size=24)
    yield "plain", plain, AttnStatPooling(24, 5), LinearProjector(48, 8)
    yield "xvector", SuperbXvectorEncoder(dim, 16, 24), StatsPooling(24), SuperbProjector(48, 8)


@pytest.mark.parametrize("name", [name for name, *_ in heads(4)])
def test_padding_and_batch_change_nothing(name):
    torch.manual_seed(1)
    parts = next(parts for found, *parts in heads(10) if found == name)
    model = SpeakerModel(None, None, None, *parts, AAMSoftmax(parts[-1].output_size(), 4))
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm1d):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    model.eval()
    feats, lengths = torch.randn(3, 50, 10), torch.tensor([50, 31, 16])
    with torch.no_grad():
        batch = model.embed(feats, lengths)
        alone = torch.cat([model.embed(row[None, :n]) for row, n in zip(feats, lengths.tolist(), strict=True)])
    assert (torch.nn.functional.cosine_similarity(batch, alone) - 1).abs().max() < 1e-5
    torch.testing.assert_close(batch, alone, rtol=1e-4, atol=1e-5)
    model.train()(feats, lengths, torch.tensor([0, 1, 2]))[0].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_too_short_for_the_xvector_is_said():
    model = SpeakerModel(None, None, None, SuperbXvectorEncoder(4, 8, 8), StatsPooling(8), SuperbProjector(16, 8), None)
    assert model.eval().embed(torch.randn(1, 15, 4)).shape == (1, 8)
    with pytest.raises(UserError, match="14 frames is too short"):
        model.embed(torch.randn(1, 14, 4))


@torch.no_grad()
def test_attention_over_time_equals_its_formula():
    torch.manual_seed(0)
    pool = AttnStatPooling(5, hidden=7)
    x = (2 + torch.randn(1, 5, 9)).double()[0]
    first, _, last = (layer.double() if isinstance(layer, torch.nn.Module) else layer for layer in pool.attention)
    hidden = [(first.weight[..., 0] @ frame + first.bias).clamp(min=0) for frame in x.T]
    score = [float(last.bias + last.weight[0, :, 0] @ h) for h in hidden]
    weight = torch.tensor([math.exp(s) for s in score], dtype=torch.float64)
    weight /= weight.sum()
    mean = (x * weight).sum(1)
    expected = torch.cat((mean, ((x**2 * weight).sum(1) - mean**2).sqrt()))
    torch.testing.assert_close(pool.float()(x[None].float())[0].double(), expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_ecapa_without_res2_is_a_plain_convolution():
    torch.manual_seed(0)
    encoder = EcapaTdnnEncoder(6, model_scale=1, ndim=8, output_size=12).eval()
    x = torch.randn(2, 30, 6)

    def block(layer, y):
        z = layer.bn1(layer.conv1(y).relu())
        z = layer.bns[0](layer.convs[0](z).relu())
        return layer.se(layer.bn3(layer.conv3(z).relu())) + y

    y = encoder.bn(encoder.conv(x.transpose(1, 2)).relu())
    y1 = block(encoder.layer1, y)
    y2 = block(encoder.layer2, y + y1)
    y3 = block(encoder.layer3, y + y1 + y2)
    torch.testing.assert_close(encoder(x)[0], encoder.layer4(torch.cat((y1, y2, y3), dim=1)).relu())
    assert [layer.convs[0].dilation for layer in (encoder.layer1, encoder.layer2, encoder.layer3)] == [(2,), (3,), (4,)]


@pytest.mark.parametrize(
    "make",
    [
        lambda: LinearEncoder(8, 0),
        lambda: SuperbXvectorEncoder(8, output_size=0),
        lambda: LinearProjector(8, -1),
        lambda: SuperbProjector(8, 0),
        lambda: AttnStatPooling(8, 0),
    ],
)
def test_sizes_that_are_none_are_refused(make):
    with pytest.raises(UserError, match="at least 1"):
        make()


def test_frozen_encoder_stays_bitwise_as_it_was(tmp_path):
    """Ten steps: the upstream does not change and gets no gradient; layer weights and head do."""
    from random_encoders import make

    make(tmp_path / "hubert")
    config = Namespace(
        **{f"{part}_conf": {} for part in ("specaug", "normalize", "encoder", "pooling", "projector", "loss")},
        **{"specaug": None, "normalize": None, "encoder": "identity", "pooling": "mean", "projector": "linear"},
        frontend="huggingface",
        frontend_conf={"model": str(tmp_path / "hubert"), "normalize_layers": True},
        loss="amsoftmax",
        spk_num=4,
    )
    torch.manual_seed(0)
    model = SpeakerTask.build_model(config).train()
    head = count_weights(model.state_dict())
    assert head.layer_weights == model.frontend.num_layers
    assert head.train == model.frontend.num_layers + 24 * 192 + 192
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    wav, label = torch.randn(8, 8000), torch.arange(8) % 4
    assert model(wav, None, label)[0] == model(wav, None, label)[0]
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = model(wav, None, label)[0]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(parameter.grad is None for parameter in model.frontend.upstream.parameters())
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"frontend.layer_weights", "projector.fc.weight", "projector.fc.bias", "loss.weight"}
