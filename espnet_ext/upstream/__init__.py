"""Pretrained self-supervised encoders (Hugging Face, s3prl, torchaudio, files, our own) behind one interface."""

from espnet_ext import compat

compat.prepare()
