"""Programs that read and print the same in every locale."""

from __future__ import annotations

import locale
import os
import sys


def use_utf8() -> None:
    """Starts the program again in Python's UTF-8 mode where the locale is another; printing never raises.

    Call first in a program. The project's files and the data are UTF-8; processes that are started inherit the mode.
    """
    if locale.getpreferredencoding(False).lower().replace("-", "") != "utf8":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # PYTHONIOENCODING may say ascii
