"""Reading YAML that somebody else wrote: plain values only, no tags, no aliases, no end to the patience."""

from pathlib import Path
from typing import Any

from espnet_ext.errors import UserError

#: A config that lists every speaker's files is still far below this.
MAX_BYTES = 10_000_000


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping of plain values.

    Tags such as ``!!python/object`` are refused by the safe loader. Aliases (``*name``) are refused too: ESPnet never
    writes them, and a few lines of them can stand for billions of values.

    Errors: ``UserError`` for a missing, too large, malformed file, or one that is not a mapping.
    """
    import yaml

    class PlainLoader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.events.AliasEvent):
                event = self.peek_event()
                raise yaml.composer.ComposerError(None, None, "aliases are not allowed", event.start_mark)
            return super().compose_node(parent, index)

    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; a model needs the config.yaml that training wrote")
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"{path}: refused, {path.stat().st_size / 1e6:.0f} MB is too large for a config")
    try:
        with open(path, encoding="utf-8") as file:
            value = yaml.load(file, Loader=PlainLoader)  # a subclass of SafeLoader: builds plain values only
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split()) or "nested too deeply"
        raise UserError(f"{path}: refused, not plain YAML: {reason}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds no keys; expected a YAML mapping")
    return value
