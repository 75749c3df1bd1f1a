"""Types of arguments and results: `gm.typing`."""

from collections.abc import Mapping
from typing import Any
from typing import TypeAlias

# Nested, from names to arrays.
Params: TypeAlias = Mapping[str, Any]
