"""A bundle or a sweep -> one HTML file that needs no network."""
