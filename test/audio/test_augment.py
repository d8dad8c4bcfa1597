"""Augmentation: the asked SNR, energy and speed are what can be measured in the result."""

import numpy as np
import pytest
import soundfile

from espnet_ext.audio import augment
from espnet_ext.audio.augment import Augmenter, add_noise, change_speed, random_crop, read_crop, reverberate
from espnet_ext.audio.io import AudioError
from espnet_ext.datadir.tables import write_scp
from espnet_ext.errors import UserError

RATE_HZ = 16000


def noise(seed: int, samples: int = RATE_HZ, level: float = 0.1) -> np.ndarray:
    return (level * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def db(power_ratio: float) -> float:
    return 10 * np.log10(power_ratio)


@pytest.fixture
def scp(tmp_path):
    """Return a maker of wav.scp files from lists of waves."""

    def make(name: str, waves: list[np.ndarray], rate_hz: int = RATE_HZ) -> str:
        table = {}
        for i, wav in enumerate(waves):
            path = tmp_path / f"{name}{i}.wav"
            soundfile.write(path, wav, rate_hz, subtype="FLOAT")
            table[f"{name}{i}"] = str(path)
        write_scp(tmp_path / f"{name}.scp", table)
        return str(tmp_path / f"{name}.scp")

    return make


@pytest.mark.parametrize("level", [0.3, 0.003])  # ESPnet's floor of 1e-4 would miss the second by 10 dB
@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 15.0])
def test_noise_has_the_asked_snr(snr_db, level):
    speech = noise(1, level=level)
    added = add_noise(speech, noise(2), snr_db) - speech
    assert db(np.mean(speech.astype(float) ** 2) / np.mean(added.astype(float) ** 2)) == pytest.approx(snr_db, abs=0.05)


def test_a_pause_in_a_noise_file_is_not_blown_up():
    speech = noise(1)
    added = add_noise(speech, noise(2, level=1e-6), 0.0) - speech
    assert db(np.mean(speech**2) / np.mean(added**2)) > 45
    assert not add_noise(np.zeros(100, dtype=np.float32), noise(3, 100), 0.0).any()


def test_babble_mixes_several_files_each_at_its_snr(scp):
    speakers = scp("babble", [noise(10 + i) for i in range(8)])
    mix = Augmenter([[1.0, speakers, [4, 4], [13, 13]]], 1.0)
    speech, rng = noise(1), np.random.default_rng(0)
    measured = []
    for _ in range(40):
        added = mix(speech, rng) - speech
        measured.append(np.mean(added**2) / np.mean(speech**2))
    # Four independent files at 13 dB each add up to 13 - 10 log10(4) dB; the same file drawn twice adds a little more.
    expected = 4 + 4 * 3 / 8
    assert db(1 / np.mean(measured)) == pytest.approx(13 - db(expected), abs=0.4)


def test_snr_is_drawn_from_the_range_and_kinds_by_weight(scp):
    low = scp("low", [noise(5)])
    high = scp("high", [noise(6)])
    mix = Augmenter([[1.0, low, [1, 1], [0, 5]], [3.0, high, [1, 1], [20, 30]]], 0.5)
    speech, rng = noise(1), np.random.default_rng(3)
    snr = []
    for _ in range(400):
        added = mix(speech, rng) - speech
        if added.any():
            snr.append(db(np.mean(speech**2) / np.mean(added**2)))
    snr = np.array(snr)
    assert len(snr) == pytest.approx(200, abs=40)
    assert (((snr > -0.1) & (snr < 5.1)) | ((snr > 19.9) & (snr < 30.1))).all()
    assert np.mean(snr > 10) == pytest.approx(0.75, abs=0.1)


def test_reverberation_is_an_aligned_convolution_of_unit_energy():
    speech = noise(1)
    rir = np.zeros(400, dtype=np.float32)
    rir[100] = 0.5
    assert np.allclose(reverberate(speech, rir), speech, atol=1e-6)
    rir[100:] = 0.5 * np.exp(-np.arange(300) / 60) * np.random.default_rng(0).choice([-1, 1], 300)
    expected = np.convolve(speech, rir / np.sqrt((rir**2).sum()))[np.argmax(np.abs(rir)) :][: len(speech)]
    assert np.allclose(reverberate(speech, rir), expected, atol=1e-5)
    assert db(np.mean(reverberate(speech, rir) ** 2) / np.mean(speech**2)) == pytest.approx(0, abs=0.3)


