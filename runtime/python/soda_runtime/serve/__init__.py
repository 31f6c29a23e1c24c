"""Serve a bundle over HTTP with the OpenAI images API: `serve_bundle`. Needs the extra `serve`, and no torch."""
