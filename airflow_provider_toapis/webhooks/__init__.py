"""Receiver of the service's webhooks, a plugin for the API server of Airflow 3."""
