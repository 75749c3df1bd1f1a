"""How shape types are checked in tests: an int is a float, as in type hints."""

import beartype

check = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))
