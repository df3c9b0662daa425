"""Runs as HTML pages for people."""
