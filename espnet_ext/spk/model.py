"""The speaker model: waveform -> frontend -> encoder -> pooling -> projector -> embedding, and its training loss."""

import contextlib
from collections.abc import Iterator

import torch
from espnet2.asr.encoder.abs_encoder import AbsEncoder
from espnet2.asr.frontend.abs_frontend import AbsFrontend
from espnet2.asr.specaug.abs_specaug import AbsSpecAug
from espnet2.layers.abs_normalize import AbsNormalize
from espnet2.spk.espnet_model import ESPnetSpeakerModel
from espnet2.spk.loss.abs_loss import AbsLoss
from espnet2.spk.pooling.abs_pooling import AbsPooling
from espnet2.spk.projector.abs_projector import AbsProjector
from espnet2.torch_utils.device_funcs import force_gatherable

from espnet_ext.errors import UserError
from espnet_ext.spk.masking import true_lengths


class SpeakerModel(ESPnetSpeakerModel):
    """ESPnet's speaker model (arXiv 2401.17230, figure 1) whose output does not depend on padding or batch.

    What was wrong in ESPnet 202511: padding reached every part after the frontend; pooling was given the frontend's
    lengths; a batch of one crashed in training.

    frontend: wav (batch, samples) -> (batch, frames, features); None for features computed beforehand.
    encoder, pooling, projector (None for none), loss (None for embedding only): see their modules.
    """

    def __init__(
        self,
        frontend: AbsFrontend | None,
        specaug: AbsSpecAug | None,
        normalize: AbsNormalize | None,
        encoder: AbsEncoder,
        pooling: AbsPooling,
        projector: AbsProjector | None,
        loss: AbsLoss | None,
    ):
        super().__init__(frontend, specaug, normalize, encoder, pooling, projector, loss)

    def forward(
        self,
        speech: torch.Tensor,
        speech_lengths: torch.Tensor | None = None,
        spk_labels: torch.Tensor | None = None,
        extract_embd: bool = False,
        **kwargs,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor] | torch.Tensor:
        """Return ESPnet's (loss, stats, weight) for speech (batch, samples), lengths (batch,), labels (batch[, 1]).

        ``extract_embd`` returns the embedding instead, as ESPnet's own tools ask for it.
        """
        if extract_embd:
            return self.embed(speech, speech_lengths)
        if self.loss is None or spk_labels is None:
            raise UserError("training needs a loss and spk_labels (the utt2spk of the training directory)")
        embedding = self.embed(speech, speech_lengths)
        # A projector may have layers that only the loss sees (SUPERB's x-vector).
        seen = getattr(self.projector, "loss_layers", None)
        loss, accuracy, _ = self.loss(embedding if seen is None else seen(embedding), spk_labels)
        # A copy: with accum_grad ESPnet divides the loss in place, and would report a fraction of it.
        stats = {"loss": loss.detach().clone(), "accuracy": accuracy.detach()}
        return force_gatherable((loss, stats, speech.size(0)), loss.device)

    def embed(self, speech: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """Return embeddings (batch, size), not normalised, of speech (batch, samples) with lengths (batch,) in samples.

        In evaluation mode an utterance gets the same vector alone and in any batch. ``lengths=None`` says that
        nothing is padded; that path has no control flow on data (for export and torch.compile).
        """
        with one_utterance_norms(self, speech.size(0)), exact_convolutions(self, speech):
            lengths = true_lengths(lengths, speech)
            self._refuse_short(speech.size(1) if lengths is None else lengths, self.min_samples, "samples")
            feats, lengths = self.extract_feats(speech, lengths)
            self._refuse_short(feats.size(1) if lengths is None else lengths, self.encoder.min_frames, "frames")
            frames, lengths = self.encoder(feats, lengths)
            pooled = self.pooling(frames, lengths)
            return pooled if self.projector is None else self.projector(pooled)

    @property
    def min_samples(self) -> int:
        """The shortest utterance that this model can embed, in samples (1 where the frontend cannot tell)."""
        samples_for = getattr(self.frontend, "samples_for", None)
        return samples_for(self.encoder.min_frames) if samples_for else 1

    @staticmethod
    def _refuse_short(lengths: torch.Tensor | int, least: int, unit: str) -> None:
        if torch.compiler.is_compiling() or least <= 1:
            return  # an export or a compiled graph has no place for the message
        shortest = int(lengths.min()) if isinstance(lengths, torch.Tensor) else lengths
        if shortest < least:
            raise UserError(
                f"an utterance of {shortest} {unit} is too short for this model, which needs {least}: "
                "drop it, or repeat it until it is long enough"
            )

    def extract_feats(
        self, speech: torch.Tensor, speech_lengths: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return features (batch, frames, size) and their lengths, None when nothing is padded."""
        feats, lengths = speech, speech_lengths
        if self.frontend is not None:
            feats, lengths = self._frontend(speech, speech_lengths)
        if self.specaug is not None and self.training:
            feats, _ = self.specaug(feats, lengths)
        if self.normalize is not None:
            feats, _ = self.normalize(feats, lengths)
        return feats, lengths

    def _frontend(self, speech: torch.Tensor, lengths: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        if lengths is None:
            full = torch.full((speech.size(0),), speech.size(1), dtype=torch.long, device=speech.device)
            return self.frontend(speech, full)[0], None
        if self.training or getattr(self.frontend, "ignores_padding", False):
            return self.frontend(speech, lengths)
        # Frontends that let padding in (ESPnet's own, s3prl): utterances of one length at a time is exact.
        rows: list[torch.Tensor] = [speech] * len(speech)
        for length in lengths.unique().tolist():
            same = (lengths == length).nonzero().flatten()
            feats, _ = self.frontend(speech[same, :length], lengths[same])
            for row, utterance in zip(same.tolist(), feats, strict=True):
                rows[row] = utterance
        sizes = torch.tensor([len(row) for row in rows], device=lengths.device)
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), sizes

    def collect_feats(
        self,
        speech: torch.Tensor,
        speech_lengths: torch.Tensor,
        spk_labels: torch.Tensor | None = None,
        **kwargs,
    ) -> dict[str, torch.Tensor]:
        """Return features and their lengths, for ESPnet's statistics stage."""
        feats, lengths = self.extract_feats(speech, true_lengths(speech_lengths, speech))
        if lengths is None:
            lengths = torch.full((feats.size(0),), feats.size(1), dtype=torch.long, device=feats.device)
        return {"feats": feats, "feats_lengths": lengths}


@contextlib.contextmanager
def exact_convolutions(model: torch.nn.Module, x: torch.Tensor) -> Iterator[None]:
    """Keep cuDNN from TF32 in evaluation: its 10 bits would make an embedding differ by 1e-3 from batch to batch.

    Training keeps TF32, torch's default for convolutions, and its speed.
    """
    if model.training or not x.is_cuda or torch.compiler.is_compiling():
        yield
        return
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=False):
        yield


@contextlib.contextmanager
def one_utterance_norms(model: torch.nn.Module, batch_size: int) -> Iterator[None]:
    """Let batch norms use their running statistics for a training batch of one utterance.

    One vector has no variance, and torch refuses it; the last batch of an epoch may well hold a single utterance.
    """
    norms = []
    if model.training and batch_size == 1:
        kinds = torch.nn.modules.batchnorm._BatchNorm
        norms = [module for module in model.modules() if isinstance(module, kinds) and module.training]
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()
