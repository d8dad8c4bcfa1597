"""What a log says about the time that is left."""

import logging

import pytest

from espnet_ext.train.progress import Progress, duration


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (89, "89 s"), (120, "2 min"), (5400, "1 h 30 min"), (360000, "4 d 4 h")]
)
def test_duration_in_words(seconds, words):
    assert duration(seconds) == words


def test_message_extrapolates_the_pace():
    message = Progress(100, epoch=2, max_epoch=4).message(done=25, elapsed_s=50)
    assert message == "25/100 iterations, 2.00 s each, epoch ends in 2 min, training in 9 min"
    assert Progress(None, 1, 4).message(5, 10) == "5/? iterations, 2.00 s each"


def test_a_log_gets_a_line_per_interval(caplog):
    with caplog.at_level(logging.INFO):
        batches = list(Progress(3, 1, 1, interval_s=0).watch(range(3), lambda: ", loss 1.5"))
    assert batches == [0, 1, 2] and len(caplog.records) == 3 and "epoch 1/1: 3/3" in caplog.text
    assert "loss 1.5" in caplog.text
