"""Speech from espeak-ng, with the times of its phones and words: a ctypes binding to the library in the pip wheel
``espeakng-loader`` (espeak-ng 1.52; the interface is that of its header ``speak_lib.h``).

The library keeps its state in process-wide variables: it is a singleton and not thread-safe. Give every worker its own
process; a second thread that comes in meanwhile gets an error, not wrong sound. What it synthesised before leaks into
the next sound (phase, flutter and noise generators survive ``espeak_Terminate``), so the library is loaded afresh for
every call (0.4 ms), which makes the result a function of the arguments alone.
"""

import _ctypes
import ctypes
import os
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from espnet_ext.audio.espeak_times import PAUSE, Event, align, phone_names
from espnet_ext.datadir.alignment import Interval
from espnet_ext.errors import UserError

__all__ = ["ATTRIBUTES", "PAUSE", "Espeak", "Speech"]

# speak_lib.h: espeak_AUDIO_OUTPUT, espeak_EVENT_TYPE, espeak_PARAMETER, flags.
_SYNCHRONOUS = 2
_INITIALIZE = 0x0001 | 0x0002 | 0x8000  # phoneme events, named in IPA; do not exit the process on an error
_EVENT_END_OF_LIST, _EVENT_WORD, _EVENT_PHONEME = 0, 1, 7
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
_CHARS_UTF8, _END_PAUSE = 1, 0x1000
_POSITION_CHARACTER = 1
_IPA, _SEPARATED_BY_LINE = 0x02, ord("_") << 8  # how espeak_TextToPhonemes writes

_lock = threading.Lock()


@dataclass(frozen=True)
class Speech:
    """What ``Espeak.synthesise`` returns.

    wav: float32 (samples,) in [-1, 1] at ``rate_hz``. phones: IPA labels without stress marks, pauses are ``PAUSE``;
    they follow each other without gap from 0 to the end of the audio. words: one per word of the text, in order.
    """

    wav: np.ndarray
    rate_hz: int
    phones: list[Interval]
    words: list[Interval]


