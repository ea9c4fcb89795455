"""`python -m pilotage.cli` is `pilotage`."""

import sys

from pilotage.cli.main import main

sys.exit(main())
