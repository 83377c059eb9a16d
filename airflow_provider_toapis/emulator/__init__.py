"""Emulator of the ToAPIs video endpoints on localhost, for demos and tests.

``python -m airflow_provider_toapis.emulator --port 8790`` serves the endpoints on 127.0.0.1. The videos are real
files, the balance is fictitious, and faults can be injected. The emulator imports neither Airflow nor the rest of this
package. ``docs/emulator.md`` describes it.
"""
