"""Trained models at work: one class per task, made by ``from_pretrained``, called on a wav."""
