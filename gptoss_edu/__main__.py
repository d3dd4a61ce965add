"""`python -m gptoss_edu`: see `commands/main.py`."""

import sys

from gptoss_edu.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
