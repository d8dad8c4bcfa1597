"""Writing a speaker model as ONNX, and checking the file against the model before it gets its name."""

import contextlib
import io
import logging
import os
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from espnet_ext.errors import UserError
from espnet_ext.inference.spk import SpeakerEmbedder

if TYPE_CHECKING:
    import torch

#: Lengths at which the exported file is tried, and how far its embeddings may be from the model's.
TRIED_S = (0.5, 1.7, 4.0)
MAX_DEVIATION = 1e-4


@dataclass(frozen=True)
class Exported:
    """A finished export."""

    path: Path
    takes_waveform: bool  # else the frontend's features
    deviation: float  # largest 1 - cosine between the file's embeddings and the model's


def export_onnx(embedder: SpeakerEmbedder, out: Path) -> Exported:
    """Write ``out`` with input ``input`` and output ``embedding`` (batch, size), batch and time of any size.

    The input is the waveform (batch, samples) at the model's rate, all of one length, where the frontend can be
    exported (mel, sinc, none); else the frontend's features (batch, frames, features). Metadata: ``rate_hz``,
    ``input``, ``model`` (SHA-256). The file is run by onnxruntime on three lengths and in batches, and refused where
    it strays from the model. ESPnet has no ONNX export of speaker models.

    Errors: ``UserError`` where onnx is not installed, or the model cannot be exported.
    """
    try:
        import onnx
        import onnxruntime  # noqa: F401 (the check below needs it; say so before the work)
    except ImportError as error:
        raise UserError(f"{error.name} is not installed; pip install 'espnet_ext[onnx]'") from error
    import torch

    from espnet_ext.inference.onnx_model import OnnxModel

    model = OnnxModel(embedder.model.cpu()).eval()
    out.parent.mkdir(parents=True, exist_ok=True)
    reasons = []
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as beside:
        path = Path(beside) / "model.onnx"
        # The first is quick, the second knows more: MFA-Conformer's positions need it.
        for write in (_trace, _export):
            try:
                with torch.no_grad(), _quietly():
                    write(model, _inputs(embedder, model, np.zeros(32000, np.float32)), path)
                deviation = _deviation(embedder, model, path)
            except Exception as error:  # whatever either exporter, or the runtime, finds wrong with this model
                reasons.append(" ".join(str(error).split())[:160])
                continue
            if deviation < MAX_DEVIATION:
                table = onnx.load(path)
                facts = {"rate_hz": embedder.rate_hz, "input": "waveform" if model.takes_waveform else "features"}
                facts["model"] = embedder.package.sha256 if embedder.package else ""
                onnx.helper.set_model_props(table, {key: str(value) for key, value in facts.items()})
                onnx.save(table, path)
                os.replace(path, out)
                return Exported(out, model.takes_waveform, deviation)
            reasons.append(f"its embeddings stray from the model's by {deviation:.1g}")
    raise UserError(f"this model cannot be exported to ONNX ({type(model.encoder).__name__}: {reasons[-1]})")


def _inputs(embedder: SpeakerEmbedder, model, wav: np.ndarray) -> "torch.Tensor":
    """What the exported file takes for two copies of ``wav`` (samples,): (2, samples) or (2, frames, features)."""
    import torch

    speech = torch.from_numpy(np.stack([wav, wav]))
    if model.takes_waveform:
        return speech
    with torch.inference_mode():
        lengths = torch.full((2,), speech.size(1), dtype=torch.long)
        return embedder.model.frontend(speech, lengths)[0].clone()


def _trace(model, example: "torch.Tensor", path: Path) -> None:
    import torch

    axes = {"input": {0: "batch", 1: "time"}, "embedding": {0: "batch"}}
    names = {"input_names": ["input"], "output_names": ["embedding"]}
    torch.onnx.export(model, (example,), str(path), dynamo=False, opset_version=17, dynamic_axes=axes, **names)


def _export(model, example: "torch.Tensor", path: Path) -> None:
    import torch

    shapes = ({0: torch.export.Dim("batch"), 1: torch.export.Dim("time", min=20)},)
    names = {"input_names": ["input"], "output_names": ["embedding"], "external_data": False, "verbose": False}
    torch.onnx.export(model, (example,), str(path), dynamo=True, opset_version=18, dynamic_shapes=shapes, **names)


def _deviation(embedder: SpeakerEmbedder, model, path: Path) -> float:
    """Largest 1 - cosine between the file's embeddings and the embedder's, on noise of several lengths, in twos."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    worst = 0.0
    for seconds in TRIED_S:
        wav = (0.1 * rng.standard_normal(round(seconds * embedder.rate_hz))).astype(np.float32)
        expected = embedder(wav)
        for vector in session.run(None, {"input": _inputs(embedder, model, wav).numpy()})[0]:
            cosine = vector @ expected / np.linalg.norm(vector) / np.linalg.norm(expected)
            worst = max(worst, float(1 - cosine))
    return worst


@contextlib.contextmanager
def _quietly():
    """Keep the exporters' remarks (deprecation, missing torchvision, progress) off the screen."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
