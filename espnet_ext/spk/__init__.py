"""Speaker models: frames to one vector per utterance, and the losses that train them."""

from espnet_ext import compat

compat.prepare()
