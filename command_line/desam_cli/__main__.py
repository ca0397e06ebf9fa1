"""``python -m desam_cli`` is ``desam``, for a Python whose scripts are not on the path (Slicer's)."""

import sys

from . import main

sys.exit(main())
