"""``python -m aliquot.agent`` is the ``aliquot`` command."""

import sys

from .cli import main

sys.exit(main())
