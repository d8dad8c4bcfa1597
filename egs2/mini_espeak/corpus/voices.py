"""The speakers: what makes a voice one voice, and how much it changes from one utterance to the next.

The standard deviations below were tuned together with those of ``channel.py`` (see README.md): larger between
speakers makes the corpus easier, larger within a speaker harder.
"""

from dataclasses import dataclass

import numpy as np

ACCENTS = ("en-us", "en-us-nyc", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029")
"""espeak's names of the accents of English that the speakers have."""

NUM_FORMANTS = 8


@dataclass(frozen=True)
class Voice:
    """One speaker: the means his utterances spread around.

    formants: float64 (3, 8), per cent of espeak's own frequency, height and width. tone_db: float64 (4,), gain of the
    source at ``_TONE_HZ``. pitch_hz: mean F0. pitch_range: ratio of the highest to the lowest F0.
    """

    gender: str
    accent: str
    pitch_hz: float
    pitch_range: float
    rate_wpm: float
    formants: np.ndarray
    tone_db: np.ndarray
    voicing: int
    consonants: int
    breath: int
    roughness: int
    flutter: int


_TONE_HZ = (300, 1000, 2200, 4000)
_MEAN_PITCH_HZ = {"m": 130.0, "f": 177.0}
_TRACT_SCALE = {"m": 1.01, "f": 1.09}  # all formants of a shorter vocal tract are higher


def draw_voice(rng: np.random.Generator, gender: str) -> Voice:
    """Draw a speaker; ``gender`` is ``m`` or ``f``."""
    scale = _TRACT_SCALE[gender] * np.exp(rng.normal(0, 0.05))
    frequency = 100 * scale * np.exp(rng.normal(0, [0.06, 0.06, 0.06, 0.05, 0.04, 0.04, 0.04, 0.04]))
    height = 100 * np.exp(rng.normal(0, 0.20, NUM_FORMANTS))
    width = 100 * np.exp(rng.normal(0, 0.20, NUM_FORMANTS))
    return Voice(
        gender=gender,
        accent=ACCENTS[rng.integers(len(ACCENTS))],
        pitch_hz=_MEAN_PITCH_HZ[gender] * 2 ** rng.normal(0, 0.22),
        pitch_range=float(rng.uniform(1.25, 1.9)),
        rate_wpm=float(rng.normal(165, 16)),
        formants=np.stack([frequency, height, width]),
        tone_db=rng.normal([0, -1, -3, -5], [0, 2.5, 3.5, 3.5]),
        voicing=int(rng.integers(75, 126)),
        consonants=int(rng.integers(75, 126)),
        breath=int(rng.choice([0, 0, 1, 2, 4])),
        roughness=int(rng.integers(0, 4)),
        flutter=int(rng.integers(1, 7)),
    )


def utterance_voice(voice: Voice, rng: np.random.Generator) -> dict:
    """Draw how the speaker sounds in one utterance: the arguments of ``Espeak.synthesise`` besides the text."""
    pitch_hz = voice.pitch_hz * 2 ** rng.normal(0, 2.5 / 12)
    lively = voice.pitch_range ** rng.uniform(0.5, 1.2)
    frequency, height, width = voice.formants * np.exp(rng.normal(0, [[0.015], [0.04], [0.05]], (3, NUM_FORMANTS)))
    # Vocal effort: a louder voice has a flatter spectrum.
    tone_db = voice.tone_db + rng.normal(0, 4.0) * np.array([0, 0.4, 0.8, 1.0])
    attributes = [f"pitch {pitch_hz / lively**0.5:.0f} {pitch_hz * lively**0.5:.0f}"]
    attributes.append("formant 0 " + " ".join(f"{x[0]:.0f}" for x in (frequency, height, width)))
    attributes += [f"formant {i + 1} {frequency[i]:.0f} {height[i]:.0f} {width[i]:.0f}" for i in range(NUM_FORMANTS)]
    tone = np.clip(255 * 10 ** ((tone_db - max(tone_db.max(), 0)) / 20), 8, 255)
    attributes.append("tone " + " ".join(f"{hz} {a:.0f}" for hz, a in zip(_TONE_HZ, tone, strict=True)))
    attributes += [
        f"voicing {voice.voicing}",
        f"consonants {voice.consonants} {voice.consonants}",
        f"roughness {voice.roughness}",
        f"flutter {voice.flutter}",
    ]
    if voice.breath:
        attributes.append("breath 0 " + " ".join([str(voice.breath)] * 7))
    return {
        "voice": voice.accent,
        "volume": 20,  # no voice clips; channel.py sets the level
        "rate_wpm": int(np.clip(voice.rate_wpm * np.exp(rng.normal(0, 0.10)), 110, 260)),
        "attributes": tuple(attributes),
        "seed": int(rng.integers(1, 2**31)),
    }
