"""The laboratory: twelve data sets made from drawings, where something can be won and lost."""
