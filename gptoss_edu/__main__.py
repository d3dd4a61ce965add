"""`python -m gptoss_edu`: see `cli`."""

import sys

from gptoss_edu.commands.cli import main

if __name__ == "__main__":
    sys.exit(main())
