"""Documents read from text files, JSON lines, Parquet files and datasets of the hub, as ``isogloss.data`` uses them."""

from isogloss.data.sources.fingerprint import fingerprint_inputs
from isogloss.data.sources.reading import ReadSettings, read_documents, read_unit
from isogloss.data.sources.records import BadRecord, Document, Dropped
from isogloss.data.sources.units import Unit, list_units

__all__ = [
    "BadRecord",
    "Document",
    "Dropped",
    "ReadSettings",
    "Unit",
    "fingerprint_inputs",
    "list_units",
    "read_documents",
    "read_unit",
]
