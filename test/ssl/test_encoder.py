"""HuBERT's encoder: the numbers of two other implementations, and no influence of padding."""

import json

import pytest
import torch
from tiny_hubert import LARGE, NO_CHANCE, TINY

from espnet_ext.errors import UserError
from espnet_ext.ssl.encoder import HubertEncoder
from espnet_ext.ssl.geometry import Geometry, label_step
from espnet_ext.ssl.hugging_face import parameters_of, read_folder, write_folder
from espnet_ext.upstream.load import load_upstream

KINDS = pytest.mark.parametrize("conf", [TINY, LARGE], ids=["base", "large"])


def noise(batch, samples, seed=0):
    return 0.1 * torch.randn(batch, samples, generator=torch.Generator().manual_seed(seed)) + 0.02


def shaken(encoder):
    """The encoder with norms that are not at their initial ones and zeros."""
    torch.manual_seed(1)
    for parameter in encoder.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return encoder.eval()


@KINDS
def test_equals_transformers(conf, tmp_path):
    """Written as a Hugging Face folder and read by AutoModel: the same layers, masked or not."""
    from transformers import AutoModel

    encoder = shaken(HubertEncoder(**conf))
    model = AutoModel.from_pretrained(write_folder(encoder, conf, tmp_path / "hf")).eval()
    wav = noise(2, 4000)
    mask = torch.rand(2, encoder.geometry.frames(4000), generator=torch.Generator().manual_seed(3)) < 0.5
    with torch.no_grad():
        for own_mask in (None, mask):
            theirs = model(wav, mask_time_indices=own_mask).last_hidden_state
            torch.testing.assert_close(encoder(wav, mask=own_mask).last, theirs, atol=1e-5, rtol=0)
        layers = model(wav, output_hidden_states=True).hidden_states
        ours, frames = encoder.hidden_states(wav, torch.tensor([4000, 4000]))
    assert len(ours) == len(layers) == encoder.num_layers and frames.tolist() == [encoder.geometry.frames(4000)] * 2
    for one, other in zip(ours[:-1], layers[:-1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


@KINDS
def test_a_folder_is_read_back(conf, tmp_path):
    """By our encoder, as by transformers: layers of padded batches, whichever are kept; other kinds are left alone."""
    encoder = shaken(HubertEncoder(**conf))
    folder = write_folder(encoder, conf, tmp_path / "hf")
    wav, lengths = noise(2, 4000), torch.tensor([4000, 2500])
    with torch.no_grad():
        theirs, frames = load_upstream(f"hf:{folder}").hidden_states(wav, lengths)
        for layer in range(encoder.num_layers):
            ours = read_folder(folder)
            ours.forget_after(layer)
            layers, own = ours.layers(wav, lengths)
            assert own.tolist() == frames.tolist() and layer < len(layers) <= layer + 2
            for row, count in enumerate(own.tolist()):
                torch.testing.assert_close(layers[layer][row, :count], theirs[layer, row, :count], atol=2e-5, rtol=0)
    assert read_folder(tmp_path) is None
    for file, key, value in (("preprocessor_config", "do_normalize", True), ("config", "conv_pos_batch_norm", True)):
        content = json.loads((folder / f"{file}.json").read_text())
        (folder / f"{file}.json").write_text(json.dumps({**content, key: value}))
        assert read_folder(folder) is None
        (folder / f"{file}.json").write_text(json.dumps(content))
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    save_file({name: value.half() for name, value in weights.items()}, folder / "model.safetensors")
    halves = read_folder(folder).layers(wav, lengths)[0][-1]  # computed in float32 all the same
    torch.testing.assert_close(halves[0], theirs[-1, 0], atol=0.05, rtol=0)
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, "hidden_size": 48}))  # the weights are others
    assert read_folder(folder) is None


@KINDS
def test_padding_changes_nothing(conf):
    encoder = shaken(HubertEncoder(**conf))
    lengths = torch.tensor([3999, 2500, 800])
    wav = noise(3, 5000)
    for row, length in enumerate(lengths):
        wav[row, length:] = float("nan") if row == 1 else 7.0
    mask = torch.zeros(3, encoder.geometry.frames(5000), dtype=torch.bool)
    mask[:, 1] = True
    layers, frames = encoder.hidden_states(wav, lengths)
    batch = encoder(wav, lengths, mask)
    powers = []
    for row, length in enumerate(lengths.tolist()):
        alone, own = encoder.hidden_states(wav[row : row + 1, :length], lengths[row : row + 1])
        assert own[0] == frames[row] == alone.shape[2]
        torch.testing.assert_close(layers[:, row, : own[0]], alone[:, 0], atol=2e-5, rtol=0)
        single = encoder(wav[row : row + 1, :length], None, mask[row : row + 1, : own[0]])
        torch.testing.assert_close(batch.last[row, : own[0]], single.last[0], atol=2e-5, rtol=0)
        powers.append(single.power * own[0])
    torch.testing.assert_close(batch.power, sum(powers) / frames.sum())


