"""Development tools: local services, demo, cluster, benchmarks, scripts."""
