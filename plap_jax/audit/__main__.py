"""``python -m plap_jax.audit``: the same as ``plap-audit``."""

import sys

from plap_jax.audit.command_line import main

if __name__ == "__main__":
    sys.exit(main())
