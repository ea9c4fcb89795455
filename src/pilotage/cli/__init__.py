"""The command line: one small file per group of commands; heavy layers are imported when a command runs."""
