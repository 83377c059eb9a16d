"""Tools of this project's developers: local services, demo, cluster, benchmarks, scripts."""
