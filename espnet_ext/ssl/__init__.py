"""Masked pre-training on waveforms (HuBERT): encoder, span masks, targets as streams of units, and their loss."""

from espnet_ext import compat

compat.prepare()
