"""The report's page -> PDF, where WeasyPrint (the extra `pdf`) and its library Pango are installed."""

from __future__ import annotations

import importlib
from typing import Any

from PIL import ImageFile

from service.errors import NotAcceptable

_MODULE = "weasyprint"


def report_pdf(page: str) -> bytes:
    """The page as PDF bytes. Nothing outside the page is read: only data URIs are followed. Raises NotAcceptable where
    WeasyPrint or Pango is missing."""
    weasyprint = _weasyprint()
    fetcher = weasyprint.urls.URLFetcher(allowed_protocols={"data"}, allow_redirects=False)
    pdf: bytes = weasyprint.HTML(string=page, url_fetcher=fetcher).write_pdf()
    return pdf


def _weasyprint() -> Any:
    lenient = ImageFile.LOAD_TRUNCATED_IMAGES
    try:
        importlib.import_module(f"{_MODULE}.urls")
        return importlib.import_module(_MODULE)
    except ModuleNotFoundError as error:
        raise NotAcceptable(
            "a PDF needs WeasyPrint, which is not installed (pip install 'flawscribe[pdf]'); HTML, JSON and CSV do not"
        ) from error
    except OSError as error:
        raise NotAcceptable(
            f"a PDF needs the library Pango, which WeasyPrint does not find (Debian: libpango-1.0-0 libpangoft2-1.0-0): {error}"
        ) from error
    finally:
        # WeasyPrint sets this for the whole process when it is imported; a picture cut short would be judged, its rest black
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient
