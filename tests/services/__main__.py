"""`python -m services` gets the services; `make test`, `chaos` and `bench` begin with it."""

import sys

from services import install

sys.exit(install.main())
