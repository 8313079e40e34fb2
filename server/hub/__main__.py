"""The hub in the foreground, as `fedglia hub start` runs it in the background: `python -m server.hub HUB`."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from common.service_logs import LINE, TIME, run_program
from server.hub.folder import open_hub
from server.hub.running import run_in_foreground


def main() -> None:
    """Run the hub in the folder that is named; what goes wrong is one line on standard error."""
    logging.basicConfig(level=logging.WARNING, format=LINE, datefmt=TIME)
    run_program(lambda: run_in_foreground(open_hub(Path(sys.argv[1]))))


if __name__ == "__main__":
    main()
