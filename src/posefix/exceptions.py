"""Every exception that a user's mistake can raise.

    PosefixError (ValueError)
    ├── InputError          an argument has the wrong shape, type or value
    │   └── SkeletonError   poses or weights belong to another keypoint set, or one is ill-defined
    ├── ImageError          an image cannot be opened or is not an image
    ├── FileFormatError     a JSON file is not what it should be
    ├── WeightsError        weights or their configuration cannot be found or do not fit
    ├── TrainingError       a training configuration is wrong, or training broke off
    └── MissingDependencyError   an optional package is needed and not installed

All are ``ValueError`` too, so code that knows nothing of posefix can catch them.
``AssertionError`` from this package is a bug of this package.
"""

from __future__ import annotations

from posefix.messages import message


class PosefixError(ValueError):
    """Base of all exceptions raised for user mistakes; the message says how to fix them.

    What files and URLs brought into the message is made harmless: no control characters, no passwords.

    Examples:
        >>> try:
        ...     load_image("no such file.jpg")
        ... except PosefixError as error:
        ...     print(type(error).__name__)
        ImageError
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*(message(a) if isinstance(a, str) else a for a in args))


class InputError(PosefixError):
    """An argument has the wrong shape, type or value."""


class SkeletonError(InputError):
    """A keypoint set is ill-defined, or poses and weights belong to different ones."""


class ImageError(PosefixError):
    """An image cannot be opened, or an array is not an image."""


class FileFormatError(PosefixError):
    """A file does not have the format that its use requires."""


class WeightsError(PosefixError):
    """Weights cannot be found, are damaged, or do not fit their configuration."""


class TrainingError(PosefixError):
    """A training configuration is wrong, or training had to stop."""


class MissingDependencyError(PosefixError, ImportError):
    """An optional package is needed; the message gives the install line."""
