"""One file per task: what YAML may choose, where the data come from, and how the model is put together."""

from espnet_ext import compat

compat.prepare()
