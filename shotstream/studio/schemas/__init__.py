"""Pydantic models of everything that goes over the wire: WebSocket messages and bodies of REST routes.

Every model forbids unknown fields, checks types strictly, and is immutable. docs/studio_protocol.md shows
them; a test compares the two.
"""
