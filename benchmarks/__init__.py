"""Measurements beside other ways and beside the limit; `RESULTS.md` holds the last ones."""
