"""Configs that ESPnet wrote: the same keys, some other meanings where a key is left out."""

from typing import Any

#: ESPnet 202511's defaults where ours differ and the numbers a model gives depend on them.
_ESPNET_DEFAULTS = {"melspec_torch": {"log": False, "normalize": None}}


def is_from_espnet(config: dict[str, Any]) -> bool:
    """True for the config of a training by ESPnet itself: it has ESPnet's stamp, and not our task's ``train_dir``."""
    return "version" in config and "train_dir" not in config


def model_rate_hz(config: dict[str, Any]) -> int:
    """Sampling rate of a model: that of its training crops (ESPnet ignores the key of the same name on top)."""
    return (config.get("preprocessor_conf") or {}).get("sample_rate") or config.get("sample_rate") or 16000


def pools_by_frontend(config: dict[str, Any]) -> bool:
    """True where training gave the pooling the frontend's lengths: ESPnet since 202509, never with raw waveforms.

    Before that it gave none, which for one utterance is what we do; the published voxcelebs12 models are of that time.
    """
    return is_from_espnet(config) and str(config["version"])[:6] >= "202509" and config.get("frontend") is not None


def as_ours(config: dict[str, Any]) -> dict[str, Any]:
    """The config with ESPnet's defaults spelt out where ESPnet wrote it, and unchanged where we did.

    ESPnet's encoders and losses swallow keys that they do not know (``**kwargs``); those are left out.
    """
    if not is_from_espnet(config):
        return config
    from espnet_ext.tasks.config import accepted_keys
    from espnet_ext.tasks.registry import get_task

    config = {"input_size": None} | config
    for choices in get_task("spk").class_choices_list:
        name, key = config.get(choices.name), f"{choices.name}_conf"
        chosen = None if choices.name == "preprocessor" or name is None else choices.get_class(name)
        if chosen is None:
            continue
        known = accepted_keys(chosen)
        given = config.get(key) or {}
        kept = {option: value for option, value in given.items() if known is None or option in known}
        config[key] = _ESPNET_DEFAULTS.get(name, {}) | kept
    return config
