"""One interface to all encoders: the same weights give the same layers by every loader; padding, freezing, mixing."""

import pytest
import random_encoders as encoders
import torch

from espnet_ext import compat
from espnet_ext.errors import UserError
from espnet_ext.upstream.load import load_upstream

compat.prepare_s3prl()
pytest.importorskip("s3prl")
LOADERS = ("hf", "torchaudio", "fairseq", "converted", "ours", "s3prl_hf", "s3prl")


def available(loader, family, large):
    """s3prl has no WavLM by Hugging Face; our own encoder is a HuBERT."""
    return not (loader == "s3prl_hf" and family == "wavlm") and not (loader == "ours" and (family != "hubert" or large))


KINDS = [(loader, *kind) for kind in encoders.KINDS for loader in LOADERS if available(loader, *kind)]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Spec of every loader for the same weights, by family and size."""
    return {
        kind: encoders.write_all(tmp_path_factory.mktemp("-".join(map(str, kind))), *kind) for kind in encoders.KINDS
    }


@pytest.mark.parametrize(("loader", "family", "large"), [kind for kind in KINDS if kind[0] != "hf"])
def test_the_same_weights_give_the_same_layers(checkpoints, loader, family, large):
    specs = checkpoints[family, large]
    expected, ours = load_upstream(specs["hf"]).eval(), load_upstream(specs[loader]).eval()
    assert ours.num_layers == expected.num_layers == 4 and ours.output_size() == expected.output_size() == 24
    assert ours.frozen and ours.ignores_padding and ours.frames_past_end == ("s3prl" in loader)
    wav, samples = encoders.waves(9000, 5000, 2345)
    one, frames = expected.hidden_states(wav, samples)
    two, others = ours.hidden_states(wav, samples)
    assert one.shape[0] == two.shape[0] == 4
    for row, (a, b) in enumerate(zip(frames, others, strict=True)):
        # s3prl repeats the last frames up to one for every 20 ms begun; the others have those of the convolutions
        assert a == b or ("s3prl" in loader and 0 <= b - a <= 2)
        torch.testing.assert_close(two[:, row, :a], one[:, row, :a], rtol=1e-5, atol=2e-5)


@pytest.mark.gpu
@pytest.mark.parametrize(("loader", "family", "large"), KINDS)
def test_a_gpu_gives_the_same_layers(checkpoints, loader, family, large):
    encoder = load_upstream(checkpoints[family, large][loader]).eval()
    wav, samples = encoders.waves(6000, 3001, 1700)
    expected, frames = encoder.hidden_states(wav, samples)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        hidden, counts = encoder.cuda().hidden_states(wav.cuda(), samples.cuda())
    assert counts.tolist() == frames.tolist()
    for row, count in enumerate(frames):
        torch.testing.assert_close(hidden[:, row, :count].cpu(), expected[:, row, :count], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("loader", "family", "large"), KINDS)
def test_padding_and_batch_change_nothing(checkpoints, loader, family, large):
    encoder = load_upstream(checkpoints[family, large][loader]).eval()
    wav, samples = encoders.waves(6000, 3001, 6000, 1700)
    wav += 2  # not zero-mean, and noise behind the ends
    together, frames = encoder.hidden_states(wav, samples)
    for row, (length, count) in enumerate(zip(samples, frames, strict=True)):
        alone, one = encoder.hidden_states(wav[row : row + 1, :length], length[None])
        assert one[0] == count == alone.size(2)
        torch.testing.assert_close(together[:, row, :count], alone[:, 0], rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("loader", LOADERS)
def test_ten_steps_leave_a_frozen_encoder_bitwise_as_it_was(checkpoints, loader):
    encoder = load_upstream(checkpoints["hubert", False][loader]).train()
    before = {name: value.clone() for name, value in encoder.upstream.state_dict().items()}
    head = torch.nn.Linear(encoder.output_size(), 3)
    trained = [p for p in (*encoder.parameters(), *head.parameters()) if p.requires_grad]
    assert len(trained) == 3  # layer weights, and the head's two
    optimizer = torch.optim.AdamW(trained, lr=0.1)
    wav, samples = encoders.waves(2000, 2000)
    first, _ = encoder(wav, samples)
    torch.testing.assert_close(encoder(wav, samples)[0], first, rtol=0, atol=0)
    for _ in range(10):
        optimizer.zero_grad()
        head(encoder(wav, samples)[0]).square().mean().backward()
        optimizer.step()
    after = encoder.upstream.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None for p in encoder.upstream.parameters())
    assert not torch.equal(encoder(wav, samples)[0], first)


@pytest.mark.parametrize("normalize_layers", [False, True])
@pytest.mark.parametrize("loader", ["hf", "torchaudio", "s3prl"])
def test_one_hot_weights_are_the_single_layer(checkpoints, loader, normalize_layers):
    spec = checkpoints["hubert", False][loader]
    mixed = load_upstream(spec, normalize_layers=normalize_layers).eval()
    weights = mixed.featurizer.weights if loader == "s3prl" else mixed.layer_weights
    wav, samples = encoders.waves(2000, 1500)
    for layer in range(4):
        with torch.no_grad():
            weights.fill_(-1e4)
            weights[layer] = 0
        assert weights.softmax(0).sum() == 1
        single = load_upstream(spec, layer=layer, normalize_layers=normalize_layers).eval()
        torch.testing.assert_close(mixed(wav, samples)[0], single(wav, samples)[0])
        if normalize_layers:
            frame = single(wav, samples)[0][0, 0]
            assert abs(frame.mean()) < 1e-5 and abs(frame.var(correction=0) - 1) < 1e-2
    for wrong in (4, -5):
        with pytest.raises(UserError, match="from 0 .* to 3"):
            load_upstream(spec, layer=wrong)


@pytest.mark.parametrize(("loader", "family", "large"), [kind for kind in KINDS if kind[0] in ("hf", "torchaudio")])
def test_layers_that_nobody_asks_for_are_not_computed(checkpoints, loader, family, large):
    spec = checkpoints[family, large][loader]
    wav, samples = encoders.waves(3000, 2000)
    expected, _ = load_upstream(spec).hidden_states(wav, samples)
    for layer, left in ((0, 1), (1, 2), (-2, 3), (3, 3)):
        encoder = load_upstream(spec)
        encoder.forget_after(layer)
        assert len(encoder.blocks()) == left and encoder.num_layers == 4
        hidden, _ = encoder.layers(wav, samples)
        torch.testing.assert_close(torch.stack(hidden[: layer % 4 + 1]), expected[: layer % 4 + 1], rtol=0, atol=0)


def test_weights_in_a_folder_of_hugging_face_stand_for_the_folder(checkpoints):
    folder = checkpoints["hubert", False]["hf"].removeprefix("hf:")
    wav, samples = encoders.waves(1500)
    expected, _ = load_upstream(folder).hidden_states(wav, samples)
    torch.testing.assert_close(load_upstream(f"{folder}/model.safetensors").hidden_states(wav, samples)[0], expected)