def test_base_has_the_papers_size():
    """94.37 M weights, 94.70 M with the head of 500 units; 400 samples are one frame, 16000 are 49."""
    from espnet_ext.ssl.model import HubertPretraining

    with torch.device("meta"):
        encoder = HubertEncoder()
        model = HubertPretraining(encoder, [500])
    assert round(parameters_of(encoder) / 1e6, 2) == 94.37
    assert round(parameters_of(model) / 1e6, 2) == 94.70
    geometry = encoder.geometry
    assert [geometry.frames(n) for n in (399, 400, 719, 720, 16000)] == [0, 1, 1, 2, 49]
    assert (geometry.hop, geometry.field, geometry.samples_for(49)) == (320, 400, 15760)
    assert geometry.frames(torch.tensor([5, 16000])).tolist() == [0, 49]


def test_sizes_of_the_large_model():
    """HuBERT Large as transformers has it: 315.4 M weights."""
    large = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    with torch.device("meta"):
        encoder = HubertEncoder(**large, feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True)
        from transformers import HubertConfig, HubertModel

        config = HubertConfig(**large, feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True)
        assert parameters_of(encoder) == parameters_of(HubertModel(config))


def test_layer_drop_and_gradient_scale():
    encoder = HubertEncoder(**TINY | NO_CHANCE | {"layerdrop": 1.0}).train()
    states, _ = encoder.hidden_states(noise(1, 3000), torch.tensor([3000]))
    assert all(torch.equal(state, states[0]) for state in states)
    assert torch.equal(encoder.eval()(noise(1, 3000)).last, encoder(noise(1, 3000)).last)

    quiet = TINY | NO_CHANCE
    gradients = []
    for scale in (1.0, 0.1):
        torch.manual_seed(0)
        encoder = HubertEncoder(**quiet, feature_grad_mult=scale).train()
        encoder(noise(1, 3000)).last.square().sum().backward()
        first = encoder.feature_extractor.conv_layers[0].conv.weight.grad
        gradients.append((first, encoder.feature_projection.projection.weight.grad))
    torch.testing.assert_close(gradients[1][0], 0.1 * gradients[0][0])
    torch.testing.assert_close(gradients[1][1], gradients[0][1])


def test_wrong_settings():
    with pytest.raises(UserError, match="one number per layer"):
        HubertEncoder(**{**TINY, "conv_dim": [8]})
    with pytest.raises(UserError, match="multiple of num_attention_heads"):
        HubertEncoder(**{**TINY, "num_attention_heads": 5})
    with pytest.raises(UserError, match="group or layer"):
        HubertEncoder(**{**TINY, "feat_extract_norm": "batch"})
    assert label_step(100, 320, "x") == 2 and label_step(50, 320, "x") == 1
    for rate in (25, 75):
        with pytest.raises(UserError, match="make labels at 50 Hz"):
            label_step(rate, 320, "x")
    assert Geometry().samples_for(2) == 720


def test_one_graph_for_torch_compile():
    """The encoder is one graph without breaks, in training too; layer drop and lengths do not change it."""
    conf = TINY | NO_CHANCE | {"layerdrop": 0.5}
    encoder = shaken(HubertEncoder(**conf))
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(encoder, backend=count, fullgraph=True, dynamic=True)
    for mode in (False, True):
        encoder.train(mode)
        before = len(graphs)
        for samples in (3000, 4100, 5200):
            wav, lengths = noise(3, samples), torch.tensor([samples, samples - 500, 1000])
            mask = torch.zeros(3, encoder.geometry.frames(samples), dtype=torch.bool)
            mask[:, ::3] = True
            torch.manual_seed(0)
            ours = compiled(wav, lengths, mask)
            torch.manual_seed(0)
            plain = encoder(wav, lengths, mask)
            torch.testing.assert_close(ours.last, plain.last, atol=1e-5, rtol=0)
        assert len(graphs) == before + 1
    torch._dynamo.reset()


def test_bfloat16_is_close():
    """Under autocast the encoder and its norms stay finite and near the float32 result."""
    encoder = shaken(HubertEncoder(**TINY))
    wav, lengths = noise(2, 6000), torch.tensor([6000, 3000])
    whole = encoder(wav, lengths)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = encoder(wav, lengths)
    frames = encoder.geometry.frames(3000)
    difference = (half.last.float() - whole.last)[:, :frames].abs().mean() / whole.last[:, :frames].abs().mean()
    assert difference < 0.03
    torch.testing.assert_close(half.power.float(), whole.power, rtol=0.02, atol=0)


def test_band_filters_are_bands():
    """Unit energy, peaks that rise evenly in mel, and pairs at a right angle."""
    from espnet_ext.ssl.extractor import band_filters

    filters = band_filters(40, 160)[:, 0]
    torch.testing.assert_close(filters.square().sum(dim=1), torch.ones(40))
    peaks_hz = torch.fft.rfft(filters[::2], 16000).abs().argmax(dim=1).double()
    steps = (2595 * (1 + peaks_hz[3:] / 700).log10()).diff()
    assert (steps - steps.mean()).abs().max() < 0.15 * steps.mean()
    angles = (filters[::2] * filters[1::2]).sum(dim=1)[3:]
    assert angles.abs().max() < 0.05
    encoder = HubertEncoder(**{**TINY, "conv_init": "bands"})
    torch.testing.assert_close(encoder.feature_extractor.conv_layers[0].conv.weight, band_filters(8, 10))
    with pytest.raises(UserError, match="conv_init must be random, bands"):
        HubertEncoder(**{**TINY, "conv_init": "mel"})
