"""What units are made from: cepstra, log-mel energies, or hidden layers of an encoder, for whole utterances."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from espnet_ext.audio.mfcc import mel_filters, mfcc
from espnet_ext.errors import UserError
from espnet_ext.ssl.geometry import RATE_HZ

WINDOW, HOP = 400, 160  # 25 ms every 10 ms: the frame 2t begins with the samples of HuBERT's frame t


def deltas(x: np.ndarray, width: int = 2) -> np.ndarray:
    """Return the slope over ``2 width + 1`` frames of x (frames, size), the first and last frame repeated (Kaldi)."""
    padded = np.pad(x, ((width, width), (0, 0)), mode="edge")
    frames = len(x)
    slope = sum(n * (padded[width + n :][:frames] - padded[width - n :][:frames]) for n in range(1, width + 1))
    return (slope / (2 * sum(n * n for n in range(1, width + 1)))).astype(x.dtype)


class Cepstra:
    """13 MFCCs with deltas and their deltas, 39 numbers at 100 Hz: the targets of HuBERT's first iteration.

    Liftered as Kaldi does it (by 22), because distances between cepstra depend on it.
    """

    names = ("mfcc",)
    layers = (None,)
    hop, field = HOP, WINDOW
    _lifter = (1 + 11 * np.sin(np.pi * np.arange(13) / 22)).astype(np.float32)

    def __call__(self, wavs: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
        """Return ``[[frames (T, 39) float32]]`` per utterance (one layer) of waveforms at 16 kHz."""
        answers = []
        for wav in wavs:
            static = mfcc(wav, RATE_HZ, num_ceps=13, num_mels=23) * self._lifter
            first = deltas(static)
            answers.append([np.concatenate((static, first, deltas(first)), axis=1)])
        return answers


class LogMel:
    """80 log-mel energies at 100 Hz."""

    names = ("logmel",)
    layers = (None,)
    hop, field = HOP, WINDOW

    def __call__(self, wavs: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
        """Return ``[[frames (T, 80) float32]]`` per utterance (one layer) of waveforms at 16 kHz."""
        shape, filters = np.hanning(WINDOW), mel_filters(RATE_HZ, 512, 80, 20.0)
        answers = []
        for wav in wavs:
            frames = np.lib.stride_tricks.sliding_window_view(wav, WINDOW)[::HOP]
            power = np.abs(np.fft.rfft(frames * shape, 512)) ** 2
            answers.append([np.log(power @ filters + 1e-10).astype(np.float32)])
        return answers


class Stacked:
    """``count`` neighbouring frames of other features as one, side by side: two of 10 ms are at 50 Hz.

    What is left at the end and fills no stack is dropped. BEST-RQ stacks as many as one frame of its encoder covers
    (arXiv 2202.01855).
    """

    def __init__(self, features: Cepstra | LogMel, count: int):
        self.features, self.count = features, count
        self.names = tuple(f"{name}{count}" for name in features.names)
        self.layers = features.layers
        self.hop, self.field = count * features.hop, features.field + (count - 1) * features.hop

    def __call__(self, wavs: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
        """Return ``[[frames (T, count * size) float32]]`` per utterance (one layer) of waveforms at 16 kHz."""
        answers = []
        for layers in self.features(wavs):
            whole = [frames[: len(frames) // self.count * self.count] for frames in layers]
            answers.append([frames.reshape(-1, self.count * frames.shape[1]) for frames in whole])
        return answers


class HiddenLayers:
    """Layers of an encoder: 0 is the input of the first transformer layer.

    A folder that holds a HuBERT is run by our encoder, anything else by ``espnet_ext.upstream``.
    """

    def __init__(self, spec: str, layers: Sequence[int], device: str = "cpu"):
        from espnet_ext.ssl.hugging_face import read_folder

        self.upstream = read_folder(Path(spec.removeprefix("hf:")).expanduser())
        if self.upstream is None:
            from espnet_ext.upstream.load import load_upstream

            self.upstream = load_upstream(spec, freeze=True).eval()
        self.device = device
        check_layers(spec, layers, self.upstream.num_layers)
        if hasattr(self.upstream, "forget_after"):
            self.upstream.forget_after(max(layers))
        self.upstream.to(device)
        self.layers = tuple(layers)
        self.names = tuple(f"layer{layer}" for layer in layers)
        from espnet_ext.upstream.layers import frame_grid

        self.hop, self.field = frame_grid(self.upstream)

    def __call__(self, wavs: Sequence[np.ndarray]) -> list[list]:
        """Return a list of frames (T, D) per utterance, a tensor on the device for each layer."""
        import torch

        lengths = torch.tensor([len(wav) for wav in wavs])
        speech = torch.zeros(len(wavs), int(lengths.max()))
        for row, wav in zip(speech, wavs, strict=True):
            row[: len(wav)] = torch.from_numpy(wav)
        with torch.inference_mode():
            states, frames = self.upstream.layers(speech.to(self.device), lengths.to(self.device))
        if self.upstream.frames_past_end:  # s3prl's last frames see what no recording holds
            frames = frames.cpu().minimum((lengths - self.field) // self.hop + 1)
        states = [states[layer].float() for layer in self.layers]
        return [[state[row, :count] for state in states] for row, count in enumerate(frames.tolist())]


def check_layers(encoder: str, layers: Sequence[int], num_layers: int) -> None:
    """``UserError`` where ``layers``, at least one, are not among the ``num_layers`` of an encoder, called so."""
    wrong = [layer for layer in layers if not 0 <= layer < num_layers]
    if wrong or not layers:
        raise UserError(
            f"--layers: {encoder} has the layers 0 (input of the first) to {num_layers - 1}; "
            f"{f'there is no {wrong[0]}' if wrong else 'give at least one'}"
        )


def make_features(spec: str, layers: Sequence[int] = (), device: str = "cpu"):
    """Return the features that ``spec`` names: ``mfcc``, ``logmel``, or an encoder as ``load_upstream`` takes it.

    ``logmel:2`` are two neighbouring frames as one, and so for other numbers, and for ``mfcc``.
    """
    kind, stacked, count = spec.partition(":")
    if kind not in ("mfcc", "logmel"):
        return HiddenLayers(spec, layers, device)
    if layers:
        raise UserError(f"--layers is for encoders; features {spec} have none")
    if stacked and not (count.isdecimal() and int(count) > 0):
        raise UserError(f"--features {spec}: {count or 'nothing'} is no number of frames to stack; give {kind}:2")
    features = Cepstra() if kind == "mfcc" else LogMel()
    return Stacked(features, int(count)) if stacked and int(count) > 1 else features


def identity_of(spec: str) -> list[str]:
    """Return what changes whenever the features of ``spec`` may: a checksum of its file, or of all in its folder.

    What is written again with the same content is the same encoder, and its units need not be made again.
    """
    kind, _, rest = spec.partition(":")
    name = {"s3prl": f"s3prl:{rest.partition(':')[0]}:", "units": "units:"}.get(kind, "")
    place = Path(spec.removeprefix(name or "hf:")).expanduser()
    files = []
    if place.is_dir():
        files = [file for file in sorted(place.iterdir()) if file.is_file()]
    elif place.is_file():
        beside = (place.with_name("config.yaml"), place.with_name("config.json"), place.with_suffix(".json"))
        files = [place, *(file for file in beside if file.is_file())]
    return [*([name] if name else []), *(f"{file.name} {_checksum(file)}" for file in files)] if files else [spec]


def _checksum(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
