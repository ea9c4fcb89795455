"""Pilotage teaches vision-language models to plan from pixels: the teacher reads the chart, the student looks out."""

__version__ = "0.1.0"
