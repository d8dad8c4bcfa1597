"""Tables of phones and words with their times."""

import pytest

from espnet_ext.datadir.alignment import Interval, format_intervals, parse_intervals, read_intervals
from espnet_ext.errors import UserError


def test_round_trip(tmp_path):
    intervals = [Interval("sil", 0.0, 0.25), Interval("a:", 0.25, 1.5), Interval("ʃ", 1.5, 1.5625)]
    text = format_intervals(intervals)
    assert text == "sil:0.000:0.250 a::0.250:1.500 ʃ:1.500:1.562"
    (tmp_path / "utt2phones").write_text(f"utt1 {text}\n", encoding="utf-8")
    back = read_intervals(tmp_path / "utt2phones")["utt1"]
    assert [x.label for x in back] == ["sil", "a:", "ʃ"]
    assert all(
        abs(x - y) < 1e-3 for a, b in zip(back, intervals, strict=True) for x, y in zip(a[1:], b[1:], strict=True)
    )
    assert intervals[1].shifted(0.5) == ("a:", 0.75, 2.0)


@pytest.mark.parametrize("text", ["a", "a:1", "a:x:2"])
def test_what_is_not_a_table_is_named(tmp_path, text):
    with pytest.raises(UserError, match="here.*label:start:end"):
        parse_intervals(text, "here")
