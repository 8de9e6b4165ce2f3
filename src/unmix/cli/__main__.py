"""`python -m unmix.cli` is `unmix`."""

import sys

from unmix.cli import main

if __name__ == "__main__":
    sys.exit(main())
