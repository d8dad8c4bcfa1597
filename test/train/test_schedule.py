"""Learning rate and margin at hand-computed places."""

import math

import pytest
import torch

from espnet_ext.errors import UserError
from espnet_ext.train.schedule import EpochSchedule, MarginSchedule


def rates(steps: int, **conf) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = EpochSchedule(optimizer, iters_per_epoch=10, **conf)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


def test_warmup_then_one_cosine_without_restart():
    lr = rates(40, warmup_epochs=1, num_epochs=4, min_lr=0.1)
    assert lr[:10] == pytest.approx([0.1 + 0.9 * (i + 1) / 10 for i in range(10)])
    assert lr[10:] == pytest.approx([0.1 + 0.9 * (1 + math.cos(math.pi * i / 29)) / 2 for i in range(30)])
    assert lr[-1] == pytest.approx(0.1)


def test_linear_is_a_polynomial_decay_of_power_one():
    """PyTorch's own, whose last step is one later than ours: we are at ``min_lr`` in the last step of the training."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=91, power=1.0)
    expected = []
    for _ in range(92):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    lr = rates(101, shape="linear", num_epochs=10, warmup_epochs=0.8)
    assert lr[:8] == pytest.approx([(i + 1) / 8 for i in range(8)])
    assert lr[8:100] == pytest.approx(expected) and lr[100] == pytest.approx(0)


def test_exponential_and_constant():
    assert rates(20, shape="exponential", num_epochs=2, min_lr=0.01)[-1] == pytest.approx(0.01)
    assert rates(20, shape="exponential", num_epochs=2, min_lr=0.01)[10] == pytest.approx(0.01 ** (10 / 19))
    assert set(rates(20, shape="constant", num_epochs=2)) == {1.0}


def test_cycles_decay_and_stay_low_after_the_end():
    lr = rates(25, num_epochs=2, cycle_epochs=1, cycle_decay=0.5)
    assert lr[0] == 1 and lr[9] == pytest.approx(0) and lr[10] == 0.5 and lr[20:] == pytest.approx([0] * 5)


def test_resume_takes_the_step_and_the_new_length():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = EpochSchedule(optimizer, iters_per_epoch=10, num_epochs=4)
    for _ in range(15):
        optimizer.step()
        schedule.step()
    later = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    longer = EpochSchedule(later, iters_per_epoch=10, num_epochs=8)
    longer.load_state_dict(schedule.state_dict())
    assert later.param_groups[0]["lr"] == pytest.approx((1 + math.cos(math.pi * 15 / 79)) / 2)


def test_margin_is_zero_then_rises_to_its_end():
    margin = MarginSchedule(final=0.2, start_epoch=20, end_epoch=40)
    assert margin(0) == margin(19.9) == 0
    assert margin(30) == pytest.approx(0.2 * (1 - math.sqrt(1e-3)))
    assert margin(40) == margin(99) == 0.2
    assert margin(25) < margin(26)
    assert MarginSchedule(0.4, 0.2, 0, 10, "linear")(5) == pytest.approx(0.3)


@pytest.mark.parametrize(
    "conf",
    [
        {"shape": "sine", "num_epochs": 1},
        {"num_epochs": 2, "warmup_epochs": 2},
        {},
        {"shape": "exponential", "num_epochs": 1},
    ],
)
def test_impossible_schedules_are_one_line(conf):
    with pytest.raises(UserError):
        rates(1, **conf)


def test_impossible_margins_are_one_line():
    with pytest.raises(UserError):
        MarginSchedule(0.2, start_epoch=9, end_epoch=3)
    with pytest.raises(UserError):
        MarginSchedule(0.2, shape="cosine")
