"""i-vectors: utterances per second beside the arithmetic they need, and every training step against Kaldi itself.

The peer needs Kaldi's shared libraries, which the wheel of kaldi-active-grammar carries (never installed with us):

    pip download --no-deps kaldi-active-grammar && unzip -q kaldi_active_grammar-*.whl -d kaldi
    KALDI_LIBS=kaldi/kaldi_active_grammar.libs [LIBRISPEECH=/data/LibriSpeech] python benchmarks/run.py bench_ivector

``ivector_kaldi.cc`` is compiled against them (g++). With LIBRISPEECH both are trained on the unlabelled training part
of ``egs2/mini_librispeech`` and scored on its test trials across chapters: same features, same sizes, mean subtraction
and cosine. KALDI_EER_SIZE="128 100" chooses Gaussians and dimensions.
"""

import glob
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import Row, best_time, measure

HERE = Path(__file__).resolve().parent
SIZES = ((128, 100, 0), (2048, 400, 20))  # Gaussians, dimensions, Gaussians evaluated per frame (0: all)
SECONDS, FRAMES, DIM = 8, 600, 60  # of an utterance: 8 s, three quarters of them voiced
TRAIN = {"gaussians": 64, "rank": 50, "utterances": 200, "frames": 300}


def gflop(gaussians: int, rank: int, selected: int) -> float:
    """Multiplications and additions per utterance: alignment, statistics, L, its Cholesky factor."""
    square = DIM * (DIM + 1)
    align = 2 * gaussians * (square / 2 + DIM) if not selected else 4 * gaussians * DIM + 2 * selected * DIM**2
    solve = gaussians * rank * (rank + 1) + 2 * gaussians * DIM * rank + rank**3 / 3
    return (FRAMES * (align + 2 * gaussians * DIM) + solve) / 1e9


def random_system(gaussians: int, rank: int, device: str):
    """A mixture whose components are about as far apart as those of speech, and a total variability model."""
    import torch

    from espnet_ext.ivector.extractor import TotalVariability
    from espnet_ext.ivector.gmm import Gmm

    generator = torch.Generator().manual_seed(0)
    root = torch.randn(gaussians, DIM, DIM, generator=generator, dtype=torch.float64) / 8
    means = 0.7 * torch.randn(gaussians, DIM, generator=generator, dtype=torch.float64)
    gmm = Gmm(torch.full((gaussians,), 1 / gaussians).double(), means, root @ root.mT + torch.eye(DIM).double())
    t = 0.1 * torch.randn(gaussians, DIM, rank, generator=generator, dtype=torch.float64)
    return gmm.to(device), TotalVariability(gmm.means, gmm.covariances, t).to(device)


def extraction(gaussians: int, rank: int, selected: int, utterances: int, device: str, with_features: bool) -> float:
    """Seconds to extract the i-vectors of so many utterances, from audio or from features in memory."""
    from espnet_ext.ivector.features import FeatureConfig
    from espnet_ext.ivector.gmm import Aligner
    from espnet_ext.ivector.statistics import statistics

    gmm, model = random_system(gaussians, rank, device)
    aligner = Aligner(gmm, selected, 0.025)
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(FRAMES, DIM)).astype(np.float32) for _ in range(utterances)]
    wavs = rng.normal(0, 0.1, (utterances, SECONDS * 16000)).astype(np.float32)
    features = FeatureConfig()

    def run():
        if with_features:
            for wav in wavs:
                features(wav)
        for first in range(0, utterances, 32):
            n, f = statistics(aligner, x[first : first + 32])
            model.posterior(n.float(), model.centre(n, f).float()).w.cpu()

    run()
    return best_time(run)


def write_features(path: Path, utterances: int, frames: int) -> None:
    """Draw frames from the mixture, moved by every utterance, in the format of ivector_kaldi.cc."""
    rng = np.random.default_rng(0)
    gmm, model = random_system(TRAIN["gaussians"], 5, "cpu")
    with open(path, "wb") as file:
        file.write(np.int32(utterances).tobytes())
        for _ in range(utterances):
            component = rng.integers(len(gmm), size=frames)
            means = model.means.numpy() + model.t.numpy() @ rng.normal(size=5)
            x = means[component] + rng.normal(size=(frames, DIM))
            file.write(np.int32(frames).tobytes() + x.astype(np.float32).tobytes())


def read_features(path: str) -> list[np.ndarray]:
    """What ``write_features`` wrote."""
    data = np.fromfile(path, dtype=np.int32)
    found, place = [], 1
    for _ in range(data[0]):
        frames = int(data[place])
        found.append(data[place + 1 : place + 1 + frames * DIM].view(np.float32).reshape(frames, DIM))
        place += 1 + frames * DIM
    return found


