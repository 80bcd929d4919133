"""Protocols: which trainings and evaluations make a table."""
