"""``python -m compare.play``."""

import sys

from compare.play import main

sys.exit(main())
