"""ESPnet's ``ClassChoices``, with classes imported only when they are chosen."""

import importlib

from espnet2.train.class_choices import ClassChoices

from espnet_ext import compat
from espnet_ext.errors import UserError


class LazyChoices(ClassChoices):
    """The values of one YAML key, each a class or ``"module:Class"`` that is imported when it is chosen.

    ESPnet imports every class of every key to build its parser, which costs seconds and fails where one optional
    dependency is missing; and its ``get_class`` finds a name in capitals in its test but not in its look-up. A
    class from outside joins by ``choices.classes["name"] = Class`` (lower case) before the parser is built.
    """

    def __init__(self, name: str, classes: dict[str, type | str], default: str | None = None, optional: bool = False):
        super().__init__(name, {}, default=default, optional=optional)
        self.classes = {key.lower(): value for key, value in classes.items()}

    def get_class(self, name: str | None) -> type | None:
        """Return the class for ``name`` (None for none); ``UserError`` names the missing package or the choices."""
        if name is None or (self.optional and name.lower() in ("none", "null", "nil")):
            return None
        target = self.classes.get(name.lower())
        if target is None:
            raise UserError(f"{self.name}: {name!r} is not one of {', '.join(self.classes)}")
        if isinstance(target, str):
            module, _, attribute = target.partition(":")
            try:
                with compat.quiet():
                    target = getattr(importlib.import_module(module), attribute)
            except ModuleNotFoundError as error:
                if error.name is None or error.name.split(".")[0] in ("espnet_ext", "espnet2", "espnet"):
                    raise
                raise UserError(
                    f"{self.name}: {name!r} needs the package {error.name!r}; pip install {error.name}"
                ) from None
            self.classes[name.lower()] = target
        return target
