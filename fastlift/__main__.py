"""``python -m fastlift``, and ``torchrun -m fastlift``."""

import sys

from fastlift.cli import main

sys.exit(main())
