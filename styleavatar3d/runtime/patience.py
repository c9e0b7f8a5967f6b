"""Patience: a trouble of a disk, a network or a server that may pass is waited out, a bounded number of times.

The pauses grow twofold and are drawn evenly from zero up to that ("full jitter"), so that a thousand workers that were
refused together do not come back together. Libraries below are told to try once: what is counted here is all there is.
"""

import logging
import random
import time
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from styleavatar3d.errors import StyleAvatarError

TRIES = 8
FIRST = 0.5
"""seconds; the longest first pause"""
LONGEST = 30.0
"""seconds; with eight tries the pauses are 31 s together on average, 62 s at most"""

log = logging.getLogger(__name__)
Given = ParamSpec("Given")
Result = TypeVar("Result")


class TransientError(StyleAvatarError):
    """A trouble that may pass: the same call can succeed later."""


def patient(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Call again after a TransientError, `TRIES` times in all; the last one is raised. For idempotent functions."""

    @wraps(function)
    def persevere(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        for number in range(1, TRIES):
            try:
                return function(*args, **kwargs)
            except TransientError as error:
                pause = random.uniform(0, min(LONGEST, FIRST * 2 ** (number - 1)))
                log.warning("%s; again in %.1f s, try %d of %d", error.what, pause, number + 1, TRIES)
                time.sleep(pause)
        return function(*args, **kwargs)

    return persevere