def our_steps(path: str, gaussians: int, rank: int) -> dict:
    """Seconds of one iteration, or of one pass over the utterances, of every step; one thread."""
    import torch

    from espnet_ext.ivector.extractor import Accumulator, TotalVariability, maximise
    from espnet_ext.ivector.gmm import Aligner, Statistics
    from espnet_ext.ivector.gmm import maximise as maximise_mixture
    from espnet_ext.ivector.statistics import statistics
    from espnet_ext.ivector.ubm import UbmConfig, start

    torch.set_num_threads(1)
    utterances = read_features(path)
    x = torch.from_numpy(np.concatenate(utterances)).double()
    floor = 1e-4 * x.var(0)
    gmm = start(x, UbmConfig(num_gaussians=gaussians, init_iterations=3, diagonal_iterations=0), floor)
    seconds = {}

    def timed(step, function):
        begin = time.perf_counter()
        result = function()
        seconds[step] = time.perf_counter() - begin
        return result

    diagonal = gmm.diagonal()
    timed("diagonal", lambda: maximise_mixture(diagonal, Statistics.of(Aligner(diagonal), x), floor, False))
    gmm, _, _ = timed("full", lambda: maximise_mixture(gmm, Statistics.of(Aligner(gmm), x), floor, True))
    aligner = Aligner(gmm, 0, 0.025)
    second = torch.zeros_like(gmm.products(gmm.means))
    n, f = timed("align", lambda: statistics(aligner, utterances, second))
    t = 0.1 * torch.randn(gaussians, DIM, rank, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def iteration(model):
        total = Accumulator.empty(model)
        total.accumulate(model, n, f)
        return maximise(model, total, second, floor)[0]

    model = timed("extractor", lambda: iteration(TotalVariability(gmm.means, gmm.covariances, t)))

    def extract():
        n, f = statistics(aligner, utterances)
        return model.posterior(n.float(), model.centre(n, f).float()).w

    timed("extract", extract)
    return seconds


def compile_kaldi(folder: Path) -> Path:
    """Compile ivector_kaldi.cc against the libraries in KALDI_LIBS."""
    libraries = os.path.abspath(os.environ["KALDI_LIBS"])
    names = [glob.glob(f"{libraries}/libkaldi-{name}-*.so")[0] for name in ("ivector", "gmm", "util", "matrix", "base")]
    program = folder / "ivector_kaldi"
    flags = ["-O2", "-std=c++14", "-D_GLIBCXX_USE_CXX11_ABI=0", "-Wl,--allow-shlib-undefined"]
    subprocess.run(["g++", *flags, str(HERE / "ivector_kaldi.cc"), "-o", str(program), *names], check=True)
    return program


def kaldi(program: Path, *words) -> dict[str, float]:
    """Run it on one thread; mean seconds of every step."""
    env = {**os.environ, "LD_LIBRARY_PATH": os.path.abspath(os.environ["KALDI_LIBS"]), "OPENBLAS_NUM_THREADS": "1"}
    command = [str(program), *map(str, words)]
    said = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    found: dict[str, list[float]] = {}
    for line in said.stdout.splitlines():
        step, value = line.split()
        found.setdefault(step, []).append(float(value))
    return {step: float(np.mean(values)) for step, values in found.items()}


def eer(vectors: dict[str, np.ndarray], mean: np.ndarray, trials: Path) -> float:
    """EER in percent of cosines after subtracting ``mean``."""
    from espnet_ext.datadir import read_trials
    from espnet_ext.metrics.detection import RankedTrials

    listed = read_trials(trials)
    unit = {utt: (v - mean) / np.linalg.norm(v - mean) for utt, v in vectors.items()}
    scores = np.array([unit[a] @ unit[b] for a, b in zip(listed.enroll, listed.test, strict=True)])
    return 100 * RankedTrials(scores, np.asarray(listed.labels)).curve().eer()


def real_rows(program: Path, folder: Path) -> list[Row]:
    """Both systems on mini LibriSpeech: EER of the test trials across chapters."""
    import kaldiio

    from espnet_ext.datadir import DataDir
    from espnet_ext.ivector.features import FeatureConfig
    from espnet_ext.ivector.frames import read_features as features_of

    python = [sys.executable, "-m"]
    prepare = HERE.parent / "egs2" / "mini_librispeech" / "spk1" / "local" / "data_prep.py"
    data = folder / "data"
    words = ("--corpus", os.environ["LIBRISPEECH"], "--out", data)
    subprocess.run([sys.executable, *map(str, (prepare, *words))], check=True, stdout=sys.stderr)
    trials = ("--data", data / "test", "--out", data / "test" / "trials", "--cross_session", "true")
    subprocess.run([*python, "espnet_ext.bin.make_trials", *map(str, trials)], check=True, stdout=sys.stderr)
    names: dict[str, list[str]] = {}
    for name in ("train", "test"):
        source = DataDir(data / name)
        found = list(features_of(source, source.utterances, FeatureConfig(), False, {}))
        names[name] = [utt for utt, _ in found]
        with open(folder / name, "wb") as file:
            file.write(np.int32(len(found)).tobytes())
            for _, x in found:
                file.write(np.int32(len(x)).tobytes() + np.ascontiguousarray(x).tobytes())
    both = (folder / "train").read_bytes()[4:] + (folder / "test").read_bytes()[4:]
    (folder / "all").write_bytes(np.int32(sum(map(len, names.values()))).tobytes() + both)
    gaussians, rank = map(int, os.environ.get("KALDI_EER_SIZE", "128 100").split())
    kaldi(program, folder / "train", folder / "all", folder / "peer", gaussians, rank, 4, 10, 0, "1.0")
    peer = np.fromfile(folder / "peer.1.0.ivectors").reshape(-1, rank)
    peer_vectors = dict(zip(names["train"] + names["test"], peer, strict=True))
    calls = [
        ("train_ubm", "--data", data / "train", "--out", folder / "ubm", "--num_gaussians", gaussians),
        ("train_ivector_extractor", "--data", data / "train", "--ubm", folder / "ubm", "--out", folder / "iv")
        + ("--dim", rank, "--posterior_scale", 1.0),
        *(
            ("extract_ivectors", "--data", data / name, "--extractor", folder / "iv", "--out", folder / f"iv_{name}")
            for name in names
        ),
    ]
    for call in calls:
        subprocess.run([*python, f"espnet_ext.bin.{call[0]}", *map(str, call[1:])], check=True, stdout=sys.stderr)
    ours = {name: dict(kaldiio.load_scp(str(folder / f"iv_{name}" / "embedding.scp")).items()) for name in names}
    mean = np.mean(list(ours["train"].values()), axis=0)
    return [
        Row(
            f"EER across chapters, mini LibriSpeech, {gaussians} Gaussians, {rank}-d, posterior scale 1",
            eer(ours["test"], mean, data / "test" / "trials"),
            eer(peer_vectors, peer[: len(names["train"])].mean(0), data / "test" / "trials"),
            unit="%",
            note="peer: Kaldi's libraries on the same features; one seed",
        )
    ]


def main() -> list[Row]:
    """All rows that this machine can give."""
    rows = []
    for gaussians, rank, selected in SIZES:
        utterances = 64 if gaussians < 1000 else 16
        options = {"gaussians": gaussians, "rank": rank, "selected": selected, "utterances": utterances}
        work = f"{gflop(gaussians, rank, selected):.2f} GFLOP per utterance"
        what = f"{gaussians} Gaussians, {rank}-d: i-vector of {SECONDS} s"
        for device, with_features in [("cpu", True), ("cpu", False)] + [("cuda", False)] * has_cuda():
            options["utterances"] = utterances * (16 if device == "cuda" else 1)
            ran = measure(f"{__file__}:extraction", device=device, with_features=with_features, **options)
            one_s = ran.result / options["utterances"]
            part = "features, alignment, solution" if with_features else "alignment, solution"
            note = f"{1 / one_s:,.0f} utterances/s; {work}"
            rows.append(Row(f"{what}, {device}: {part}", 1e3 * one_s, unit="ms", note=note))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = {"gaussians": TRAIN["gaussians"], "rank": TRAIN["rank"]}
        write_features(folder / "x", TRAIN["utterances"], TRAIN["frames"])
        ours, peer, program = measure(f"{__file__}:our_steps", path=str(folder / "x"), **sizes).result, {}, None
        if os.environ.get("KALDI_LIBS"):
            program = compile_kaldi(folder)
            peer = kaldi(program, folder / "x", folder / "x", folder / "out", *sizes.values(), 1, 2, 0, "1.0")
        names = {
            "diagonal": "diagonal EM iteration",
            "full": "full-covariance EM iteration",
            "align": "alignment and statistics",
            "extractor": "total variability EM iteration",
            "extract": "extraction",
        }
        size = f"{TRAIN['utterances']} x {TRAIN['frames']} frames, {sizes['gaussians']} Gaussians, {sizes['rank']}-d"
        note = "peer: Kaldi, one thread each" if peer else "no peer: KALDI_LIBS is not set"
        rows += [Row(f"{size}: {text}", ours[step], peer.get(step), note=note) for step, text in names.items()]
        if program and os.environ.get("LIBRISPEECH"):
            rows += real_rows(program, folder)
    return rows


def has_cuda() -> bool:
    """Whether torch sees a GPU."""
    import torch

    return torch.cuda.is_available()


if __name__ == "__main__":
    for row in main():
        print(row, row.ratio)
