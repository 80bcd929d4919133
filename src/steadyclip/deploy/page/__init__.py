"""The page that names an image. Only what answers differs: a service (``service.js``), or the browser itself
(``browser.js`` with ``pixels.js``)."""

from importlib.resources import files


def asset(name: str) -> str:
    """The text of a file of this folder."""
    return (files(__name__) / name).read_text(encoding="utf-8")


def page_of(head: str, script: str) -> str:
    """The page. ``head`` goes into its head; ``script``, a script element, sets ``globalThis.backend``."""
    return asset("page.html").replace("<!-- head -->", head).replace("<!-- backend -->", script)
