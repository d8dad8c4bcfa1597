"""Margin losses against their formulae in float64, and the faults of ESPnet's that they mend."""

import math

import numpy as np
import pytest
import torch
import torch._dynamo.testing
from espnet2.spk.loss.aamsoftmax_subcenter_intertopk import ArcMarginProduct_intertopk_subcenter

from espnet_ext.errors import UserError
from espnet_ext.spk.losses import AAMSoftmax, Softmax, SubcenterTopkAAMSoftmax

SIZE, CLASSES = 6, 9


def by_hand(loss, embedding, label, margin, centers=1, k_top=0, penalty=0.0, fallback=None):
    """Cross entropy written out per utterance with angles, in float64."""
    weight = loss.weight.detach().double().numpy().reshape(CLASSES, centers, SIZE)
    weight = weight / np.linalg.norm(weight, axis=2, keepdims=True)
    total = 0.0
    for vector, target in zip(embedding.double().numpy(), label.tolist(), strict=True):
        cosine = (weight @ (vector / np.linalg.norm(vector))).max(axis=1)
        theta = np.arccos(np.clip(cosine, -1, 1))
        logit = cosine.copy()
        logit[target] = (
            math.cos(theta[target] + margin) if theta[target] < math.pi - margin else fallback(cosine[target])
        )
        wrong = sorted((j for j in range(CLASSES) if j != target), key=lambda j: -cosine[j])
        for j in wrong[:k_top]:
            logit[j] = math.cos(theta[j] - penalty)
        logit *= loss.scale
        total += np.log(np.exp(logit - logit[target]).sum())
    return total / len(label)


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return torch.randn(40, SIZE), torch.randint(0, CLASSES, (40,))


def test_softmax_equals_its_formula(batch):
    loss = Softmax(SIZE, CLASSES)
    value, accuracy, predictions = loss(*batch)
    assert value.item() == pytest.approx(by_hand(loss, *batch, 0.0), rel=1e-5)
    assert accuracy.item() == pytest.approx((predictions == batch[1]).double().mean().item())


@pytest.mark.parametrize("margin", [0.0, 0.2, 0.5, 1.5])
def test_aam_equals_its_formula(batch, margin):
    loss = AAMSoftmax(SIZE, CLASSES, margin=margin)
    expected = by_hand(loss, *batch, margin, fallback=lambda c: c - margin * math.sin(math.pi - margin))
    assert loss(*batch)[0].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("margin", [0.0, 0.2, 0.5, 1.5])
def test_subcenter_topk_equals_its_formula(batch, margin):
    loss = SubcenterTopkAAMSoftmax(SIZE, CLASSES, margin=margin)
    expected = by_hand(loss, *batch, margin, 3, 5, 0.06 * margin / 0.2, lambda c: c - (1 + math.cos(math.pi - margin)))
    assert loss(*batch)[0].item() == pytest.approx(expected, rel=1e-5)


def test_easy_margin_leaves_obtuse_targets_alone(batch):
    loss = AAMSoftmax(SIZE, CLASSES, easy_margin=True)
    cosine = torch.tensor([[0.5], [-0.5]])
    torch.testing.assert_close(
        loss.target_logit(cosine), torch.tensor([[math.cos(math.pi / 3 + 0.3)], [-0.5]]), rtol=1e-5, atol=1e-6
    )


def test_penalty_is_inert_in_espnet_and_works_here(batch):
    options = {"scale": 30.0, "margin": 0.3}
    ours, plain = (SubcenterTopkAAMSoftmax(SIZE, CLASSES, k_top=k, **options) for k in (5, 0))
    theirs, theirs_plain = (ArcMarginProduct_intertopk_subcenter(SIZE, CLASSES, k_top=k, **options) for k in (5, 0))
    for loss in (plain, theirs, theirs_plain):
        loss.load_state_dict(ours.state_dict())
    assert theirs(*batch)[0] == theirs_plain(*batch)[0]
    assert ours(*batch)[0] > plain(*batch)[0] + 0.1
    torch.testing.assert_close(plain(*batch)[0], theirs_plain(*batch)[0])


