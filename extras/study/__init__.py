"""The study: which method learns how fast, at which cost (`python -m extras.study`)."""
