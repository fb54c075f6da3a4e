"""The command line: one module per verb, each a thin adapter over one typed function."""

import sys

if sys.argv[1:2] == ["serve"]:  # before the imports of the other modules, which take a third of a second
    from delrec_lite.server.signals import catch_first

    catch_first()
