"""Speaker embeddings of audio of any kind, and the decision whether two recordings are of one speaker."""

import argparse
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from espnet_ext.audio.io import AudioError, is_silent
from espnet_ext.errors import UserError
from espnet_ext.inference.clips import Clip, as_clip
from espnet_ext.inference.decision import Decision, Verification
from espnet_ext.inference.plan import crops, plan_batches, repeat_to, windows
from espnet_ext.inference.published import as_ours, model_rate_hz, pools_by_frontend
from espnet_ext.options import check_device
from espnet_ext.zoo.package import Package, read_files, resolve
from espnet_ext.zoo.tensors import load_tensors

if TYPE_CHECKING:
    import torch

#: Clips shorter than this are repeated up to it, as short clips are in training: the longest encoder context is 0.16 s.
MIN_CLIP_S = 0.25
#: Seconds of audio per batch. On a CPU small batches stay in its caches: a small ECAPA takes 5.8 ms for 3 s of audio in
#: batches of 15 s and 8.5 ms in batches of 120 s. A GPU wants to be filled.
CPU_BATCH_S, GPU_BATCH_S = 15.0, 120.0


class SpeakerEmbedder:
    """A trained speaker model.

        embedder = SpeakerEmbedder.from_pretrained("exp/spk_train_ecapa")  # or a zip, or a Hugging Face tag
        vector = embedder("hello.flac")             # float32 (E,), not normalised
        embedder.verify("a.wav", "b.wav")           # Verification(score, llr, same_speaker, …)

    Audio is a path (any format, rate and channel count) or an array with its rate; it is mixed down and resampled. The
    vector does not depend on what else is in the batch. Audio longer than ``max_window_s`` is cut into the fewest
    windows of equal length that are not longer, read one after the other, and the vector is the mean of the windows'
    vectors, silent windows left out; memory is bounded by ``batch_s`` and the window, not by the file.
    """

    def __init__(
        self,
        model: "torch.nn.Module",
        device: str = "cpu",
        rate_hz: int = 16000,
        max_window_s: float = 60.0,
        batch_s: float | None = None,
        decision: Decision | None = None,
        package: Package | None = None,
    ):
        self.device = check_device(device)
        self.model = model.eval().to(self.device)
        self.rate_hz, self.max_window_s = rate_hz, max_window_s
        self.batch_s = batch_s or (CPU_BATCH_S if device == "cpu" else GPU_BATCH_S)
        self.decision = decision or Decision()
        self.package = package

    @classmethod
    def from_pretrained(
        cls, source: str | Path, device: str = "cpu", weights: str | None = None, **options: Any
    ) -> "SpeakerEmbedder":
        """Load a Hugging Face tag, an experiment folder, an unpacked package or a zip (ours or ESPnet's).

        ``weights`` chooses a checkpoint of an experiment folder; ``options`` are those of the constructor.
        Errors: ``UserError`` for a model that is missing, broken or hostile, or whose weights do not fit its config.
        """
        return cls.of(resolve(source, weights), device, **options)

    @classmethod
    def from_files(
        cls, config: str | Path, weights: str | Path, device: str = "cpu", **options: Any
    ) -> "SpeakerEmbedder":
        """Load ``config.yaml`` and weights of a training, wherever they lie."""
        return cls.of(read_files(config, weights), device, **options)

    @classmethod
    def of(cls, package: Package, device: str = "cpu", **options: Any) -> "SpeakerEmbedder":
        """Load a package that has been found already."""
        device = check_device(device)
        return cls(
            build_model(package),
            device,
            model_rate_hz(package.config),
            decision=Decision.of(package),
            package=package,
            **options,
        )

    def __call__(self, audio: Any, rate_hz: int | None = None) -> np.ndarray:
        """Embed one path or array (``rate_hz``: its rate, None for the model's): float32 ``(E,)``."""
        return self.embed([audio], rate_hz)[0]

    def embed(self, audios: Sequence[Any], rate_hz: int | None = None) -> np.ndarray:
        """Embed many paths or arrays: float32 ``(N, E)``, whole utterances."""
        return self._in_order([as_clip(audio, rate_hz, self.rate_hz) for audio in audios], 0, 0.0)

    def embed_crops(
        self, audios: Sequence[Any], num_crops: int = 4, crop_s: float = 8.0, rate_hz: int | None = None
    ) -> np.ndarray:
        """Embed ``num_crops`` evenly spaced crops of each audio: float32 ``(N, num_crops, E)`` (ESPnet-SPK's way)."""
        return self._in_order([as_clip(audio, rate_hz, self.rate_hz) for audio in audios], num_crops, crop_s)

    def verify(self, audio_a: Any, audio_b: Any, rate_hz: int | None = None) -> Verification:
        """Tell whether two recordings are of one speaker, by the calibration that came with the model."""
        return self.decision.verify(*self.embed([audio_a, audio_b], rate_hz))

    def _in_order(self, clips: Sequence[Clip], num_crops: int, crop_s: float) -> np.ndarray:
        if not clips:
            raise UserError("there is nothing to embed: the list of audios is empty")
        done = {index: vector for index, vector, _ in self.stream(clips, num_crops, crop_s)}
        return np.stack([done[index] for index in range(len(clips))])

    def stream(
        self, clips: Sequence[Clip], num_crops: int = 0, crop_s: float = 8.0, skip_broken: bool = False
    ) -> Iterator[tuple[int, np.ndarray | None, UserError | None]]:
        """Embed clips batch by batch, similar lengths together; yields (index, vector, None) in the order of the work.

        The vector is ``(E,)``, or ``(num_crops, E)`` where ``num_crops`` > 0. A broken clip raises its ``AudioError``,
        or with ``skip_broken`` yields (index, None, error). The next batch is read while one is computed.
        """
        crop = round(crop_s * self.rate_hz)
        limit = max(round(self.max_window_s * self.rate_hz), crop if num_crops else 0)
        lengths = [max(clip.num_samples, round(MIN_CLIP_S * self.rate_hz)) for clip in clips]
        cost = [num_crops * crop if num_crops else length for length in lengths]
        short = [index for index, length in enumerate(lengths) if length <= limit]
        plan = plan_batches([cost[index] for index in short], round(self.batch_s * self.rate_hz))
        batches = [[short[place] for place in batch] for batch in plan]
        with ThreadPoolExecutor(1) as reader:
            ahead = [reader.submit(self._read, [clips[i] for i in batch], skip_broken) for batch in batches[:1]]
            for number, batch in enumerate(batches):
                wavs = ahead.pop().result()
                if number + 1 < len(batches):
                    ahead.append(reader.submit(self._read, [clips[i] for i in batches[number + 1]], skip_broken))
                whole = [index for index, wav in zip(batch, wavs, strict=True) if isinstance(wav, np.ndarray)]
                good = [wav for wav in wavs if isinstance(wav, np.ndarray)]
                yield from zip(whole, self._embed_short(good, num_crops, crop), itertools.repeat(None))
                yield from ((i, None, wav) for i, wav in zip(batch, wavs, strict=True) if isinstance(wav, UserError))
        for index, length in enumerate(lengths):
            if length > limit:
                try:
                    spans = crops(length, num_crops, crop) if num_crops else windows(length, limit)
                    vector = self._embed_long(clips[index], spans, average=not num_crops)
                    yield index, vector, None
                except UserError as error:
                    if not skip_broken:
                        raise
                    yield index, None, error

    def _read(self, clips: Iterable[Clip], skip_broken: bool) -> list[np.ndarray | UserError]:
        wavs: list[np.ndarray | UserError] = []
        for clip in clips:
            try:
                wav = clip.read()
                if is_silent(wav):
                    raise AudioError(f"{clip.name}: silent (below -80 dB), there is nothing to embed")
                wavs.append(repeat_to(wav, round(MIN_CLIP_S * self.rate_hz)))
            except UserError as error:
                if not skip_broken:
                    raise
                wavs.append(error)
        return wavs

    def _embed_short(self, wavs: list[np.ndarray], num_crops: int, crop: int) -> Iterable[np.ndarray]:
        if not wavs:
            return []
        if not num_crops:
            return self._forward(wavs)
        long = [repeat_to(wav, crop + 1) if len(wav) < crop else wav for wav in wavs]
        pieces = [wav[start:stop] for wav in long for start, stop in crops(len(wav), num_crops, crop)]
        return self._forward(pieces).reshape(len(wavs), num_crops, -1)

    def _embed_long(self, clip: Clip, spans: list[tuple[int, int]], average: bool) -> np.ndarray:
        """Embed spans of a long clip, as many at a time as fit ``batch_s``, at least one; a mean leaves out silence."""
        longest = max(stop - start for start, stop in spans)
        size = max(1, int(self.batch_s * self.rate_hz / longest))
        vectors = []
        for first in range(0, len(spans), size):
            wavs = [clip.read(start, stop) for start, stop in spans[first : first + size]]
            wavs = [wav for wav in wavs if not (average and is_silent(wav))]
            vectors += list(self._forward(wavs)) if wavs else []
        if not vectors:
            raise AudioError(f"{clip.name}: silent (below -80 dB), there is nothing to embed")
        return self._average(np.stack(vectors)) if average else np.stack(vectors)

    def _average(self, vectors: np.ndarray) -> np.ndarray:
        """The vector (E,) of a long clip from those of its windows (windows, E), which are equally long."""
        return vectors.mean(axis=0)

    def _forward(self, wavs: list[np.ndarray]) -> np.ndarray:
        """Embed a batch of arrays at the model's rate: float32 ``(B, E)``."""
        import torch

        lengths = torch.tensor([len(wav) for wav in wavs])
        speech = torch.zeros(len(wavs), int(lengths.max()))
        for row, wav in zip(speech, wavs, strict=True):
            row[: len(wav)] = torch.from_numpy(np.ascontiguousarray(wav, dtype=np.float32))
        try:
            with torch.inference_mode():
                vectors = self.model.embed(speech.to(self.device), lengths.to(self.device))
        except torch.OutOfMemoryError as error:
            seconds = speech.numel() / self.rate_hz
            raise UserError(
                f"a batch of {seconds:.0f} s does not fit {self.device}; make batches smaller (--max_batch_s)"
            ) from error
        return vectors.float().cpu().numpy()


