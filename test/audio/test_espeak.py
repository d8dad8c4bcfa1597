"""The binding to espeak-ng: times that fit the sound, parameters that do what they say, the same bytes every time."""

import hashlib
import json
import re
import subprocess
import sys
import threading

import numpy as np
import pytest

import espnet_ext.audio.espeak as module
from espnet_ext.audio.espeak import PAUSE, Espeak
from espnet_ext.errors import UserError

TEXT = "She saw six ships and a fish in the sea, but it was not one of the big ones."


@pytest.fixture(scope="module")
def espeak():
    return Espeak()


def median_f0_hz(wav, rate_hz=16000, low_hz=60, high_hz=400):
    """Independent estimate of F0: the highest peak of the normalised autocorrelation of every loud 50 ms."""
    found = []
    size = rate_hz // 20
    for start in range(0, len(wav) - size, size // 2):
        frame = wav[start : start + size] - wav[start : start + size].mean()
        correlation = np.correlate(frame, frame, "full")[size - 1 :]
        lags = np.arange(rate_hz // high_hz, rate_hz // low_hz)
        best = lags[np.argmax(correlation[lags])]
        if np.abs(frame).max() > 0.05 and correlation[best] > 0.6 * correlation[0]:
            found.append(rate_hz / best)
    return np.median(found)


@pytest.mark.parametrize("voice", ["en-us", "en-gb-scotland+f3", "en-029+m5"])
def test_phones_and_words_cover_the_audio_in_order(espeak, voice):
    speech = espeak.synthesise(TEXT, voice)
    duration_s = len(speech.wav) / speech.rate_hz
    assert speech.rate_hz == 16000 and speech.wav.dtype == np.float32 and np.abs(speech.wav).max() <= 1
    assert speech.phones[0].start_s == 0 and abs(speech.phones[-1].end_s - duration_s) < 1e-3
    for before, after in zip(speech.phones, speech.phones[1:], strict=False):
        assert before.start_s < before.end_s == after.start_s
    for before, after in zip(speech.words, speech.words[1:], strict=False):
        assert before.start_s < before.end_s <= after.start_s
    # Every phone that is not a pause lies in one word.
    for phone in speech.phones:
        inside = [w for w in speech.words if w.start_s <= phone.start_s and phone.end_s <= w.end_s]
        assert len(inside) == (phone.label != PAUSE), phone


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        "one of the men has not been there, to be or not to be.",
        "In 1999 the teacher's dog wasn't there! Was it? Yes; it was -- in the hall.",
        "hello",
    ],
)
def test_words_equal_the_text(espeak, text):
    expected = [w.strip(".,!?;") for w in text.split() if any(c.isalnum() for c in w)]
    assert [w.label for w in espeak.synthesise(text).words] == expected


def test_times_fit_the_sound(espeak):
    """The high-frequency share of hissing phones is largest, and pauses are quietest, at a shift of zero."""
    hiss, quiet = {}, {}
    speech = espeak.synthesise("she saw six ships, and a fish so fresh, see the shop", "en-us")
    for shift_ms in (-60, -30, 0, 30, 60):
        for phone in speech.phones:
            a, b = (max(0, int((t + shift_ms / 1000) * 16000)) for t in phone[1:])
            piece = speech.wav[a:b].astype(float)
            if len(piece) > 100 and phone.label in ("s", "ʃ"):
                hiss.setdefault(shift_ms, []).append(np.mean(np.diff(piece) ** 2) / (np.mean(piece**2) + 1e-9))
            elif len(piece) > 100 and phone.label == PAUSE:
                quiet.setdefault(shift_ms, []).append(np.log(np.mean(piece**2) + 1e-12))
    assert max(hiss, key=lambda k: np.mean(hiss[k])) == 0
    assert min(quiet, key=lambda k: np.mean(quiet[k])) == 0


def test_pitch_changes_f0(espeak):
    f0 = [median_f0_hz(espeak.synthesise(TEXT, "en-us", pitch=p, pitch_range=20).wav) for p in (20, 50, 80)]
    assert f0[0] * 1.1 < f0[1] < f0[2] / 1.1
    low, high = (
        median_f0_hz(espeak.synthesise(TEXT, "en-us", attributes=[f"pitch {a} {b}"]).wav)
        for a, b in ((90, 110), (180, 220))
    )
    assert 85 < low < 115 and 170 < high < 230


def test_rate_volume_and_formants(espeak):
    slow, fast = (len(espeak.synthesise(TEXT, rate_wpm=r).wav) for r in (110, 220))
    assert slow > 1.5 * fast
    soft, loud = (np.std(espeak.synthesise(TEXT, volume=v).wav) for v in (15, 60))
    assert loud > 3 * soft

    def centroid_hz(scale):
        lines = [f"formant {i} {scale} 100 100" for i in range(1, 6)]
        power = np.abs(np.fft.rfft(espeak.synthesise(TEXT, attributes=lines).wav)) ** 2
        hz = np.fft.rfftfreq(2 * len(power) - 2, 1 / 16000)[: len(power)]
        keep = (hz > 200) & (hz < 4000)
        return (hz * power)[keep].sum() / power[keep].sum()

    assert centroid_hz(90) < centroid_hz(115)


