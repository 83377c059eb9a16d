"""ToAPIs on localhost, for demonstrations and tests.

``python -m airflow_provider_toapis.emulator --port 8790`` serves the ToAPIs endpoints for video on 127.0.0.1, with
real videos, real (play) money and every fault on order. It imports nothing of the rest of the package and nothing of
Airflow. ``docs/emulator.md`` describes it.
"""
