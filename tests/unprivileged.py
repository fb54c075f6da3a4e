"""A child process of root gives up the capability to write anywhere, so that read-only folders can be tested."""

import ctypes
import os

DROP_FROM_BOUNDING_SET, OVERRIDE, READ_SEARCH = 24, 1, 2


def without_privileges():
    """To be called in a child between fork and exec; from then on the modes of files hold."""
    if os.geteuid() == 0:
        library = ctypes.CDLL(None, use_errno=True)
        for capability in (OVERRIDE, READ_SEARCH):
            if library.prctl(DROP_FROM_BOUNDING_SET, capability, 0, 0, 0):
                raise OSError(ctypes.get_errno(), "cannot give up a capability")
