"""What other packages need before they can be imported here: quickly, quietly, and with today's versions.

Nothing happens when this module is imported. ``prepare()`` is called by the packages that use ``espnet2``, and
``prepare_s3prl()`` by whoever is about to import ``s3prl``; both may be called any number of times.
"""

import builtins
import importlib
import importlib.machinery
import sys
import types
import warnings
from contextlib import contextmanager

# Modules that ESPnet imports although hardly any run needs them: adapters bring all of transformers (2.5 s), attention
# plots a TTS aligner with numba and scipy.stats (0.7 s), and g2p_en tries to download NLTK data.
_DEFERRED = {
    "espnet2.layers.create_adapter": "create_adapter",
    "espnet2.main_funcs.calculate_all_attentions": "calculate_all_attentions",
    "g2p_en": "G2p",
}
_NOISE = ("Failed to import Flash Attention",)


def prepare() -> None:
    """Make ``import espnet2.tasks.abs_task`` quick and silent; what is left out is imported when it is first called."""
    for module, function in _DEFERRED.items():
        if module not in sys.modules:
            sys.modules[module] = _deferred(module, function)
    # Both are said once per process by the versions that constraints.txt pins, and neither is the user's doing.
    warnings.filterwarnings("ignore", message=".*torch.cuda.amp.*", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*before.*optimizer.step.*", category=UserWarning)


def _deferred(module: str, function: str) -> types.ModuleType:
    stand_in = types.ModuleType(module, f"Stands for {module} until {function}() is called.")
    stand_in.__spec__ = importlib.machinery.ModuleSpec(module, None)  # transformers looks whether g2p_en has one

    def call(*args, **kwargs):
        if sys.modules.get(module) is stand_in:
            del sys.modules[module]
        with quiet():
            real = importlib.import_module(module)
        return getattr(real, function)(*args, **kwargs)

    setattr(stand_in, function, call)
    return stand_in


@contextmanager
def quiet():
    """Drop the lines that ESPnet prints while it is imported (flash attention is optional and never installed here)."""
    shown = builtins.print

    def without_noise(*args, **kwargs):
        if not (args and str(args[0]).startswith(_NOISE)):
            shown(*args, **kwargs)

    builtins.print = without_noise
    try:
        yield
    finally:
        builtins.print = shown


def prepare_s3prl() -> None:
    """Give torchaudio the two names that s3prl 0.4.18 expects and torchaudio 2.9 removed; the encoders use neither."""
    import torchaudio

    if not hasattr(torchaudio, "set_audio_backend"):
        torchaudio.set_audio_backend = lambda backend: None
    if "torchaudio.sox_effects" not in sys.modules and not hasattr(torchaudio, "sox_effects"):
        sox_effects = types.ModuleType("torchaudio.sox_effects", "Removed from torchaudio; here so that s3prl imports.")

        def apply_effects_tensor(*_args, **_kwargs):
            raise RuntimeError("torchaudio no longer has sox effects; use espnet_ext.audio.augment")

        sox_effects.apply_effects_tensor = apply_effects_tensor
        sox_effects.apply_effects_file = apply_effects_tensor
        sys.modules["torchaudio.sox_effects"] = torchaudio.sox_effects = sox_effects
