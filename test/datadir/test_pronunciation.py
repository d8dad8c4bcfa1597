"""The table of phones by word: there and back, and what is no such line."""

import pytest

from espnet_ext.datadir.pronunciation import format_pronunciation, parse_pronunciation, read_pronunciations
from espnet_ext.datadir.tables import write_scp
from espnet_ext.errors import UserError


def test_there_and_back(tmp_path):
    words = [["ð", "ə"], ["tʃ", "iː", "z"]]
    assert format_pronunciation(words) == "ð ə | tʃ iː z"
    write_scp(tmp_path / "utt2pronunciation", {"a": format_pronunciation(words), "b": "x"})
    assert read_pronunciations(tmp_path / "utt2pronunciation") == {"a": words, "b": [["x"]]}


@pytest.mark.parametrize("line", ["", "|", "a |", "| a", "a | | b"])
def test_a_word_without_phones_is_refused(line):
    with pytest.raises(UserError, match=r"table, key u: .* has a word without phones"):
        parse_pronunciation(line, "table, key u")
