"""Turn the Sphinx roles of docstrings, which help() readers know, into what Markdown shows."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:attr|class|func|meth|mod):`~?(?P<target>[^`]+)`")


class Roles(griffe.Extension):
    """Reads ``:func:`sparselinear.kernels.use``` as code, so that docstrings need no second form."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of one object."""
        if obj.docstring:
            obj.docstring.value = ROLE.sub(r"`\g<target>`", obj.docstring.value)
