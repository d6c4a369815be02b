"""The HTTP and WebSocket routes of the studio, one FastAPI router for each resource."""
