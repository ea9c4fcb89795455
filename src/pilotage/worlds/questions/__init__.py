"""Questions about pictures: their grading, and their data sets."""
