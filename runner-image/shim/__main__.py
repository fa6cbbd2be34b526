"""Entry: `python3 -I -S /opt/aiagentchat/shim`."""

import os
import sys

# Run as a directory, sys.path starts with that directory; the package is found from its parent.
_FOLDER = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100,PTH120 -- pathlib costs memory
sys.path[0] = os.path.dirname(_FOLDER)  # noqa: PTH120 -- as above

from shim.main import main  # noqa: E402 -- after the path

if __name__ == "__main__":
    sys.exit(main())
