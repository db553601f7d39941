"""Text from files in messages: shortened, without control characters, without passwords."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

#: Characters of a value that a message shows.
VALUE_LENGTH = 80
#: Characters of a whole message.
MESSAGE_LENGTH = 2000

#: ``scheme://user:password@``; also a bare token before the @.
_CREDENTIALS = re.compile(r"(?P<scheme>\b[a-zA-Z][a-zA-Z0-9+.-]+:/{1,2})[^\s/?#'\"]+@")
#: Query parameters that are secrets in signed URLs, and the hub's tokens wherever they stand.
_SECRETS = re.compile(
    r"(?P<name>[?&;#](?:[\w.-]*(?:token|signature|secret|password|passwd|credential|api[_-]?key|access[_-]?key)[\w.-]*"
    r"|sig|key|pwd|auth)=)"
    r"[^&;#\s'\"]+",
    re.IGNORECASE,
)
_TOKENS = re.compile(r"\bhf_[A-Za-z0-9]{16,}\b")
_HEADERS = re.compile(r"(?P<name>\b(?:Bearer|Basic)\s+)[A-Za-z0-9+/_.~=-]{8,}")
#: Categories of characters that a terminal or an editor acts on instead of showing them.
_ACTING = ("Cc", "Cf", "Cs", "Zl", "Zp")


def shown(value: Any, length: int = VALUE_LENGTH) -> str:
    """A value as messages show it: its ``repr``, cut after ``length`` characters.

    >>> shown("a" * 200, 10)
    "'aaaaaaaa…"

    Args:
        value: anything, of any size.
        length: characters at most.
    """
    if isinstance(value, str):
        value = value[: length + 1]  # the rest would only be made to be cut off
    elif isinstance(value, (list, tuple)) and len(value) > length:
        value = value[:length]
    elif isinstance(value, int) and abs(value) > 10**length:
        return f"a number of about {value.bit_length() * 30103 // 100000 + 1} digits"
    try:
        text = repr(value)
    except Exception:  # nested too deeply, an integer of more digits than Python prints, an object of another package
        text = f"<{type(value).__name__}>"
    text = printable(re.sub(r"\s*\n\s*", " ", text))  # arrays have several lines
    return text if len(text) <= length else f"{text[: length - 1]}…"


def printable(text: str) -> str:
    r"""Text that does nothing to a terminal: control, direction and half characters are written as escapes.

    Letters of every script stay as they are.

    >>> printable("\x1b[2Jname.jpg")
    '\\x1b[2Jname.jpg'

    Args:
        text: of a file, a URL or a name; may have lines.
    """
    if text.isprintable():
        return text
    return "".join(c if c == "\n" or unicodedata.category(c) not in _ACTING else _escaped(c) for c in text)


def one_line(text: str) -> str:
    """``printable``, and line ends are escapes too, for names inside lines."""
    return printable(text).replace("\n", "\\n")


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"


def without_credentials(text: str) -> str:
    """Text whose URLs have lost user names, passwords and signatures; hub tokens are gone too.

    >>> without_credentials("https://me:secret@host/file")
    'https://***@host/file'

    Args:
        text: a message.
    """
    text = _CREDENTIALS.sub(r"\g<scheme>***@", text)
    text = _HEADERS.sub(r"\g<name>***", _SECRETS.sub(r"\g<name>***", text))
    return _TOKENS.sub("hf_***", text)


def message(text: str) -> str:
    """A message as users may see it, whatever was put into it: one printable line, no credentials, not endless."""
    text = without_credentials(one_line(text))
    return text if len(text) <= MESSAGE_LENGTH else f"{text[: MESSAGE_LENGTH - 1]}…"
