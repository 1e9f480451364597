"""Errors that carry HTTP status and problem type (RFC 9457). One handler, in api/app.py, turns them into answers."""

from __future__ import annotations


class FlawscribeError(Exception):
    """Base of every expected error. The message says what was wrong, with what, and what to do."""

    status = 500
    type = "about:blank"
    title = "Internal error"

    def __init__(self, detail: str, *, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after = retry_after  # seconds


class UnreadableImage(FlawscribeError):
    """The bytes are not a picture that this service reads."""

    status, type, title = 400, "/problems/unreadable-image", "Unreadable image"


class BadRequest(FlawscribeError):
    """The request's body does not have the promised form."""

    status, type, title = 400, "/problems/bad-request", "Bad request"


class Unauthorized(FlawscribeError):
    """No valid API key was given."""

    status, type, title = 401, "/problems/unauthorized", "API key needed"


class Forbidden(FlawscribeError):
    """The key's scopes do not cover this."""

    status, type, title = 403, "/problems/forbidden", "Not allowed"


class NoSuchModel(FlawscribeError):
    """No bundle of that name or version."""

    status, type, title = 404, "/problems/no-such-model", "No such model"


class NoSuchRecord(FlawscribeError):
    """No inspection or part of that id is recorded."""

    status, type, title = 404, "/problems/no-such-record", "No such record"


class NoSuchReport(FlawscribeError):
    """The bundle was written without a report.html."""

    status, type, title = 404, "/problems/no-such-report", "No such report"


class NoSuchTraining(FlawscribeError):
    """No training of that id, or no such file of it."""

    status, type, title = 404, "/problems/no-such-training", "No such training"


class NotAcceptable(FlawscribeError):
    """The asked media type cannot be given for this request."""

    status, type, title = 406, "/problems/not-acceptable", "Not acceptable"


class Conflict(FlawscribeError):
    """The request clashes with the present state."""

    status, type, title = 409, "/problems/conflict", "Conflict"


class TooLarge(FlawscribeError):
    """The body, the picture or the number of pictures is over a limit."""

    status, type, title = 413, "/problems/too-large", "Too large"


class UnsupportedMediaType(FlawscribeError):
    """The body's media type is none of those accepted."""

    status, type, title = 415, "/problems/unsupported-media-type", "Unsupported media type"


class InvalidParameter(FlawscribeError):
    """A query parameter, header or field has a value that is not allowed, or a name that is not known."""

    status, type, title = 422, "/problems/invalid-parameter", "Invalid parameter"


class Overloaded(FlawscribeError):
    """The queue is full; retry_after says when it should have room."""

    status, type, title = 429, "/problems/overloaded", "Overloaded"


class NotInstalled(FlawscribeError):
    """This installation lacks what the operation needs; the detail says how to install it."""

    status, type, title = 501, "/problems/not-installed", "Not installed"


class NetworkFailure(FlawscribeError):
    """The network could not be run on this picture."""

    status, type, title = 503, "/problems/network-failure", "Network failure"


class NotReady(FlawscribeError):
    """Not warmed up yet, draining, or without a model in service."""

    status, type, title = 503, "/problems/not-ready", "Not ready"


class RecordsBusy(FlawscribeError):
    """More waits to be recorded than the queue holds; retry_after says when it should have room."""

    status, type, title = 503, "/problems/records-busy", "Records busy"


class RecordsFailure(FlawscribeError):
    """The database or the folder of pictures did not take or give what was asked of it."""

    status, type, title = 503, "/problems/records-failure", "Records failure"


class DeadlineExceeded(FlawscribeError):
    """The caller's deadline passed before the picture was judged."""

    status, type, title = 504, "/problems/deadline-exceeded", "Deadline exceeded"


class BundleRefused(FlawscribeError):
    """A model folder does not keep its promises; the detail lists which."""

    status, type, title = 409, "/problems/bundle-refused", "Bundle refused"


class SettingsError(FlawscribeError):
    """The configuration cannot be used as given."""
