"""Reports over a span of records: gather.py -> ReportData -> html.py, table.py (JSON, CSV), pdf.py."""
