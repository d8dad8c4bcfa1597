"""Parts of a training set: nested, of the size asked for, with every speaker's share."""

from collections import Counter

import numpy as np
import pytest

from espnet_ext.bin.subset_data_dir import main
from espnet_ext.datadir.directory import DataDir
from espnet_ext.datadir.fractions import nested_fraction, take_fraction
from espnet_ext.errors import UserError

# 30 speakers with 3 to 40 utterances.
COUNTS = {f"s{n:02d}": int(count) for n, count in enumerate(np.random.default_rng(0).integers(3, 41, 30))}
UTT2SPK = {f"{speaker}-{k:02d}": speaker for speaker, count in COUNTS.items() for k in range(count)}
FRACTIONS = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)


@pytest.mark.parametrize("by", ["utterance", "speaker"])
def test_smaller_parts_lie_in_larger_ones(by):
    parts = [set(nested_fraction(UTT2SPK, fraction, by, seed=3)) for fraction in FRACTIONS]
    assert all(small < large for small, large in zip(parts, parts[1:], strict=False))
    assert parts[-1] == set(UTT2SPK)
    assert parts[1] != set(nested_fraction(UTT2SPK, 0.2, by, seed=4))


@pytest.mark.parametrize("fraction", FRACTIONS)
def test_by_utterance_everybody_gives_the_same_share(fraction):
    part = nested_fraction(UTT2SPK, fraction)
    assert len(part) == len(set(part)) == round(fraction * len(UTT2SPK))
    taken = Counter(UTT2SPK[utt] for utt in part)
    assert set(taken) == set(COUNTS)
    # Within one of the share, but for the one utterance that nobody loses.
    assert all(abs(taken[s] - fraction * n) <= 1 or taken[s] == 1 for s, n in COUNTS.items())


def test_by_speaker_whole_speakers_stay():
    for fraction, speakers in ((0.01, 2), (0.2, 6), (0.5, 15), (1, 30)):
        taken = Counter(UTT2SPK[utt] for utt in nested_fraction(UTT2SPK, fraction, "speaker"))
        assert len(taken) == speakers and all(taken[s] == COUNTS[s] for s in taken)


@pytest.mark.parametrize(
    ("fraction", "by", "says"),
    [(0, "utterance", "above 0"), (1.5, "speaker", "at most 1"), (0.01, "utterance", "than the 30"), (0.5, "x", "'x'")],
)
def test_what_cannot_be_taken_is_refused(fraction, by, says):
    with pytest.raises(UserError, match=says):
        nested_fraction(UTT2SPK, fraction, by)


def test_command_writes_a_data_directory(tmp_path, capsys):
    source = DataDir.write(
        tmp_path / "all", {"utt2spk": UTT2SPK, "wav.scp": {utt: f"/nowhere/{utt}.wav" for utt in UTT2SPK}}
    )
    assert main(["--fraction", "0.4", "--seed", "3", str(source.path), str(tmp_path / "part")]) == 0
    part = DataDir(tmp_path / "part")
    assert set(part.utt2spk) == set(part.wav_scp) == set(nested_fraction(UTT2SPK, 0.4, seed=3))
    assert set(part.spk2utt) == set(COUNTS)
    assert main(["--fraction", "0.4", "--by", "speaker", str(source.path), str(tmp_path / "speakers")]) == 0
    assert len(DataDir(tmp_path / "speakers").spk2utt) == 12
    capsys.readouterr()
    assert main(["--fraction", "0.01", str(source.path), str(tmp_path / "few")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and str(source.path) in error and not (tmp_path / "few").exists()


def test_the_whole_is_a_fraction_too(tmp_path):
    source = DataDir.write(tmp_path / "all", {"utt2spk": UTT2SPK, "wav.scp": dict.fromkeys(UTT2SPK, "x.wav")})
    assert set(take_fraction(source.path, tmp_path / "one", 1.0).utt2spk) == set(UTT2SPK)
