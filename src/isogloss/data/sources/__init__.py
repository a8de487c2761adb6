"""Documents read from text files, JSON lines, Parquet files and datasets of the hub, as ``isogloss.data`` uses them."""

from isogloss.data.sources.account import Account
from isogloss.data.sources.bad_input import BadInput
from isogloss.data.sources.filters import FilterConfig
from isogloss.data.sources.listing import Listing, list_inputs, list_units
from isogloss.data.sources.reading import read_documents, read_unit
from isogloss.data.sources.records import BadRecord, Document, Dropped, Suspicion
from isogloss.data.sources.units import ReadSettings, Unit

__all__ = [
    "Account",
    "BadInput",
    "BadRecord",
    "Document",
    "Dropped",
    "FilterConfig",
    "Listing",
    "ReadSettings",
    "Suspicion",
    "Unit",
    "list_inputs",
    "list_units",
    "read_documents",
    "read_unit",
]
