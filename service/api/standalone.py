"""Headers of a page that stands alone: it styles itself and shows the pictures inside it. Nothing runs, nothing is loaded."""

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'; sandbox"
    ),
    "x-content-type-options": "nosniff",
}
