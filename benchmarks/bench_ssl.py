"""HuBERT Base: a training step against torchaudio's as ESPnet 202511 trains it, and units against dump-then-cluster.

Step: forward, backward, clipping and AdamW on the same padded batch with the same masks and, before the first step, the
same weights; both take turns. On utterances of one length, where torchaudio's padding plays no part, the two losses are
equal; that is checked first. MFU counts the products of matrices and the convolutions of valid frames, three times
those of the forward pass (a backward pass has two for each), over the peak of the GPU's bfloat16.

Units: our pass writes ids alone. Peer: layer 6 of torchaudio's HuBERT, utterance by utterance, goes to one .npy as
float32 with a table of lengths and is read again for the nearest centroids, as fairseq's dump_hubert_feature.py and
dump_km_label.py do it, and ESPnet's. Audio, (random) weights and centroids are the same, and so are the ids.
"""

import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import Row, measure

RATE_HZ, UNITS, LAYER = 16000, 500, 6
CPU = {"device": "cpu", "seconds": [8.5, 9.0, 9.5, 10.0], "steps": 3}
GPU = {"device": "cuda", "seconds": [12.0 + 0.25 * n for n in range(8)], "steps": 20}
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense bfloat16, from NVIDIA's data sheets
LABEL_S = {"cpu": 240, "cuda": 7200}


def pair():
    """Our model and ESPnet's, HuBERT Base with a head of 500 units, and the same weights."""
    import torch

    from espnet_ext import compat

    compat.prepare()
    from espnet2.asr.encoder.hubert_encoder import TorchAudioHuBERTPretrainEncoder
    from espnet2.hubert.espnet_model import TorchAudioHubertPretrainModel

    from espnet_ext.ssl.encoder import HubertEncoder
    from espnet_ext.ssl.model import HubertPretraining
    from espnet_ext.ssl.torchaudio_names import torchaudio_state

    torch.manual_seed(0)
    encoder = TorchAudioHuBERTPretrainEncoder(input_size=1, num_classes=UNITS)
    tokens = [str(number) for number in range(UNITS)]
    peer = TorchAudioHubertPretrainModel(UNITS, tokens, None, None, None, None, encoder)
    ours = HubertPretraining(HubertEncoder(), [UNITS])
    theirs = encoder.hubert_pretrain_model
    theirs.load_state_dict(torchaudio_state(ours.state_dict()))
    theirs.mask_generator = GivenMask(theirs.mask_generator.mask_embedding)
    return ours, peer


