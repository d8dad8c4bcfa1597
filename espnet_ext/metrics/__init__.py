"""Metrics of every task, on numpy arrays; nothing here imports torch."""
