"""Audio in and out. With ``errors``, ``compat`` and ``files`` this is ground: every floor may import it."""

from espnet_ext.audio.reader import (
    AudioError,
    AudioInfo,
    audio_info,
    check_section,
    is_silent,
    open_audio,
    read_audio,
    read_blocks,
    resample,
    resampled_length,
    section_length,
    stream_audio,
)
from espnet_ext.audio.writer import AudioWriter, write_audio

__all__ = [
    "AudioError",
    "AudioInfo",
    "AudioWriter",
    "audio_info",
    "check_section",
    "is_silent",
    "open_audio",
    "read_audio",
    "read_blocks",
    "resample",
    "resampled_length",
    "section_length",
    "stream_audio",
    "write_audio",
]