def test_more_penalised_than_classes_is_clipped_and_spares_the_target():
    torch.manual_seed(0)
    loss = SubcenterTopkAAMSoftmax(SIZE, 3, k_top=5)
    assert loss.k_top == 2
    with torch.no_grad():
        loss.weight[:] = loss.weight[0]  # all cosines equal: ESPnet's choice of the hardest could be the target
    cosine = torch.full((1, 3), 0.4)
    logits = loss.logits(cosine, torch.tensor([[1]]))[0]
    theta = math.acos(0.4)
    expected = [math.cos(theta - 0.06), math.cos(theta + 0.2), math.cos(theta - 0.06)]
    np.testing.assert_allclose(logits, expected, rtol=1e-5)
    with pytest.raises(RuntimeError):
        ArcMarginProduct_intertopk_subcenter(SIZE, 3, k_top=5)(torch.randn(2, SIZE), torch.tensor([0, 1]))


@pytest.mark.parametrize("cls", [AAMSoftmax, SubcenterTopkAAMSoftmax])
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("margin", [0.0, 0.2])
def test_gradient_is_finite_where_the_embedding_is_a_centre(cls, sign, margin):
    loss = cls(SIZE, CLASSES, margin=margin)
    with torch.no_grad():
        loss.weight.zero_()[:, 0] = 1.0
        loss.weight[0, 0] = sign
    embedding = torch.zeros(1, SIZE)
    embedding[0, 0] = 2.0
    embedding.requires_grad_()
    loss(embedding, torch.tensor([0]))[0].backward()
    assert embedding.grad.isfinite().all() and loss.weight.grad.isfinite().all()


def test_schedule_moves_both_margins_and_compiles_once(batch):
    loss = SubcenterTopkAAMSoftmax(SIZE, CLASSES, margin=0.3, scale=30.0)
    fresh = SubcenterTopkAAMSoftmax(SIZE, CLASSES, margin=0.1, scale=30.0)
    fresh.load_state_dict(loss.state_dict())
    assert set(loss.state_dict()) == {"weight"}
    loss.set_margin(0.1)
    assert loss(*batch)[0] == fresh(*batch)[0]
    loss.set_margin(0.0)
    plain = SubcenterTopkAAMSoftmax(SIZE, CLASSES, margin=0.0, scale=30.0, k_top=0)
    plain.load_state_dict(loss.state_dict())
    torch.testing.assert_close(loss(*batch)[0], plain(*batch)[0], rtol=1e-6, atol=1e-6)

    counted = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(loss, backend=counted)
    for margin in (0.0, 0.1, 0.2, 0.3):
        loss.set_margin(margin)
        torch.testing.assert_close(compiled(*batch)[0], loss(*batch)[0])
    assert counted.frame_count == 1


def test_large_margin_mode_has_no_penalty(batch):
    loss = SubcenterTopkAAMSoftmax(SIZE, CLASSES, margin=0.5, do_lm=True)
    plain = SubcenterTopkAAMSoftmax(SIZE, CLASSES, margin=0.5, k_top=0)
    plain.load_state_dict(loss.state_dict())
    assert loss(*batch)[0] == plain(*batch)[0]


@pytest.mark.parametrize("cls", [Softmax, AAMSoftmax, SubcenterTopkAAMSoftmax])
def test_label_shapes_batch_of_one_and_no_label(cls, batch):
    loss = cls(SIZE, CLASSES)
    embedding, label = batch
    assert loss(embedding, label)[0] == loss(embedding, label[:, None])[0]
    assert loss(embedding[:1], label[:1, None])[0].isfinite()
    value, accuracy, predictions = loss(embedding)
    assert value is None and accuracy is None and predictions.shape == (40,)
    with torch.autocast("cpu", torch.bfloat16):
        assert loss(embedding.bfloat16(), label)[0].dtype == torch.float32


@pytest.mark.parametrize(
    ("cls", "options", "says"),
    [
        (Softmax, {"nclasses": None}, "spk_num"),
        (AAMSoftmax, {"nclasses": 1}, "at least 2"),
        (AAMSoftmax, {"margin": 2.0}, "margin"),
        (AAMSoftmax, {"scale": 0}, "scale"),
        (SubcenterTopkAAMSoftmax, {"K": 0}, "K must be"),
    ],
)
def test_wrong_options_are_refused(cls, options, says):
    with pytest.raises(UserError, match=says):
        cls(**{"nout": SIZE, "nclasses": CLASSES, **options})