def test_voices_differ(espeak):
    wavs = [
        espeak.synthesise("hello there", v).wav for v in ("en-us", "en-us+f3", "en-gb", "en-gb-x-rp", "en-us+klatt2")
    ]
    assert len({w.tobytes() for w in wavs}) == len(wavs)
    assert "en-gb-scotland" in espeak.languages and "m5" in espeak.variants


def test_same_bytes_whatever_was_said_before(espeak):
    """espeak's state survives from call to call (the noise of a whispering voice at least): the binding undoes that."""
    arguments = (TEXT, "en-us+whisper")
    first = espeak.synthesise(*arguments)
    espeak.synthesise("something else", "en-gb+croak")
    again = espeak.synthesise(*arguments)
    assert first.wav.tobytes() == again.wav.tobytes() and first.phones == again.phones
    assert espeak.synthesise(*arguments, seed=5).wav.tobytes() != first.wav.tobytes()
    code = (
        "import hashlib; from espnet_ext.audio.espeak import Espeak; e = Espeak(); e.synthesise('warm up');"
        f"print(hashlib.sha256(e.synthesise({TEXT!r}, 'en-us+whisper').wav.tobytes()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert other == hashlib.sha256(first.wav.tobytes()).hexdigest()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"voice": "xx-nowhere"}, "xx-nowhere"),
        ({"voice": "en-us+nobody"}, "nobody"),
        ({"voice": "en-us+../f3"}, "variant"),
        ({"pitch": 100}, "pitch is 100"),
        ({"rate_wpm": 20}, "rate_wpm"),
        ({"volume": 0}, "volume"),
        ({"attributes": ["dictrules 3"]}, "dictrules"),
        ({"attributes": ["pitch 1 2\nlanguage de"]}, "attribute"),
        ({"text": " ,. "}, "no word"),
        ({"voice": "fo"}, "the wheel has no dictionary"),
    ],
)
def test_wrong_arguments(espeak, arguments, words):
    with pytest.raises(UserError, match=words) as caught:
        espeak.synthesise(**{"text": "hello", **arguments})
    assert "\n" not in str(caught.value)


def test_missing_wheel(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(UserError, match="pip install espeakng-loader"):
        Espeak()


def test_a_second_thread_is_refused(espeak):
    """Wrong sound would be worse than an error."""
    caught = []

    def speak():
        try:
            espeak.synthesise("hello")
        except RuntimeError as error:
            caught.append(str(error))

    with module._lock:
        thread = threading.Thread(target=speak)
        thread.start()
        thread.join()
    assert "use processes" in caught[0]


def test_pronounce_is_what_is_said_word_by_word(espeak):
    words = espeak.pronounce("THE CAT SAW IT")
    assert words == espeak.pronounce("the cat saw it") and len(words) == 4
    assert words[1] == ["k", "æ", "t"]
    spoken = [phone.label for phone in espeak.synthesise(TEXT).phones if phone.label != PAUSE]
    assert [phone for word in espeak.pronounce(TEXT) for phone in word] == spoken
    assert not set("ˈˌ ") & set("".join(spoken))
    with pytest.raises(UserError, match="has no word to say"):
        espeak.pronounce("…")


# Marks that espeak has as phones of their own: softness, length (which its events leave out), nasality of a diphthong.
MARKED = {
    "ru": "говорить пять счастье люблю",
    "lt": "labas rytas ačiū",
    "be": "добры дзень",
    "ga": "Dia duit",
    "fi": "hyvää päivää",
    "ar": "السلام عليكم",
    "it": "gli gnocchi",
    "pt": "não obrigado pão",
    "hi": "घर भारत खाना",
    "pl": "cześć dziękuję życie",
    "en-us": "one of the butter bottles in the church fell by itself, a pearl and a swan over an urn",
}
WRITTEN = """
import ctypes, json, os, sys, espeakng_loader
library = ctypes.CDLL(espeakng_loader.get_library_path())
library.espeak_Initialize(2, 0, os.fsencode(espeakng_loader.get_data_path()), 0x8000)
library.espeak_TextToPhonemes.restype = ctypes.c_char_p
answers = {}
for voice, text in json.loads(sys.argv[1]).items():
    assert library.espeak_SetVoiceByName(voice.encode()) == 0
    rest, answers[voice] = ctypes.c_char_p(text.encode()), ""
    while rest.value:
        answers[voice] += library.espeak_TextToPhonemes(ctypes.byref(rest), 1, 2 | ord("_") << 8).decode() + " "
print(json.dumps(answers))
"""


def test_phones_are_those_that_espeak_separates(espeak):
    """Its own output with a separator (espeak-ng --ipa --sep=_), from another process: rʲ is one phone, not two."""
    code = [sys.executable, "-c", WRITTEN, json.dumps(MARKED)]
    written = json.loads(subprocess.run(code, capture_output=True, text=True, check=True).stdout)
    for voice, text in MARKED.items():
        said = [phone for word in espeak.pronounce(text, voice) for phone in word]
        assert said == re.findall("[^ _ˈˌ]+", written[voice]), voice
    assert {"rʲ", "pʲ"} <= set(re.findall("[^ _ˈˌ]+", written["ru"])) and "æː" in written["fi"]


def test_words_of_another_language_leave_no_trace_of_its_name(espeak):
    words = espeak.pronounce("пять hello мать", "ru")
    assert words[1] == ["h", "ə", "l", "əʊ"] and [len(word) for word in words] == [3, 4, 3]
