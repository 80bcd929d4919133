"""Drawings of many teams: what each set of ``@iconify/json`` holds, who trains, who tests, who pretrains."""
