"""Hooks: make a ToAPIs client from an Airflow connection."""
