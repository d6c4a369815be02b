"""The studio: direct a film in the browser while it is being made."""
