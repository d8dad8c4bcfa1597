"""Shapes of HuBERT that are built and run in no time."""

CONV = {"conv_dim": [8, 12, 12], "conv_kernel": [10, 8, 4], "conv_stride": [5, 8, 8]}
TINY = {
    **CONV,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
LARGE = {**TINY, "feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
# The same numbers at every call, in training too.
NO_CHANCE = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "feat_proj_dropout": 0.0, "layerdrop": 0.0}
# HuBERT's frames, 400 samples every 320, by four layers.
FRAMES_OF_20_MS = {"conv_kernel": [30, 6, 5, 2], "conv_stride": [10, 4, 4, 2]}
