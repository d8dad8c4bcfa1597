"""Masked prediction: torchaudio's logits, the other form of the loss, streams, and what is wrong said in one line."""

import numpy as np
import pytest
import tiny_hubert
import torch

from espnet_ext.errors import UserError
from espnet_ext.ssl.encoder import HubertEncoder
from espnet_ext.ssl.masking import mask_spans
from espnet_ext.ssl.model import HubertPretraining, UnitHead
from espnet_ext.ssl.torchaudio_names import torchaudio_state

TINY = tiny_hubert.TINY | tiny_hubert.NO_CHANCE | {"num_hidden_layers": 2}
K = 7


def batch(model, samples=(5000, 5000), streams=1, seed=0):
    """A batch with units and masks; padded where the lengths differ."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor(samples)
    speech = 0.1 * torch.randn(len(samples), max(samples), generator=generator)
    frames = model.encoder.geometry.frames(lengths)
    units = torch.randint(K, (len(samples), int(frames.max()), streams), generator=generator)
    rng = np.random.default_rng(seed)
    mask = torch.zeros(units.shape[:2], dtype=torch.bool)
    for row, count in enumerate(frames.tolist()):
        units[row, count:] = -1
        mask[row, :count] = torch.from_numpy(mask_spans(count, rng, length=3))
    data = {"speech": speech, "units": units, "mask": mask}
    if len(set(samples)) > 1:
        data["speech_lengths"] = lengths
    return data


def build(conf=TINY, units=(K,), seed=0, **options):
    torch.manual_seed(seed)
    return HubertPretraining(HubertEncoder(**conf), units, final_size=10, **options)


def test_equals_torchaudio():
    """The same weights and mask: the same logits and the same loss as torchaudio's hubert_pretrain_model."""
    from torchaudio.models.wav2vec2 import hubert_pretrain_model

    model = build().train()
    theirs = hubert_pretrain_model(
        "group_norm",
        list(zip(TINY["conv_dim"], TINY["conv_kernel"], TINY["conv_stride"], strict=True)),
        False, 24, 0.0, 16, 4, 2, 3, 0.0, 40, 0.0, 0.0, False, 0.0,
        0.8, "static", 0.0, 10, False, 1, 0.0, "static", 0.0, 10, False, 1,
        False, False, K, 10, 0.1,
    ).train()  # fmt: skip
    theirs.load_state_dict(torchaudio_state(model.state_dict()))
    data = batch(model)
    mask = data["mask"]

    class OurMask(torch.nn.Module):
        def forward(self, x, padding_mask):
            return torch.where(mask[..., None], theirs.mask_generator_embedding, x), mask

    theirs.mask_generator_embedding = theirs.mask_generator.mask_embedding
    theirs.mask_generator = OurMask()
    logit_m, logit_u, penalty = theirs(data["speech"], data["units"][..., 0])
    # Theirs have the right unit in slot 0, and -inf for it among the others.
    encoded = model.encoder(data["speech"], None, mask)
    for chosen, logits in ((mask, logit_m), (~mask, logit_u)):
        ours = model.heads[0](encoded.last[chosen])
        target = data["units"][chosen][:, 0]
        torch.testing.assert_close(ours.gather(1, target[:, None])[:, 0], logits[:, 0], atol=1e-4, rtol=1e-5)
        theirs_loss = torch.nn.functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))
        ours_loss = torch.nn.functional.cross_entropy(ours, target)
        torch.testing.assert_close(ours_loss, theirs_loss, atol=1e-5, rtol=0)
    torch.testing.assert_close(encoded.power, penalty)
    loss, stats, weight = model(**data)
    # Their sum over frames plus 10 n mean(x^2), divided by n, with the same gradients.
    whole = torch.nn.functional.cross_entropy(logit_m, torch.zeros(len(logit_m), dtype=torch.long), reduction="sum")
    whole = (whole + 10 * int(mask.sum()) * penalty) / mask.sum()
    torch.testing.assert_close(loss[0], whole, atol=1e-5, rtol=0)
    assert int(weight) == int(mask.sum())
    loss.backward()
    whole.backward()
    for ours, other in (
        (model.encoder.feature_extractor.conv_layers[0].conv, theirs.wav2vec2.feature_extractor.conv_layers[0].conv),
        (model.heads[0].final_proj, theirs.logit_generator.final_proj),
    ):
        torch.testing.assert_close(ours.weight.grad, other.weight.grad, atol=1e-5, rtol=1e-3)


