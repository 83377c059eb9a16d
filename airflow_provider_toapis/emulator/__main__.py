"""The command ``python -m airflow_provider_toapis.emulator``."""

from __future__ import annotations

import sys

try:
    from airflow_provider_toapis.emulator.command import main
except ImportError as error:
    sys.stderr.write(
        f"The ToAPIs emulator needs {error.name}: pip install 'airflow-provider-toapis[emulator]'\n",
    )
    sys.exit(2)

if __name__ == "__main__":
    main()