class _EventId(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),  # 1 for the first character
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class Espeak:
    """The synthesiser. Keep one per process.

    ``rate_hz``: sampling rate of the returned audio (espeak's own is 22,050 Hz; soxr resamples).
    Raises UserError where the wheel is missing or has no library for this machine.
    """

    def __init__(self, rate_hz: int = 16000):
        try:
            import espeakng_loader
        except ImportError:
            raise UserError(
                "the wheel espeakng-loader is not installed; mend it with: pip install espeakng-loader"
            ) from None
        self.rate_hz = rate_hz
        self._library_path = espeakng_loader.get_library_path()
        self._data_path = espeakng_loader.get_data_path()
        if not os.path.isfile(self._library_path):
            raise UserError(
                f"the wheel espeakng-loader has no library at {self._library_path}; "
                "mend it with: pip install --force-reinstall espeakng-loader"
            )
        self._language_files = self._find_languages()

    @property
    def languages(self) -> list[str]:
        """Names of all languages and accents, such as ``en-gb-scotland``."""
        return sorted(self._language_files)

    @property
    def variants(self) -> list[str]:
        """Names of all voice variants, such as ``f3``: what may follow the ``+`` of a voice."""
        return sorted(os.listdir(os.path.join(self._data_path, "voices", "!v")))

    def synthesise(
        self,
        text: str,
        voice: str = "en-us",
        pitch: int = 50,
        pitch_range: int = 50,
        rate_wpm: int = 175,
        volume: int = 50,
        attributes: Sequence[str] = (),
        seed: int = 0,
    ) -> Speech:
        """Say ``text`` and return the audio with the times of its phones and words.

        text: words and punctuation. voice: ``language`` or ``language+variant``. pitch, pitch_range: 0 to 99,
        50 is the voice's own. rate_wpm: 80 to 450 words per minute. volume: 1 to 100; some clip above 50.
        attributes: lines of espeak's voice file format that change the voice further, such as
        ``formant 1 110 100 100`` (frequency, height, width in per cent) or ``pitch 90 140`` (Hz).
        seed: of espeak's noise generator. The same arguments give the same samples, whatever was said before.
        Raises UserError for an unknown voice, an attribute of an unknown kind, or a number out of its range.
        """
        language, _, variant = voice.partition("+")
        self._check(language, variant, attributes)
        for name, value, low, high in (
            ("pitch", pitch, 0, 99),
            ("pitch_range", pitch_range, 0, 99),
            ("rate_wpm", rate_wpm, 80, 450),
            ("volume", volume, 1, 100),
        ):
            if not low <= value <= high:
                raise UserError(f"espeak: {name} is {value}; give a number from {low} to {high}")
        if not any(c.isalnum() for c in text):
            raise UserError(f"espeak: the text {text!r} has no word to say; give at least one")
        if not _lock.acquire(blocking=False):
            raise RuntimeError("espeak-ng is in use by another thread of this process; use processes, not threads")
        try:
            parameters = {_PITCH: pitch, _RANGE: pitch_range, _RATE: rate_wpm, _VOLUME: volume}
            samples, own_rate_hz, events, names = self._run(text, language, variant, attributes, parameters, seed)
        finally:
            _lock.release()
        if len(samples) == 0 or not any(event.label for event in events):
            raise UserError(f"espeak-ng says nothing for {text!r} as {voice!r}: the wheel has no dictionary for it")
        duration_s = len(samples) / own_rate_hz
        phones, words = align(text, events, own_rate_hz, duration_s, names)
        wav = samples.astype(np.float32) / 32768
        if self.rate_hz != own_rate_hz:
            import soxr

            wav = np.clip(soxr.resample(wav, own_rate_hz, self.rate_hz, quality="HQ"), -1, 1)
        return Speech(wav, self.rate_hz, phones, words)

    def pronounce(self, text: str, voice: str = "en-us") -> list[list[str]]:
        """Return the phones of every word of ``text``, as ``synthesise`` says them: IPA, no stress marks, no pauses.

        Capitals alone are read as words, not as letters. Of two function words that espeak joins, which may be
        shorter than two, each has its share of the phones. Raises UserError as ``synthesise`` does.
        """
        speech = self.synthesise(text.lower() if text.isupper() else text, voice)
        starts = np.array([word.start_s for word in speech.words])
        words: list[list[str]] = [[] for _ in starts]
        for phone in speech.phones:
            if phone.label != PAUSE:
                words[max(0, int(np.searchsorted(starts, phone.start_s, side="right")) - 1)].append(phone.label)
        return [phones for phones in words if phones]

    def _run(self, text, language, variant, attributes, parameters, seed):
        """Return (int16 samples, sampling rate, events, names of the phones) from a fresh library."""
        pieces: list[bytes] = []
        events: list[Event] = []

        def receive(wav, num_samples, event):
            if wav and num_samples > 0:
                pieces.append(ctypes.string_at(wav, 2 * num_samples))
            i = 0
            while event[i].type != _EVENT_END_OF_LIST:
                e = event[i]
                if e.type in (_EVENT_WORD, _EVENT_PHONEME):
                    # Only the bytes up to the first NUL are the name; a full 8-byte name has none.
                    name = bytes(e.id.string).decode("utf-8", "ignore") if e.type == _EVENT_PHONEME else ""
                    events.append(Event(e.type == _EVENT_WORD, e.text_position - 1, max(e.sample, 0), name))
                i += 1
            return 0

        callback = _Callback(receive)
        library = ctypes.CDLL(self._library_path)
        try:
            library.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]
            rate_hz = library.espeak_Initialize(_SYNCHRONOUS, 0, os.fsencode(self._data_path), _INITIALIZE)
            if rate_hz <= 0:
                raise UserError(f"espeak-ng does not start with the data in {self._data_path}; reinstall the wheel")
            library.espeak_SetSynthCallback(callback)
            library.espeak_ng_SetRandSeed(seed)
            self._set_voice(library, language, variant, attributes)
            for parameter, value in parameters.items():
                library.espeak_SetParameter(parameter, int(value), 0)
            data = text.encode("utf-8")
            status = library.espeak_Synth(
                data, ctypes.c_size_t(len(data) + 1), 0, _POSITION_CHARACTER, 0, _CHARS_UTF8 | _END_PAUSE, None, None
            )
            if status != 0:
                raise RuntimeError(f"espeak_Synth failed with status {status}")
            names = self._write_phones(library, data)
            library.espeak_Terminate()
        finally:
            _ctypes.dlclose(library._handle)
        return np.frombuffer(b"".join(pieces), np.int16), rate_hz, events, names

    def _write_phones(self, library, data: bytes) -> list[str]:
        """Return the phones as espeak writes them: their names in events have 8 bytes at most, and no length."""
        library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        rest, clauses = ctypes.c_char_p(data), []
        while rest.value:
            clause = library.espeak_TextToPhonemes(ctypes.byref(rest), _CHARS_UTF8, _IPA | _SEPARATED_BY_LINE)
            clauses.append(clause.decode("utf-8", "ignore"))
        return phone_names(" ".join(clauses))

    def _set_voice(self, library, language, variant, attributes):
        if not attributes:
            # By its file: espeak does not find every language by the name it declares (en-gb).
            name = self._language_files[language][0] + (f"+{variant}" if variant else "")
            status = library.espeak_SetVoiceByName(name.encode())
        else:
            # A voice of our own is one file: the language's, then the variant's, then our lines; later lines win.
            lines = [self._language_files[language][1]]
            if variant:
                with open(os.path.join(self._data_path, "voices", "!v", variant), encoding="utf-8") as f:
                    keep = [x for x in f.read().splitlines() if x.split()[:1] not in (["name"], ["language"])]
                lines.append("\n".join(keep))
            with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".voice") as f:
                f.write("\n".join([*lines, *attributes, ""]))
                f.flush()
                status = library.espeak_SetVoiceByFile(os.fsencode(f.name))
        if status != 0:
            raise RuntimeError(f"espeak-ng refuses the voice {language}+{variant} with status {status}")

    def _find_languages(self):
        """Map the name of every language to (path below ``lang``, text) of its file: the lines ``language NAME``."""
        found = {}
        top = os.path.join(self._data_path, "lang")
        for folder, _, names in sorted(os.walk(top)):
            for name in sorted(names):
                with open(os.path.join(folder, name), encoding="utf-8") as f:
                    content = f.read()
                declared = [x.split()[1] for x in content.splitlines() if x.startswith("language ")]
                # The first name a file declares is its own, the others are what it may stand in for.
                entry = (os.path.relpath(os.path.join(folder, name), top), content)
                found.setdefault(declared[0] if declared else name.lower(), entry)
                found.setdefault(name.lower(), entry)
        return found

    def _check(self, language, variant, attributes):
        if language not in self._language_files:
            close = [x for x in self.languages if x.split("-")[0] == language.split("-")[0]] or self.languages[:8]
            raise UserError(f"espeak has no voice {language!r}; give one of {', '.join(close)}, …")
        if variant and variant not in self.variants:
            raise UserError(f"espeak has no voice variant {variant!r}; give one of {', '.join(self.variants)}")
        for line in attributes:
            if line.split()[:1] not in [[x] for x in ATTRIBUTES] or "\n" in line:
                known = ", ".join(ATTRIBUTES)
                raise UserError(f"espeak: no voice attribute {line!r}; a line starts with one of {known}")


ATTRIBUTES = (
    "breath",
    "breathw",
    "consonants",
    "echo",
    "flutter",
    "formant",
    "intonation",
    "klatt",
    "pitch",
    "roughness",
    "speed",
    "stressAdd",
    "stressAmp",
    "stressLength",
    "tone",
    "voicing",
    "words",
)
"""Attributes that ``Espeak.synthesise`` accepts (espeak-ng, docs/voices.md)."""