def build_model(package: Package) -> "torch.nn.Module":
    """Build the model that a package's config describes and fill it with the package's tensors.

    Every weight has to find its place, save those of the training loss: ESPnet 202511 skips what does not fit and goes
    on with random numbers.
    """
    from espnet_ext.tasks.registry import get_task

    try:
        model = get_task("spk").build_model(argparse.Namespace(**as_ours(package.config)))
    except (AttributeError, TypeError, ValueError, KeyError, AssertionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{package.name}: its config describes no speaker model: {reason}") from error
    state = load_tensors(package.weights)
    names = model.state_dict().keys()
    if any(name.startswith("frontend.upstream.upstream.model") for name in names):
        # Models published before ESPnet 0a625088 name their s3prl upstream one level higher.
        old = re.compile(r"^frontend\.upstream\.model")
        state = {old.sub("frontend.upstream.upstream.model", name): value for name, value in state.items()}
    try:
        missing, unknown = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise UserError(f"{package.name}: the weights do not fit the config: {reason}") from error
    missing = [name for name in missing if not name.startswith("loss.")]
    unknown = [name for name in unknown if not name.startswith("loss.")]
    if missing or unknown:
        words = [f"{len(missing)} missing ({missing[0]}, …)"] if missing else []
        words += [f"{len(unknown)} unknown ({unknown[0]}, …)"] if unknown else []
        raise UserError(f"{package.name}: the weights do not fit the config: {', '.join(words)}")
    if pools_by_frontend(package.config):
        from espnet_ext.inference.espnet_pooling import FrontendLengthPooling

        model.pooling = FrontendLengthPooling(model.pooling, model.encoder)
    return model