def GivenMask(embedding):
    """Torchaudio's mask generator with masks that are given: ours are drawn while data are loaded."""
    import torch

    class Generator(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.mask_embedding, self.mask = embedding, None

        def forward(self, x, padding_mask):
            x[self.mask] = self.mask_embedding.to(x.dtype)
            return x, self.mask

    return Generator()


def batch_of(seconds: list[float], device: str) -> dict:
    """Noise of these lengths, with units and masks."""
    import torch

    from espnet_ext.ssl.geometry import Geometry
    from espnet_ext.ssl.masking import mask_spans

    generator, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    lengths = torch.tensor([round(value * RATE_HZ) for value in seconds])
    frames = Geometry().frames(lengths)
    speech = 0.1 * torch.randn(len(seconds), int(lengths.max()), generator=generator)
    units = torch.randint(UNITS, (len(seconds), int(frames.max()), 1), generator=generator)
    mask = torch.zeros(units.shape[:2], dtype=torch.bool)
    for row, count in enumerate(frames.tolist()):
        speech[row, lengths[row] :] = 0
        units[row, count:] = -1
        mask[row, :count] = torch.from_numpy(mask_spans(count, rng))
    batch = {"speech": speech, "units": units, "mask": mask}
    if len(set(seconds)) > 1:
        batch["speech_lengths"] = lengths
    return {name: value.to(device) for name, value in batch.items()}


def loss_of(model, batch: dict):
    """The loss of either model; ESPnet's is a sum over masked frames, ours their mean."""
    if hasattr(model, "heads"):
        return model(**batch)[0]
    units = batch["units"][..., 0]
    model.encoder.hubert_pretrain_model.mask_generator.mask = batch["mask"]
    lengths = batch.get("speech_lengths")
    if lengths is None:
        lengths = units.new_full((len(units),), batch["speech"].shape[1])
    frames = (units >= 0).sum(1)
    return model(batch["speech"], lengths, units.clamp(min=0), frames)[0]


def step_times(device: str, seconds: list[float], steps: int, dtype: str | None) -> dict:
    """Median seconds and peak bytes (GPU) of a training step of both, after one that warms up."""
    import torch

    ours, peer = (model.to(device) for model in pair())
    models = {"ours": ours, "peer": peer}
    same = batch_of([2.0, 2.0], device)
    with torch.no_grad():
        one, other = (float(loss_of(model.eval(), same)) for model in models.values())
    # The same work: ESPnet's loss is ours times the masked frames.
    assert abs(one * int(same["mask"].sum()) - other) < 1e-4 * other, (one, other)
    batch = batch_of(seconds, device)
    optimizers = {
        name: torch.optim.AdamW(model.train().parameters(), lr=5e-5, fused=device == "cuda")
        for name, model in models.items()
    }
    taken: dict[str, list[float]] = {name: [] for name in models}
    peak = dict.fromkeys(models, 0)
    for turn in range(steps + 1):
        for name, model in models.items():
            if device == "cuda":
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
            start = time.perf_counter()
            with torch.autocast(device, dtype=getattr(torch, dtype or "bfloat16"), enabled=dtype is not None):
                loss = loss_of(model, batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizers[name].step()
            optimizers[name].zero_grad()
            assert np.isfinite(loss.item())
            if turn:
                taken[name].append(time.perf_counter() - start)
            if device == "cuda":
                # Both are there all the time: each has its own weights and two moments, 12 bytes per weight.
                own = 12 * sum(parameter.numel() for parameter in model.parameters())
                peak[name] = max(peak[name], torch.cuda.max_memory_allocated() - before + own)
    answer = {"seconds": {name: statistics.median(values) for name, values in taken.items()}, "peak": peak}
    answer["flops"] = step_flops(batch)
    answer["device"] = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return answer


def step_flops(batch: dict) -> float:
    """Operations of a step on valid frames: 2 per multiplication and addition, forward pass times 3."""
    from espnet_ext.ssl.geometry import Geometry

    geometry, size, inner, layers = Geometry(), 768, 3072, 12
    lengths = batch.get("speech_lengths")
    lengths = [batch["speech"].shape[1]] * len(batch["speech"]) if lengths is None else lengths.tolist()
    total = 0.0
    for samples in lengths:
        channels, time_steps = 1, samples
        for kernel, stride in zip(geometry.kernels, geometry.strides, strict=True):
            time_steps = (time_steps - kernel) // stride + 1
            total += time_steps * kernel * channels * 512
            channels = 512
        total += time_steps * (channels * size + 128 * (size // 16) * size)  # projection, positions
        total += layers * time_steps * (4 * size * size + 2 * size * inner + 2 * time_steps * size)
    total += int(batch["mask"].sum()) * (size * 256 + 256 * UNITS)
    return 3 * 2 * total


def write_corpus(folder: Path, total_s: float):
    """A data directory of noise in FLAC, 4 to 16 s each, about ``total_s`` in all; returns its seconds."""
    import soundfile

    from espnet_ext.datadir import DataDir

    rng, done, tables = np.random.default_rng(0), 0.0, {"wav.scp": {}, "utt2spk": {}, "utt2num_samples": {}}
    folder.mkdir(parents=True)
    while done < total_s:
        samples = int(rng.uniform(4, 16) * RATE_HZ)
        utt = f"u{len(tables['wav.scp']):05d}"
        level = 0.05 * (1 + np.sin(2 * np.pi * rng.uniform(1, 6) * np.arange(samples) / RATE_HZ))
        soundfile.write(folder / f"{utt}.flac", level * rng.standard_normal(samples), RATE_HZ)
        for name, value in (("wav.scp", folder / f"{utt}.flac"), ("utt2spk", "s"), ("utt2num_samples", samples)):
            tables[name][utt] = value
        done += samples / RATE_HZ
    DataDir.write(folder / "data", tables)
    return done


def prepare_labels(folder: Path, total_s: float) -> float:
    """Audio, an encoder of random weights and centroids that are frames of it, below ``folder``."""
    import torch

    from espnet_ext.cluster.residual import Codebook
    from espnet_ext.ssl.encoder import HubertEncoder
    from espnet_ext.ssl.features import make_features
    from espnet_ext.ssl.hugging_face import write_folder
    from espnet_ext.ssl.quantizer import Quantizer

    done = write_corpus(folder / "corpus", total_s)
    torch.manual_seed(0)
    write_folder(HubertEncoder(), {}, folder / "hf")
    features = make_features(f"hf:{folder / 'hf'}", [LAYER])
    rng = np.random.default_rng(1)
    frames = np.concatenate([features([rng.standard_normal(8 * RATE_HZ, dtype=np.float32)])[0][0] for _ in range(4)])
    book = Codebook(frames[rng.choice(len(frames), UNITS, replace=False)])
    spec = f"hf:{folder / 'hf'}"
    Quantizer(spec, features.hop, features.field, features.names, features.layers, [book]).save(folder / "centroids")
    return done


def our_labels(folder: str, device: str) -> dict:
    """Units of the corpus in one pass: seconds of it, bytes on the disk."""
    # Imports are not timed, on neither side.
    import safetensors.torch  # noqa: F401

    import espnet_ext.inference.units
    import espnet_ext.ssl.encoder  # noqa: F401
    from espnet_ext.bin.make_units import main

    out = Path(folder) / "units"
    where = ["--data", f"{folder}/corpus/data", "--centroids", f"{folder}/centroids", "--out", str(out)]
    start = time.perf_counter()
    assert main([*where, "--device", device]) == 0
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "bytes": sum(file.stat().st_size for file in out.rglob("*") if file.is_file())}


def peer_labels(folder: str, device: str) -> dict:
    """The same by features on the disk; ids as text, as fairseq writes them."""
    import soundfile
    import torch
    import torchaudio
    from safetensors.torch import load_file

    from espnet_ext.datadir import DataDir
    from espnet_ext.ssl.quantizer import Quantizer
    from espnet_ext.ssl.torchaudio_names import torchaudio_state

    out, data = Path(folder) / "dumped", DataDir(Path(folder) / "corpus" / "data")
    out.mkdir()
    start = time.perf_counter()
    encoder = torchaudio.models.hubert_base().to(device).eval()
    ours = load_file(f"{folder}/hf/model.safetensors")
    state = torchaudio_state({f"encoder.{name}": value for name, value in ours.items()})
    wav2vec2 = "wav2vec2."
    state = {name.removeprefix(wav2vec2): value for name, value in state.items() if name.startswith(wav2vec2)}
    encoder.load_state_dict(state)
    lengths = []
    with open(out / "train.npy", "wb") as file:
        for utt in data.utterances:
            wav, _ = soundfile.read(data.wav_scp[utt], dtype="float32")
            with torch.inference_mode():
                layers, _ = encoder.extract_features(torch.from_numpy(wav)[None].to(device), num_layers=LAYER)
            frames = layers[-1][0].cpu().numpy()
            file.write(frames.tobytes())
            lengths.append(len(frames))
        file.flush()
        os.fsync(file.fileno())
    (out / "train.len").write_text("".join(f"{length}\n" for length in lengths))
    centroids = torch.from_numpy(Quantizer.load(Path(folder) / "centroids").codebooks[0].centroids[0]).to(device)
    table, norms = centroids.T.contiguous(), centroids.square().sum(1)
    dumped = np.memmap(out / "train.npy", dtype=np.float32, mode="r").reshape(-1, centroids.shape[1])
    with open(out / "train.km", "w") as file:
        first = 0
        for length in lengths:
            x = torch.from_numpy(np.array(dumped[first : first + length])).to(device)
            first += length
            ids = (x.square().sum(1, keepdim=True) - 2 * x @ table + norms).argmin(1)
            file.write(" ".join(map(str, ids.tolist())) + "\n")
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "bytes": sum(file.stat().st_size for file in out.iterdir())}


def same_ids(folder: str) -> float:
    """Share of frames at which both found the same unit."""
    from espnet_ext.datadir import DataDir
    from espnet_ext.ssl.units import UnitFolder, read_units

    places = UnitFolder.read(Path(folder) / "units").places()
    lines = (Path(folder) / "dumped" / "train.km").read_text().splitlines()
    same = count = 0
    for utt, line in zip(DataDir(Path(folder) / "corpus" / "data").utterances, lines, strict=True):
        ours, theirs = read_units(places[utt])[:, 0], np.array(line.split(), dtype=int)
        same, count = same + int((ours == theirs).sum()), count + len(theirs)
    return same / count


def label_costs(device: str, total_s: float) -> dict:
    """Seconds and bytes of both ways of making units of the same audio."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        done = prepare_labels(Path(folder), total_s)
        our_labels_first = measure(f"{__file__}:our_labels", folder=folder, device=device).result
        theirs = measure(f"{__file__}:peer_labels", folder=folder, device=device).result
        return {"ours": our_labels_first, "peer": theirs, "seconds": done, "same": same_ids(folder)}


def step_rows(setting: dict, dtype: str | None) -> list[Row]:
    """Rows of a training step."""
    found = measure(f"{__file__}:step_times", **setting, dtype=dtype).result
    seconds = found["seconds"]
    lengths = setting["seconds"]
    what = f"training step, HuBERT Base, {len(lengths)} x {min(lengths):g} to {max(lengths):g} s"
    note = f"{found['device']}, {'bf16' if dtype else 'fp32'}; ESPnet's HuBERT (torchaudio)"
    rows = []
    if setting["device"] == "cuda":
        speed = {name: sum(lengths) * RATE_HZ / value for name, value in seconds.items()}
        peak = next((value for name, value in PEAK_FLOPS.items() if name in found["device"]), None)
        note += "; samples/s " + ", ".join(f"{name} {value / 1e6:.2f} M" for name, value in speed.items())
        if peak:
            note += "; MFU " + ", ".join(f"{n} {100 * found['flops'] / v / peak:.1f} %" for n, v in seconds.items())
        memory = [found["peak"][name] / 2**20 for name in ("ours", "peer")]
        rows.append(Row(f"{what}, GPU memory", *memory, unit="MB", note="weights, moments, gradients and activations"))
    return [Row(what, 1000 * seconds["ours"], 1000 * seconds["peer"], "ms", note), *rows]


def main() -> list[Row]:
    """Return the rows of the table; the GPU's are there where there is one."""
    import torch

    cuda = torch.cuda.is_available()
    rows = step_rows(CPU, None)
    rows += step_rows(CPU, "bfloat16")
    if cuda:
        rows += step_rows(GPU, "bfloat16")
    for device in ["cpu"] + (["cuda"] if cuda else []):
        found = label_costs(device, LABEL_S[device])
        hours = found["seconds"] / 3600
        costs = [found[name]["seconds"] / hours for name in ("ours", "peer")]
        speeds = [60 / value for value in costs]
        what = "units of 1 h of speech, HuBERT Base, layer 6, k=500"
        note = f"dump, then assign; {device}, {speeds[0]:.3g} against {speeds[1]:.3g} h/min"
        rows.append(Row(what, *costs, note=f"{note}; {100 * found['same']:.2f} % of the ids agree"))
        written = [found[name]["bytes"] / hours / 1e6 for name in ("ours", "peer")]
        rows.append(Row(f"{what}, written", *written, unit="MB"))
    return rows


if __name__ == "__main__":
    from run import table

    print(json.dumps({"load": os.getloadavg()}), file=sys.stderr)
    print(table(main()))
    sys.exit(0)
