"""The table of layer semantics, row by row."""

from __future__ import annotations

from layer_row import Row, archives, meant
from layer_rows_attributes import ATTRIBUTES
from layer_rows_ends import ENDS, WIDE
from layer_rows_formats import FORMATS, gnu_sparse
from layer_rows_links import LINKS
from layer_rows_names import NAMES
from layer_rows_whiteouts import WHITEOUTS

ROWS = WHITEOUTS + LINKS + NAMES + FORMATS + ATTRIBUTES + ENDS + WIDE

__all__ = ["ATTRIBUTES", "ROWS", "Row", "archives", "gnu_sparse", "meant"]
