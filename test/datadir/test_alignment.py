"""Tables of phones and words with their times."""

import pytest

from espnet_ext.datadir.alignment import Interval, format_intervals, parse_intervals, read_intervals, read_textgrid
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


@pytest.mark.parametrize("text", ["a:1:0.5", "a:0:1 b:2:3 c:1:2", "a:nan:1", "a:0:inf", "a:0:nan"])
def test_times_go_on(text):
    with pytest.raises(UserError, match="here: .* ends before it starts, or starts before what stands before it"):
        parse_intervals(text, "here")
    assert len(parse_intervals("a:-0.01:0.5 b:0.5:0.5 c:0.5:1", "here")) == 3


LONG = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 1.5
tiers? <exists>
size = 3
item []:
    item [1]:
        class = "TextTier"
        name = "events"
        xmin = 0
        xmax = 1.5
        points: size = 1
        points [1]:
            number = 0.5
            mark = "click"
    item [2]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = 1.5
        intervals: size = 2
        intervals [1]:
            xmin = 0
            xmax = 1e-1
            text = ""
        intervals [2]:
            xmin = 1e-1
            xmax = 1.5
            text = "say ""3"" = 4"
    item [3]:
        class = "IntervalTier"
        name = "phones"
        xmin = 0
        xmax = 1.5
        intervals: size = 2
        intervals [1]:
            xmin = 0
            xmax = 0.25
            text = ""
        intervals [2]:
            xmin = 0.25
            xmax = 1.5
            text = "AH0"
"""
SHORT = """File type = "ooTextFile"
Object class = "TextGrid"

0
1.5
<exists>
1
"IntervalTier"
"phones"
0
1.5
2
0
0.25
""
0.25
1.5
"AH0"
"""


@pytest.mark.parametrize("text", [LONG, SHORT], ids=["long", "short"])
def test_textgrid_in_both_forms(tmp_path, text):
    (tmp_path / "a.TextGrid").write_text(text)
    assert read_textgrid(tmp_path / "a.TextGrid") == [("", 0.0, 0.25), ("AH0", 0.25, 1.5)]
    if text is LONG:
        assert read_textgrid(tmp_path / "a.TextGrid", "words") == [("", 0.0, 0.1), ('say "3" = 4', 0.1, 1.5)]


@pytest.mark.parametrize(
    "text, message",
    [
        ("1 2 3", "is no TextGrid"),
        (SHORT[:-25], "ends in the middle"),
        (SHORT.replace('"phones"', '"words"'), "has no tier 'phones' of intervals; it has words"),
        (LONG[: LONG.index('"IntervalTier"')], "ends in the middle"),
    ],
)
def test_a_broken_textgrid_is_one_line(tmp_path, text, message):
    (tmp_path / "a.TextGrid").write_text(text)
    with pytest.raises(UserError, match=message):
        read_textgrid(tmp_path / "a.TextGrid")
