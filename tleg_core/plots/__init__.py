"""Figures as PNG and SVG: curves of runs, accuracy by depth. matplotlib is imported here and nowhere else."""
