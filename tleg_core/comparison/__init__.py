"""Initialisations against each other at equal data, steps and seeds: `tleg compare`.

`config` says what is compared, `plan` makes a graph of small units of it, `runs` and `execution` carry them out, `results`
keeps what came out, and `statistics`, `claims`, `report` and `plots` say what it means.
"""
