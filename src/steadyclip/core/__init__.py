"""What every floor stands on: errors, files, locks, seeds, precision, progress. Imports nothing of the project."""
