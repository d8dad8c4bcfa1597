"""Speaker models: frames to one vector per utterance, and the losses that train them."""
