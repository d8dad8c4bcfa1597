"""What we add to ESPnet's Trainer: open-set validation, balanced batches, schedules in epochs, safe checkpoints."""

from espnet_ext import compat

compat.prepare()
