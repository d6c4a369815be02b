"""The studio: a web application to direct a film while it is being generated."""
