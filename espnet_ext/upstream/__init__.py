"""Pretrained self-supervised encoders (Hugging Face, s3prl) behind ESPnet's frontend interface."""

from espnet_ext import compat

compat.prepare()