def test_torchaudio_has_no_second_head():
    with pytest.raises(KeyError, match="heads.1"):
        torchaudio_state(build(units=(K, K)).state_dict())


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_logits_by_hand(temperature):
    """Cosines in float64 by numpy, and the same under autocast to bfloat16."""
    torch.manual_seed(0)
    head = UnitHead(6, 5, size=4, temperature=temperature)
    x = torch.randn(3, 6)
    projected = x.double().numpy() @ head.final_proj.weight.detach().double().numpy().T
    units = head.label_embeddings.detach().double().numpy()
    cosines = projected @ units.T / np.linalg.norm(projected, axis=1)[:, None] / np.linalg.norm(units, axis=1)
    np.testing.assert_allclose(head(x).detach().numpy(), cosines / temperature, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert head(x).dtype == torch.float32
        np.testing.assert_allclose(head(x).detach().numpy(), cosines / temperature, atol=0.05 / temperature)


def test_loss_and_accuracy_by_hand():
    """Streams, masked and visible frames by their weights, in float64 by loops over the logits of every frame."""
    weights = {"stream_weights": [0.7, 0.2], "masked_weight": 2.0, "unmasked_weight": 0.3, "penalty_weight": 4.0}
    model = build(units=[K, 5], **weights).eval()
    data = batch(model, (5000, 3100), streams=2)
    data["units"][..., 1].clamp_(max=4)
    with torch.no_grad():
        loss, stats, weight = model(**data)
        encoded = model.encoder(data["speech"], data["speech_lengths"], data["mask"])
        logits = [head(encoded.last).double().numpy() for head in model.heads]
    total, right, masked, frames = 0.0, 0.0, 0, 0
    for row, samples in enumerate((5000, 3100)):
        for frame in range(model.encoder.geometry.frames(samples)):
            hidden = bool(data["mask"][row, frame])
            frames, masked = frames + 1, masked + hidden
            for stream, share in enumerate((0.7, 0.2)):
                scores, unit = logits[stream][row, frame], int(data["units"][row, frame, stream])
                total += share * (2.0 if hidden else 0.3) * (np.log(np.exp(scores).sum()) - scores[unit])
                right += 0.5 * hidden * (scores.argmax() == unit)
    assert int(weight) == frames and 0 < masked < frames
    np.testing.assert_allclose(float(loss), total / frames + 4.0 * float(encoded.power), rtol=1e-5)
    np.testing.assert_allclose(float(stats["acc_m"]), right / masked, rtol=1e-5)


def test_visible_frames_count_only_if_asked():
    model = build(penalty_weight=0.0).train()
    data = batch(model)
    encoded = model.encoder(data["speech"], None, data["mask"])
    hidden = encoded.last.detach().requires_grad_()
    for weight in (0.0, 0.5):
        model.unmasked_weight = weight
        model.encoder = Stand(hidden, encoded.power.detach(), model.encoder)
        hidden.grad = None
        model(**data)[0].backward()
        model.encoder = model.encoder.real
        there = hidden.grad.abs().sum(dim=-1) > 0
        assert bool(there[data["mask"]].all())
        assert bool(there[~data["mask"]].all()) == (weight > 0) and (weight > 0 or not there[~data["mask"]].any())


class Stand(torch.nn.Module):
    """An encoder whose output is given."""

    def __init__(self, hidden, power, real):
        super().__init__()
        self.hidden, self.power, self.real = hidden, power, real

    def forward(self, *_):
        from espnet_ext.ssl.encoder import Encoded

        return Encoded(self.hidden, self.power)


def test_a_stream_repeated_is_that_stream():
    """S copies of one stream with the same heads and weights 1/S are the stream alone."""
    one, three = build(units=[K]).eval(), build(units=[K] * 3, stream_names=["a", "b", "c"]).eval()
    three.encoder.load_state_dict(one.encoder.state_dict())
    for head in three.heads:
        head.load_state_dict(one.heads[0].state_dict())
    data = batch(one)
    loss, stats, weight = one(**data)
    copies = {**data, "units": data["units"].expand(-1, -1, 3)}
    loss3, stats3, weight3 = three(**copies)
    torch.testing.assert_close(loss3, loss)
    torch.testing.assert_close(stats3["acc_m"], stats["acc_m"])
    assert weight3 == weight and {"acc_m_a", "loss_u_c"} <= set(stats3)
    weighted = build(units=[K] * 3, stream_weights=[1, 0, 0]).eval()
    weighted.load_state_dict(three.state_dict())
    torch.testing.assert_close(weighted(**copies)[0], loss)


def test_padding_and_batch_size_change_nothing():
    """The loss of a padded batch is the mean over all masked frames of the utterances alone."""
    model = build(unmasked_weight=0.3).eval()
    data = batch(model, (5000, 3100, 1500))
    loss, _, weight = model(**data)
    total, count = 0.0, 0.0
    power, frames = 0.0, 0
    for row, samples in enumerate((5000, 3100, 1500)):
        own = model.encoder.geometry.frames(samples)
        alone = {"speech": data["speech"][row : row + 1, :samples]}
        alone |= {key: data[key][row : row + 1, :own] for key in ("units", "mask")}
        with torch.no_grad():
            one, stats, one_weight = model(**alone)
        total += float((one - 10 * stats["power"]) * one_weight)
        count += float(one_weight)
        power, frames = power + float(stats["power"]) * own, frames + own
    assert float(weight) == count
    np.testing.assert_allclose(float(loss), total / count + 10 * power / frames, rtol=1e-5)


def test_a_loss_that_is_not_finite_names_the_utterances():
    model = build().train()
    data = batch(model)
    data["speech"][1, 100] = float("inf")
    with pytest.raises(UserError, match=r"loss is nan on utterance\(s\) ann-1, bob-2; the checkpoint"):
        model(**data, utt_id=["ann-1", "bob-2"])


def test_nothing_masked_is_no_loss_but_no_error():
    model = build(penalty_weight=0.0).train()
    data = batch(model)
    data["mask"][:] = False
    loss, stats, weight = model(**data)
    loss.backward()
    assert float(loss) == 0 and float(stats["acc_m"]) == 0 and float(weight) == 1


def test_what_is_reported_is_not_what_is_accumulated():
    """ESPnet's trainer divides the loss in place by accum_grad: the statistics stay."""
    model = build().train()
    loss, stats, _ = model(**batch(model))
    before = float(stats["loss"])
    loss /= 4
    assert float(stats["loss"]) == before == pytest.approx(4 * float(loss.detach()))


def test_weights_of_streams_are_checked():
    with pytest.raises(UserError, match=r"stream_weights has 2 numbers for 1 stream"):
        build(stream_weights=[1, 2])


def test_masks_cover_what_the_paper_says():
    """.55 to .58 of 500 frames in spans of at least ten, over 2000 draws."""
    rng = np.random.default_rng(0)
    masks = np.stack([mask_spans(500, rng) for _ in range(2000)])
    assert 0.55 <= masks.mean() <= 0.58
    for mask in masks[:50]:
        edges = np.flatnonzero(np.diff(np.concatenate(([0], mask.astype(int), [0]))))
        assert (edges[1::2] - edges[::2] >= 10).all()
    same = mask_spans(500, np.random.default_rng([1, 2]))
    assert np.array_equal(same, mask_spans(500, np.random.default_rng([1, 2])))


@pytest.mark.parametrize("frames", range(1, 25))
def test_short_utterances_are_never_wholly_hidden(frames):
    rng = np.random.default_rng(frames)
    masks = np.stack([mask_spans(frames, rng) for _ in range(200)])
    assert not masks.all(axis=1).any()
    assert masks.any(axis=1).all() == (frames > 1)


@pytest.mark.gpu
def test_gpu_gives_the_same_loss():
    """Padded batches on the GPU: float32 as on the CPU, bfloat16 near it, gradients finite."""
    model = build(units=[K, K]).train()
    data = batch(model, (5000, 3100, 1500), streams=2)
    expected, _, _ = model(**data)
    model = model.cuda()
    data = {key: value.cuda() for key, value in data.items()}
    torch.testing.assert_close(model(**data)[0].cpu(), expected, atol=1e-4, rtol=1e-4)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        loss, _, _ = model(**data)
    assert abs(float(loss.detach()) - float(expected.detach())) < 0.05
    loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
