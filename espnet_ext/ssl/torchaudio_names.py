"""torchaudio's names for the weights of a pre-training: those of its ``hubert_pretrain_model``."""

from collections.abc import Mapping

import torch

#: How our names begin, and theirs; what follows is the same.
_STARTS = {
    "heads.0.": "logit_generator.",
    "encoder.masked_spec_embed": "mask_generator.mask_embedding",
    "encoder.feature_extractor.": "wav2vec2.feature_extractor.",
    "encoder.feature_projection.": "wav2vec2.encoder.feature_projection.",
    "encoder.encoder.": "wav2vec2.encoder.transformer.",
}


def torchaudio_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a state dict of ``HubertPretraining`` with one head, or a part of it, under torchaudio's names.

    Errors: ``KeyError`` for a weight that torchaudio's model has no place for, such as those of a second head.
    """
    answer = {}
    for name, value in state.items():
        start = next((start for start in _STARTS if name.startswith(start)), None)
        if start is None:
            raise KeyError(name)
        answer[_STARTS[start] + name.removeprefix(start)] = value
    return answer
