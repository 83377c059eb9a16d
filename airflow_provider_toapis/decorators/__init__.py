"""Decorators: a function says what is wanted, an operator does it."""
