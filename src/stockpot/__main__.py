"""``python -m stockpot`` is ``stockpot``."""

import sys

from stockpot.cli.main import main

sys.exit(main())
