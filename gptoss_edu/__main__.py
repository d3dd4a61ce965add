"""`python -m gptoss_edu`: see `cli`."""

import sys

from gptoss_edu.cli import main

if __name__ == "__main__":
    sys.exit(main())
