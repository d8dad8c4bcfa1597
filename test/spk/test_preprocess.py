"""Crops and class numbers; the faults of ESPnet's SpkPreprocessor (numpy >= 2.4, no noise_info) cannot come back."""

import numpy as np
import pytest
import soundfile

from espnet_ext.datadir.tables import write_scp
from espnet_ext.errors import UserError
from espnet_ext.spk.preprocess import SpeakerPreprocessor


@pytest.fixture
def spk2utt(tmp_path):
    write_scp(tmp_path / "spk2utt", {"anna": "a1 a2", "ben": "b1", "cleo": "c1"})
    return str(tmp_path / "spk2utt")


def test_crop_and_class_number(spk2utt, tmp_path):
    wav = np.linspace(-0.5, 0.5, 48000, dtype=np.float32)
    soundfile.write(tmp_path / "b1.wav", wav, 16000, subtype="FLOAT")
    preprocess = SpeakerPreprocessor(spk2utt, target_duration=1.5)
    for speech in (str(tmp_path / "b1.wav"), wav, np.stack([wav, wav], axis=1)):
        data = preprocess("b1", {"speech": speech, "spk_labels": "ben"})
        assert data["speech"].shape == (24000,) and data["speech"].dtype == np.float32
        assert np.allclose(np.diff(data["speech"]), np.diff(wav)[0], atol=1e-6)
        assert data["spk_labels"].tolist() == [1] and data["spk_labels"].dtype == np.int64


def test_short_utterance_is_repeated(spk2utt):
    wav = np.arange(5, dtype=np.float32) / 10
    crop = SpeakerPreprocessor(spk2utt, 0.001, 16000)("a1", {"speech": wav, "spk_labels": "anna"})["speech"]
    assert np.array_equal(crop, np.tile(wav, 4)[:16])


def test_other_speeds_are_other_speakers(spk2utt, tmp_path):
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(32000) / 16000)
    soundfile.write(tmp_path / "c1.wav", tone, 16000)
    preprocess = SpeakerPreprocessor(spk2utt, 1.0, speed_factors=[1.0, 0.9, 1.1])
    seen = {}
    for seed in range(30):
        np.random.seed(seed)
        data = preprocess("c1", {"speech": str(tmp_path / "c1.wav"), "spk_labels": "cleo"})
        seen[int(data["spk_labels"][0])] = float(np.argmax(np.abs(np.fft.rfft(data["speech"] * np.hanning(16000)))))
    assert seen == {2: 1000.0, 5: 900.0, 8: 1100.0}


def test_seeded_by_numpy_and_utterance(spk2utt):
    preprocess = SpeakerPreprocessor(spk2utt, 0.01)
    wav = np.random.default_rng(0).standard_normal(16000).astype(np.float32)

    def draw(utt, seed):
        np.random.seed(seed)
        return preprocess(utt, {"speech": wav, "spk_labels": "anna"})["speech"]

    assert np.array_equal(draw("a1", 3), draw("a1", 3))
    assert not np.array_equal(draw("a1", 3), draw("a1", 4))
    assert not np.array_equal(draw("a1", 3), draw("a2", 3))


def test_keys_of_espnet_configurations_are_taken(spk2utt):
    SpeakerPreprocessor(spk2utt, 3.0, sample_rate=16000, num_eval=5, noise_apply_prob=0.0, short_noise_thres=0.5)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"noise_apply_prob": 1.0}, "noise_info"),
        ({"speed_factors": [9.0]}, "speed_factors"),
        ({"target_duration": 0}, "target_duration"),
    ],
)
def test_mistakes_are_one_line(spk2utt, options, says):
    with pytest.raises(UserError, match=says):
        SpeakerPreprocessor(spk2utt, **options)


def test_unknown_speaker_is_named(spk2utt):
    with pytest.raises(UserError, match="no line for speaker 'dora' of utterance 'd1'"):
        SpeakerPreprocessor(spk2utt)("d1", {"speech": np.ones(9, dtype=np.float32), "spk_labels": "dora"})
