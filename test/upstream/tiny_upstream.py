"""Random encoders of any supported type in Hugging Face's format, small enough for a test."""

from pathlib import Path


def save_tiny(folder: Path, kind: str = "hubert", large: bool = False, hidden_size: int = 32, layers: int = 2) -> Path:
    """Write a ``hubert``, ``wav2vec2`` or ``wavlm`` encoder with random weights; ``large``: with its layer norms."""
    import torch
    import transformers

    name = {"hubert": "Hubert", "wav2vec2": "Wav2Vec2", "wavlm": "WavLM"}[kind]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=[16] * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        do_stable_layer_norm=large,
        feat_extract_norm="layer" if large else "group",
        conv_bias=large,
    )
    getattr(transformers, f"{name}Model")(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=large).save_pretrained(folder)
    return Path(folder)
