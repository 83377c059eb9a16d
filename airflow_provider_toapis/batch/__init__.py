"""Many videos driven by one task: what is wanted, what is there, what it costs, and how it comes about."""
