"""Reading, resampling, augmenting audio, and features of it."""
