"""Pretrained self-supervised encoders (Hugging Face, s3prl) behind ESPnet's frontend interface."""
