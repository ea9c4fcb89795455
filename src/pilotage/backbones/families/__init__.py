"""Families of models, one file each; every module here holds its own as `FAMILY` (`pilotage.backbones.base`)."""
