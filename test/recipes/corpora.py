"""Tiny corpora in official layouts, a copy of the checkout to run recipes in, and their data preparation in Python."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import soundfile

ROOT = Path(__file__).resolve().parents[2]
# Training options that make any ECAPA configuration small enough for a test.
TINY = (
    "--max_epoch 2 --batch_size 8 --num_workers 0 --preprocessor_conf target_duration=0.5 --encoder_conf ndim=16 "
    "--encoder_conf output_size=24 --projector_conf output_size=8"
)


def data_prep(recipe):
    """The module egs2/<recipe>/local/data_prep.py."""
    path = ROOT / "egs2" / recipe / "local" / "data_prep.py"
    spec = importlib.util.spec_from_file_location(recipe.replace("/", "_"), path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def checkout(folder, *recipes):
    """Copy utils/, the templates and recipes to ``folder``, without what was run in them; returns ``folder``."""
    made = shutil.ignore_patterns("data", "dump", "exp", "downloads", "RESULTS.md", "results.json", "__pycache__")
    for name in ("utils", "egs2/TEMPLATE", *(f"egs2/{recipe}" for recipe in recipes)):
        shutil.copytree(ROOT / name, Path(folder) / name, ignore=made)
    return Path(folder)


def run(command, folder):
    """Run a shell command with this Python; returns what it printed, or fails with the end of it."""
    env = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout


def dry_run_readme(recipe):
    """Give every command in the fenced blocks of a recipe's README.md with --dry_run true; returns what each said."""
    blocks = re.findall(
        r"^```\n(.*?)^```$", (recipe / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    told = {}
    for line in "".join(blocks).splitlines():
        command = line.partition(" #")[0].strip()
        ours = command.replace("../../../.venv/bin/espnet_ext", f"'{sys.executable}' -m espnet_ext.bin.main")
        told[command] = run(f"{ours} --dry_run true", recipe)
    return told


def voice(seed, speaker, seconds=1.0, rate_hz=16000):
    """A buzz with the speaker's pitch and three formants, a little different every time: float32 (samples,)."""
    own, rng = np.random.default_rng(1000 + speaker), np.random.default_rng(seed)
    time = np.arange(int(seconds * rate_hz)) / rate_hz
    pitch_hz = own.uniform(80, 250) * rng.uniform(0.95, 1.05)
    phase = 2 * np.pi * np.cumsum(pitch_hz * (1 + 0.05 * np.sin(2 * np.pi * 3 * time + rng.uniform(0, 6)))) / rate_hz
    formants_hz = own.uniform([300, 900, 2000], [900, 1900, 3500])
    wav = np.zeros_like(time)
    for k in range(1, int(4000 / pitch_hz)):
        gain = sum(1 / (1 + ((k * pitch_hz - f) / 120) ** 2) for f in formants_hz)
        wav += gain * np.sin(k * phase + rng.uniform(0, 6))
    wav += 0.02 * rng.standard_normal(len(time))
    return (0.3 * wav / np.abs(wav).max()).astype(np.float32)


def write(path, wav, rate_hz=16000):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wav, rate_hz)


def librispeech(root, parts):
    """LibriSpeech/ below ``root``; parts: {part: {reader: [utterances of each chapter]}}; even readers are women."""
    corpus = Path(root) / "LibriSpeech"
    lines = ["; comment | with | bars", ";ID  |SEX| SUBSET           |MINUTES| NAME"]
    for part, readers in parts.items():
        for reader, chapters in readers.items():
            lines.append(f"{reader:<5}| {'MF'[reader % 2 == 0]} | {part:<17}| 25.19 | Name | With Bar")
            for c, count in enumerate(chapters):
                folder = corpus / part / str(reader) / str(100 * reader + c)
                names = [f"{reader}-{100 * reader + c}-{u:04d}" for u in range(count)]
                for name in names:
                    write(folder / f"{name}.flac", voice(zlib.crc32(name.encode()), reader, 0.5))
                if not part.startswith("train-clean-100"):
                    text = "".join(f"{name} SOME WORDS\n" for name in names)
                    (folder / f"{reader}-{100 * reader + c}.trans.txt").write_text(text)
    (corpus / "SPEAKERS.TXT").write_text("\n".join(lines) + "\n")
    return corpus


def voxceleb(
    root, speakers1=(10001, 10002), test1=(10270, 10271, 10272), speakers2=range(12, 20), videos=3, per_video=2
):
    """vox1/, vox2/, musan/, RIRS_NOISES/ and the lists meta/veri_test*.txt below ``root``."""
    root = Path(root)
    tops = [("vox1/dev/wav", speakers1), ("vox1/test/wav", test1), ("vox2/dev/wav", speakers2)]
    for top, speakers in tops:
        for s in speakers:
            for v in range(videos):
                for u in range(1, per_video + 1):
                    path = root / top / f"id{s:05d}" / f"-v_{v}{s}" / f"{u:05d}.wav"
                    write(path, voice(100 * s + 10 * v + u, s, 1.5))
    files = sorted(p.relative_to(root / "vox1/test/wav") for p in (root / "vox1/test/wav").glob("*/*/*.wav"))
    pairs = [f"{int(a.parts[0] == b.parts[0])} {a} {b}\n" for i, a in enumerate(files) for b in files[:i]]
    (root / "meta").mkdir()
    (root / "meta" / "veri_test.txt").write_text("".join(pairs))
    (root / "meta" / "veri_test2.txt").write_text("".join(pairs[2:]))
    meta = "".join(f"id{s:05d}\tName\t{'mf'[s % 2]}\tUSA\tdev\n" for _, group in tops[:2] for s in group)
    (root / "vox1" / "vox1_meta.csv").write_text("VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\n" + meta)
    rng = np.random.default_rng(0)
    for kind in ("noise", "music", "speech"):
        for i in range(2):
            write(root / "musan" / kind / "somewhere" / f"{kind}-{i:04d}.wav", 0.1 * rng.standard_normal(32000))
    for room in ("smallroom", "mediumroom", "largeroom"):
        rir = np.exp(-np.arange(1600) / 200) * rng.standard_normal(1600)
        write(root / "RIRS_NOISES/simulated_rirs" / room / "Room001" / "Room001-00001.wav", 0.1 * rir)
    return root
