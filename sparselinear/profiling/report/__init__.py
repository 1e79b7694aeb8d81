"""The report: profiles as one HTML page that needs nothing else and can be passed on."""

from .render import render_html

__all__ = ["render_html"]