def test_augmenter_reverberates_with_a_resampled_response(scp):
    rir = np.zeros(80, dtype=np.float32)
    rir[40] = 1.0
    speech = noise(1)
    out = Augmenter(rir_scp=scp("rir", [rir], rate_hz=8000), rir_apply_prob=1.0)(speech, np.random.default_rng(0))
    assert out.shape == speech.shape and out.dtype == np.float32 and not np.array_equal(out, speech)


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_speed_changes_duration_and_pitch(factor):
    tone = np.sin(2 * np.pi * 440 * np.arange(2 * RATE_HZ) / RATE_HZ).astype(np.float32)
    fast = change_speed(tone, factor)
    assert len(fast) == pytest.approx(len(tone) / factor, abs=2)
    spectrum = np.abs(np.fft.rfft(fast * np.hanning(len(fast))))
    assert np.argmax(spectrum) * RATE_HZ / len(fast) == pytest.approx(440 * factor, abs=1)


def test_crop_is_a_piece_of_the_file_and_nothing_else_is_decoded(tmp_path, monkeypatch):
    long = noise(1, 600 * 800)
    soundfile.write(tmp_path / "long.wav", long, 800, subtype="FLOAT")
    asked = []
    plain = augment.read_blocks
    monkeypatch.setattr(augment, "read_blocks", lambda s, p, a, b: asked.append(b - a) or plain(s, p, a, b))
    starts = set()
    for seed in range(20):
        crop = read_crop(tmp_path / "long.wav", 2400, 800, np.random.default_rng(seed))
        start = int(np.flatnonzero(long == crop[0])[0])
        assert np.array_equal(crop, long[start : start + 2400])
        starts.add(start)
    assert len(starts) > 15 and set(asked) == {2400}


def test_short_files_are_repeated_and_other_rates_resampled(tmp_path):
    soundfile.write(tmp_path / "short.wav", noise(1, 700), RATE_HZ, subtype="FLOAT")
    crop = read_crop(tmp_path / "short.wav", 1500, RATE_HZ, np.random.default_rng(0))
    assert np.array_equal(crop, np.tile(noise(1, 700), 3)[:1500])
    assert np.array_equal(random_crop(noise(1, 700), 1500, np.random.default_rng(0)), crop)
    tone = np.sin(2 * np.pi * 300 * np.arange(8000) / 8000)
    soundfile.write(tmp_path / "8k.wav", np.stack([tone, tone], axis=1), 8000, subtype="FLOAT")
    crop = read_crop(tmp_path / "8k.wav", 8000, RATE_HZ, np.random.default_rng(0), speed=1.1)
    assert crop.shape == (8000,)
    assert np.argmax(np.abs(np.fft.rfft(crop * np.hanning(8000)))) * 2 == pytest.approx(330, abs=2)


def test_same_generator_same_result(scp):
    mix = Augmenter([[1.0, scp("n", [noise(5), noise(6)]), [1, 2], [0, 15]]], 0.9)
    one, two = (mix(noise(1), np.random.default_rng(7)) for _ in range(2))
    assert np.array_equal(one, two)


def test_nothing_to_add_means_nothing_added():
    speech = noise(1)
    assert Augmenter()(speech, np.random.default_rng(0)) is speech


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"noise_apply_prob": 1.0}, "noise_info names no files"),
        ({"rir_apply_prob": 0.5}, "rir_scp names no files"),
        ({"noise_info": [[1, "x.scp"]]}, "should be"),
        ({"noise_info": [[1, "x.scp", [3, 1], [0, 1]]]}, "range"),
        ({"noise_info": [[1, "/nowhere.scp", [1, 1], [0, 1]]]}, "/nowhere.scp"),
        ({"noise_info": [[1, "x.scp", [1, 1], [0, 1]]], "noise_apply_prob": 2}, "not a probability"),
    ],
)
def test_mistakes_are_one_line(options, says):
    with pytest.raises(UserError, match=says) as caught:
        Augmenter(**options)
    assert "\n" not in str(caught.value)


def test_a_missing_noise_file_is_named(tmp_path):
    write_scp(tmp_path / "gone.scp", {"n1": str(tmp_path / "gone.wav")})
    mix = Augmenter([[1.0, str(tmp_path / "gone.scp"), [1, 1], [0, 5]]])
    with pytest.raises(AudioError, match=r"gone\.wav"):
        mix(noise(1), np.random.default_rng(0))
