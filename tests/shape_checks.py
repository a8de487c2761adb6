"""The checker of the shapes in signatures while tests run: beartype, an int passing for a float as in PEP 484."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
