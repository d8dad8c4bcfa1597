"""From the speakers' folders to data directories; the clips for augmentation; the checksums of everything."""

import hashlib
import json
import os
from pathlib import Path

from corpus.channel import NOISES, RATE_HZ, draw_music, draw_noise, room_response
from corpus.speaker import ROWS, generator
from espnet_ext.audio.io import AudioWriter
from espnet_ext.datadir.tables import write_scp
from espnet_ext.files import atomic_write


def write_tables(folder: Path, speakers: list[Path]) -> None:
    """Write the data directory ``folder`` from the folders of its speakers; ``wav.scp`` holds absolute paths."""
    tables: dict[str, dict[str, str]] = {}
    for speaker in speakers:
        about = json.loads((speaker / ROWS).read_text(encoding="utf-8"))
        for name, rows in about["rows"].items():
            tables.setdefault(name, {}).update(rows)
        utterances = sorted(about["rows"]["utt2spk"])
        tables.setdefault("wav.scp", {}).update({x: str((speaker / f"{x}.flac").resolve()) for x in utterances})
        tables.setdefault("spk2utt", {})[speaker.name] = " ".join(utterances)
        tables.setdefault("spk2gender", {})[speaker.name] = about["gender"]
        tables.setdefault("spk2accent", {})[speaker.name] = about["accent"]
    for name, rows in tables.items():
        write_scp(folder / name, rows)


def write_clips(out: Path, kind: str, num_clips: int, seed: int) -> None:
    """Write the clips of one kind (``noise``, ``music``, ``rirs``) to ``out``/audio/<kind>, and <kind>/wav.scp."""
    paths = {}
    for i in range(num_clips):
        rng = generator(seed, kind, i)
        if kind == "noise":
            name, wav = (
                f"noise-{NOISES[i % len(NOISES)]}-{i:03d}",
                draw_noise(rng, NOISES[i % len(NOISES)], 4 * RATE_HZ),
            )
        elif kind == "music":
            name, wav = f"music-{i:03d}", draw_music(rng, 6 * RATE_HZ)
        else:
            room_m = rng.uniform([2.5, 2.5, 2.3], [10.0, 8.0, 4.0])
            ends = rng.uniform(0.15, 0.85, (2, 3)) * room_m
            name, wav = f"rir-{i:03d}", room_response(room_m, *ends, rt60_s=float(rng.uniform(0.1, 0.6)), max_s=0.3)
        path = out / "audio" / kind / f"{name}.flac"
        with atomic_write(path, "wb", sync=False) as file, AudioWriter(file, path, RATE_HZ) as writer:
            writer.write(wav * (0.5 / abs(wav).max()))
        paths[name] = str(path.resolve())
    write_scp(out / kind / "wav.scp", paths)


def write_sums(out: Path, name: str) -> None:
    """Write to ``name`` the checksums of audio and tables, for ``sha256sum -c``; only wav.scp depends on the folder."""
    sums = {}
    for rows in out.glob(f"audio/*/*/{ROWS}"):
        for audio, value in json.loads(rows.read_text(encoding="utf-8"))["sums"].items():
            sums[os.path.relpath(rows.parent / audio, out)] = value
    tables = [x for x in (*out.glob("train/*"), *out.glob("test/*")) if x.name != "wav.scp"]
    for path in [*out.glob("audio/*/*.flac"), *tables]:
        sums[os.path.relpath(path, out)] = hashlib.sha256(path.read_bytes()).hexdigest()
    with atomic_write(out / name) as file:
        file.writelines(f"{sums[path]}  {path}\n" for path in sorted(sums))
