"""Driving: logged frames, their planners' measures, baselines and views."""
