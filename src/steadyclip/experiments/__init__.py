"""Tables of the field: rows, protocols, cells, and where the cells run."""
