"""All exceptions of whyrank.

    WhyrankError
    ├── PermanentError          the same call will fail again: change it
    │   ├── InvalidRequest      the query, the documents or an option cannot be used
    │   ├── PromptFileError     a prompt file is wrong; names file and key
    │   ├── CheckpointError     this checkpoint cannot be served as configured
    │   ├── DataError           evaluation data are wrong; names file and line
    │   ├── EvalNotInstalled    the extra packages for evaluation are not installed
    │   ├── EngineNotInstalled  the light install has no engine
    │   ├── FrameworkMissing    an adapter's framework is not installed
    │   ├── TooLarge            the server does not accept a request of this size
    │   └── Unauthorized        the server requires an API key, or a different one
    └── RetryableError          the same call may succeed later, or on another replica
        ├── EngineDead          the engine process is gone; every call fails until a new one is started
        ├── EnginePaused        the engine takes no requests for a while, to load weights for example
        ├── Overloaded          the server has too much to do; `retry_after` is the number of seconds to wait
        ├── RequestTimeout      the body of a request did not arrive in time
        ├── Stopping            the server is shutting down and accepts no new requests
        ├── CannotWrite         a full disk, a missing or protected folder; names the file
        └── Unreachable         no usable answer: no connection, an incomplete answer, or none in time
            └── MixedModels     parts of one answer came from different models or prompts; names them

A document that cannot be scored raises nothing: its row has a `DocumentError` (types.py).
"""

from __future__ import annotations

__all__ = [
    "INSTALL_ENGINE",
    "CannotWrite",
    "CheckpointError",
    "DataError",
    "EngineDead",
    "EngineNotInstalled",
    "EnginePaused",
    "EvalNotInstalled",
    "FrameworkMissing",
    "InvalidRequest",
    "MixedModels",
    "Overloaded",
    "PermanentError",
    "PromptFileError",
    "RequestTimeout",
    "RetryableError",
    "Stopping",
    "TooLarge",
    "Unauthorized",
    "Unreachable",
    "WhyrankError",
]

INSTALL_ENGINE = "`whyrank install-engine` installs it (in a checkout: scripts/setup)"
"""The remedy in every EngineNotInstalled that an installation would fix."""


class WhyrankError(Exception):
    """Root of the tree above. The message names the item and the remedy.

    Over HTTP, `status` and `request_id` are the server's; its log has more under that id.
    """

    status: int | None = None
    request_id: str | None = None


class PermanentError(WhyrankError):
    pass


class InvalidRequest(PermanentError, ValueError):
    pass


class PromptFileError(PermanentError, ValueError):
    pass


class CheckpointError(PermanentError):
    pass


class DataError(PermanentError, ValueError):
    pass


class EvalNotInstalled(PermanentError, ImportError):
    pass


class EngineNotInstalled(PermanentError, ImportError):
    pass


class FrameworkMissing(PermanentError, ImportError):
    pass


class TooLarge(PermanentError):
    pass


class Unauthorized(PermanentError):
    pass


class RetryableError(WhyrankError):
    """`retry_after`: seconds to wait before the next attempt, if the server gave them."""

    retry_after: int | None = None


class CannotWrite(RetryableError):
    pass


class EngineDead(RetryableError):
    pass


class EnginePaused(RetryableError):
    pass


class Overloaded(RetryableError):
    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RequestTimeout(RetryableError):
    pass


class Stopping(RetryableError):
    pass


class Unreachable(RetryableError):
    pass


class MixedModels(Unreachable):
    pass
