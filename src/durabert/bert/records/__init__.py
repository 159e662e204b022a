"""Reading files of rows: CSV, TSV, JSON lines, JSON, Parquet and Arrow, one record at a time."""

from durabert.bert.records.base import Record, RecordSource
from durabert.bert.records.formats import SUFFIXES, format_of, local_path, open_records

__all__ = ["SUFFIXES", "Record", "RecordSource", "format_of", "local_path", "open_records"]
