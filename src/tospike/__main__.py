"""Let ``python -m tospike`` do what ``tospike`` does."""

import sys

from tospike.cli import main

sys.exit(main())
