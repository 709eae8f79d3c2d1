"""``python -m roomhub`` and the console script ``roomhub``."""

import sys

from roomhub.cli import main

if __name__ == "__main__":
    sys.exit(main())
