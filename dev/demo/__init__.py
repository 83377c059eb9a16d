"""The demo: a local ToAPIs emulator and a real Airflow that makes videos for a product catalog."""
