"""What a user reads when something is wrong: what, the value got, what was expected, what to do."""

from __future__ import annotations

import errno
import importlib
from types import ModuleType
from typing import Any

_SHOWN = 160


class StyleAvatarError(Exception):
    """Bad input or an unusable environment. The command line prints it alone and leaves with exit code 2."""

    exit_code = 2

    def __init__(self, what: str, *, got: Any = None, expected: str | None = None, remedy: str | None = None):
        lines = [what]
        if got is not None:
            lines.append(f"  got:      {_shorten(got)}")
        if expected:
            lines.append(f"  expected: {expected}")
        if remedy:
            lines.append(f"  remedy:   {remedy}")
        super().__init__("\n".join(lines))
        self.what = what


class ConfigError(StyleAvatarError):
    """A configuration that names an unknown key or holds a value out of range."""


class Stopped(StyleAvatarError):
    """Work was stopped on request; everything committed is kept and the same command resumes it."""

    exit_code = 3


def require(module: str, extra: str) -> ModuleType:
    """Import an optional dependency, or say which extra installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise StyleAvatarError(
            f"{module.partition('.')[0]} is needed here but cannot be imported ({error})",
            remedy=f"pip install 'styleavatar3d[{extra}]'",
        ) from error


_FREE_SPACE = "free some space, then run the same command again: what is committed is kept"
_ANOTHER_PLACE = "choose a folder of yours with --out or --run.out"
_DISK_TROUBLE = {
    errno.ENOSPC: ("the disk is full", _FREE_SPACE),
    errno.EDQUOT: ("the quota is used up", _FREE_SPACE),
    errno.EACCES: ("no permission", _ANOTHER_PLACE),
    errno.EPERM: ("not permitted", f"{_ANOTHER_PLACE}, on a file system with hard links"),
    errno.EROFS: ("the file system is read-only", _ANOTHER_PLACE),
    errno.ENOENT: ("it does not exist", "check the path"),
    errno.ENOTDIR: ("a file stands where a folder is expected", "give another path, or move the file away"),
    errno.EISDIR: ("a folder stands where a file is expected", "give another path"),
    errno.EEXIST: ("a file stands where a folder is expected", "give another path, or move the file away"),
}


def disk_trouble(error: OSError) -> tuple[str, str] | None:
    """What an error of the file system means and what to do; None if it is not one that a user can mend."""
    return _DISK_TROUBLE.get(error.errno or 0)


def _shorten(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"
