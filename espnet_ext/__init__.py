"""ESPnet for the work that ESPnet does not do yet: tasks, models and tools behind the recipes under ``egs2``."""

__version__ = "0.1.0"
