"""Training against ESPnet 202511: a step of the same ECAPA-TDNN on the same batch, and crops out of long files.

Both models have the same weights and take turns, so that a busy machine slows both. A step is forward, backward and
Adam. ESPnet decodes a whole file before its preprocessor crops it; the crop itself costs nothing.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import Row, measure

CPU = {"device": "cpu", "ndim": 256, "batch": 16, "crop_s": 2.0, "steps": 8}
GPU = {"device": "cuda", "ndim": 1024, "batch": 128, "crop_s": 3.0, "steps": 20}
PARTS = {"melspec_torch": {"log": True, "normalize": "mn"}, "classes": 1000, "embedding": 192}
FILES, FILE_S, RATE_HZ = 20, 120, 16000


def build(package: str, ndim: int):
    """Make mel + ECAPA + attentive pooling + AAM of ``espnet2`` or of ``espnet_ext``."""
    from espnet_ext import compat

    compat.prepare()
    from espnet2.spk.projector.rawnet3_projector import RawNet3Projector

    if package == "espnet2":
        from espnet2.asr.frontend.melspec_torch import MelSpectrogramTorch as Frontend
        from espnet2.spk.encoder.ecapa_tdnn_encoder import EcapaTdnnEncoder as Encoder
        from espnet2.spk.espnet_model import ESPnetSpeakerModel as Model
        from espnet2.spk.loss.aamsoftmax import AAMSoftmax as Loss
        from espnet2.spk.pooling.chn_attn_stat_pooling import ChnAttnStatPooling as Pooling
    else:
        from espnet_ext.audio.features import MelFrontend as Frontend
        from espnet_ext.spk.encoders import EcapaTdnnEncoder as Encoder
        from espnet_ext.spk.losses import AAMSoftmax as Loss
        from espnet_ext.spk.model import SpeakerModel as Model
        from espnet_ext.spk.pooling import ChnAttnStatPooling as Pooling
    frontend = Frontend(n_mels=80, **PARTS["melspec_torch"])
    encoder = Encoder(frontend.output_size(), ndim=ndim, output_size=3 * ndim // 2)
    pooling = Pooling(encoder.output_size())
    projector = RawNet3Projector(pooling.output_size(), PARTS["embedding"])
    loss = Loss(PARTS["embedding"], PARTS["classes"], margin=0.2, scale=30)
    return Model(frontend, None, None, encoder, pooling, projector, loss)


def step_times(device: str, ndim: int, batch: int, crop_s: float, steps: int) -> dict[str, float]:
    """Return the least seconds of a training step of both, and ours with bf16 (and torch.compile on a GPU)."""
    import torch

    torch.manual_seed(0)
    speech = torch.randn(batch, round(crop_s * RATE_HZ), device=device) * 0.1
    labels = torch.randint(PARTS["classes"], (batch, 1), device=device)
    models = {"peer": build("espnet2", ndim), "ours": build("espnet_ext", ndim)}
    models["ours"].load_state_dict(models["peer"].state_dict())
    kinds = {"peer": None, "ours": None}
    if device == "cuda":
        models["ours bf16"], models["ours bf16 compiled"] = (build("espnet_ext", ndim) for _ in range(2))
        models["ours bf16 compiled"].encoder.compile()
        kinds.update({"ours bf16": torch.bfloat16, "ours bf16 compiled": torch.bfloat16})
    optimizers = {}
    for name, model in models.items():
        model.to(device).train()
        optimizers[name] = torch.optim.Adam(model.parameters(), lr=1e-4)
    losses = {name: [] for name in models}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(steps + 2):
        for name, model in models.items():
            if device == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            with torch.autocast(device, dtype=kinds[name], enabled=kinds[name] is not None):
                loss = model(speech=speech, spk_labels=labels)[0]
            loss.backward()
            optimizers[name].step()
            optimizers[name].zero_grad()
            losses[name].append(loss.item())
            if turn >= 2:  # the first two warm up
                seconds[name].append(time.perf_counter() - start)
    # The same work: the first losses of the same weights on the same batch agree.
    assert abs(losses["ours"][0] - losses["peer"][0]) < 1e-3 * abs(losses["peer"][0]), losses
    return {name: min(values) for name, values in seconds.items()}


def write_files(folder: str) -> list[str]:
    """Write noise as FLAC, 2 minutes each."""
    import soundfile

    rng = np.random.default_rng(0)
    paths = []
    for number in range(FILES):
        paths.append(str(Path(folder) / f"{number}.flac"))
        soundfile.write(paths[-1], (0.1 * rng.standard_normal(FILE_S * RATE_HZ)).astype(np.float32), RATE_HZ)
    return paths


def crop_times(folder: str) -> dict[str, float]:
    """Return the seconds per 3 s crop out of a 2-minute FLAC: ours and ESPnet's (whole file, then the crop)."""
    import soundfile

    from espnet_ext.audio.augment import read_crop

    paths = write_files(folder)
    samples, rng = 3 * RATE_HZ, np.random.default_rng(0)

    def peer(path: str) -> np.ndarray:
        audio, _ = soundfile.read(path, dtype="float32")
        start = int(rng.random() * (len(audio) - samples))
        return audio[start : start + samples]

    def per_file(read) -> float:
        start = time.perf_counter()
        for path in paths:
            assert len(read(path)) == samples
        return (time.perf_counter() - start) / len(paths)

    per_file(peer)  # the files are in the page cache for both
    return {"peer": per_file(peer), "ours": per_file(lambda path: read_crop(path, samples, RATE_HZ, rng))}


def main() -> list[Row]:
    """Return the rows of the table; the GPU's are there where there is one."""
    import torch

    rows = []
    for setting in [CPU] + ([GPU] if torch.cuda.is_available() else []):
        seconds = measure(f"{__file__}:step_times", **setting).result
        what = f"training step, ECAPA C={setting['ndim']}, {setting['batch']} x {setting['crop_s']:g} s"
        where = (
            torch.cuda.get_device_name() if setting["device"] == "cuda" else f"CPU, {torch.get_num_threads()} threads"
        )
        for name, value in seconds.items():
            if name != "peer":
                note = f"{where}{name.removeprefix('ours').replace(' ', ', ', 1)}"
                rows.append(Row(what, 1000 * value, 1000 * seconds["peer"], "ms", note))
    with tempfile.TemporaryDirectory() as folder:
        seconds = measure(f"{__file__}:crop_times", folder=folder).result
    rows.append(Row("3 s crop from a 2-minute FLAC", 1000 * seconds["ours"], 1000 * seconds["peer"], "ms"))
    return rows


if __name__ == "__main__":
    from run import table

    print(table(main()))
    sys.exit(0)
