"""The pilot study: where entropy lies, and which branches differ (`python -m extras.pilot`)."""
